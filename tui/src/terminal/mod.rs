//! The dashboard in a real terminal: one loop, and threads that only send it signals.

mod screen;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use bellows_record::control::{Acknowledgement, ClientError, Command, send};
use crossterm::event::{self, Event, KeyEventKind, MouseButton, MouseEventKind};

use crate::app::{App, Effect, Options, Question, Screen, Verdict};
use crate::keys::Action;
use crate::store::{HomeFollower, Notify, RunFollower};
use crate::{launch, view};
use screen::Screen as Terminal;

/// Time after which the screen is drawn again though nothing happened: ages go on.
const TICK: Duration = Duration::from_secs(1);

/// Least time between two drawings: a slow line is not flooded.
const FRAME: Duration = Duration::from_millis(40);

enum Signal {
    Input(Event),
    /// The terminal is gone.
    Gone,
    /// The store has something new.
    Data,
    Answer(Command, Result<Acknowledgement, ClientError>),
    /// An edition of the form was resolved.
    Resolved(u64, Result<BTreeMap<String, String>, String>),
    /// And here is its plan.
    Plan(u64, Verdict),
    Started(Result<String, String>),
    /// A started program ended.
    Ended(Result<(), String>),
}

/// Shows the dashboard until it is left: `alone` is the one run it is for.
///
/// # Errors
///
/// If the terminal fails.
pub fn run(options: Options, alone: Option<PathBuf>, mouse: bool) -> io::Result<()> {
    let (sender, signals) = channel();
    let data = sender.clone();
    // Nobody listens any more once the dashboard is left.
    let notify: Notify = Arc::new(move || _ = data.send(Signal::Data));
    let home = match &alone {
        Some(_) => HomeFollower::of(Default::default()),
        None => HomeFollower::start(options.root.clone(), notify.clone()),
    };
    let mut app = App::new(options, home, bellows_record::now(), notify.clone());
    if let Some(path) = alone {
        app.open_alone(RunFollower::start(path, notify));
    }
    let mut terminal = Terminal::open(mouse)?;
    let input = sender.clone();
    std::thread::spawn(move || listen(&input));
    watch(&mut app, &mut terminal, &sender, &signals)
}

fn listen(signals: &Sender<Signal>) {
    loop {
        let signal = match event::read() {
            Ok(event) => Signal::Input(event),
            Err(_) => Signal::Gone,
        };
        let gone = matches!(signal, Signal::Gone);
        if signals.send(signal).is_err() || gone {
            return;
        }
    }
}

fn watch(
    app: &mut App,
    terminal: &mut Terminal,
    sender: &Sender<Signal>,
    signals: &Receiver<Signal>,
) -> io::Result<()> {
    let asker = Asker::new(sender);
    loop {
        app.tick(bellows_record::now());
        terminal.draw(|buffer| view::draw(app, buffer))?;
        let drawn = Instant::now();
        let mut wait = TICK;
        loop {
            match signals.recv_timeout(wait) {
                Ok(Signal::Gone) => return Ok(()),
                Ok(signal) => take(app, signal),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            for effect in app.take_effects() {
                perform(effect, &asker, sender.clone());
            }
            if app.ended() {
                return Ok(());
            }
            // What comes until the next drawing is shown together.
            wait = FRAME.saturating_sub(drawn.elapsed());
        }
    }
}

fn take(app: &mut App, signal: Signal) {
    match signal {
        Signal::Input(Event::Key(key)) if key.kind != KeyEventKind::Release => app.key(key),
        Signal::Input(Event::Paste(text)) => app.paste(&text),
        Signal::Input(Event::Mouse(mouse)) => match mouse.kind {
            MouseEventKind::Down(MouseButton::Left) => app.click(mouse.column, mouse.row),
            MouseEventKind::ScrollUp => app.act(Action::Up),
            MouseEventKind::ScrollDown => app.act(Action::Down),
            _ => {}
        },
        Signal::Input(_) | Signal::Data | Signal::Gone => {}
        Signal::Answer(command, answer) => app.answered(&command, answer),
        Signal::Resolved(edition, answer) => {
            if let Screen::Form(form) = &mut app.screen {
                app.overlay = form.resolved(edition, answer).or(app.overlay.take());
            }
        }
        Signal::Plan(edition, verdict) => {
            if let Screen::Form(form) = &mut app.screen {
                form.planned(edition, verdict);
            }
        }
        Signal::Started(Ok(what)) => app.started(what),
        Signal::Started(Err(trouble)) | Signal::Ended(Err(trouble)) => app.complain(trouble),
        Signal::Ended(Ok(())) => {}
    }
}

/// Does what has to be done outside, in threads of their own: the screen waits for nothing.
fn perform(effect: Effect, asker: &Asker, signals: Sender<Signal>) {
    // Nobody listens any more once the dashboard is left.
    let tell = move |signal| _ = signals.send(signal);
    match effect {
        Effect::Ask(question) => asker.ask(&question),
        Effect::Command(run, command) => {
            std::thread::spawn(move || {
                let answer = send(&run, command.clone(), None);
                tell(Signal::Answer(command, answer));
            });
        }
        Effect::Launch(launch) => {
            std::thread::spawn(move || match launch::start(&launch) {
                Ok(started) => {
                    let what = launch.title.trim_end_matches('?');
                    tell(Signal::Started(Ok(format!(
                        "{what}: it appears when its data is ready"
                    ))));
                    tell(Signal::Ended(started.wait()));
                }
                Err(trouble) => tell(Signal::Started(Err(trouble))),
            });
        }
    }
}

/// Asks `bellows` about the form's settings: one program at a time for each of the two answers,
/// and always about the newest question, however fast somebody types.
struct Asker {
    resolve: Sender<Question>,
    plan: Sender<Question>,
}

impl Asker {
    fn new(signals: &Sender<Signal>) -> Self {
        let worker = |answer: fn(&Question) -> Signal| {
            let (sender, questions) = channel::<Question>();
            let signals = signals.clone();
            std::thread::spawn(move || {
                while let Ok(question) = questions.recv() {
                    let newest = questions.try_iter().last().unwrap_or(question);
                    if signals.send(answer(&newest)).is_err() {
                        return;
                    }
                }
            });
            sender
        };
        Self {
            resolve: worker(|question| {
                Signal::Resolved(question.edition, launch::resolve(&question.settings))
            }),
            plan: worker(|question| {
                Signal::Plan(question.edition, launch::plan(&question.settings))
            }),
        }
    }

    fn ask(&self, question: &Question) {
        // The workers live as long as this does.
        let _ = self.resolve.send(question.clone());
        let _ = self.plan.send(question.clone());
    }
}
