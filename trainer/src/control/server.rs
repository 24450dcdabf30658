//! The threads that speak with clients.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bellows_record::RunReader;
use bellows_record::control::{
    Acknowledgement, CONTROL_VERSION, Command, ControlError, ControlErrorKind, ControlListener,
    ControlStream, LONGEST_REQUEST, Outcome, Reply, Request, Status,
};

/// Clients at once. One more is told so and sent away.
const CLIENTS: usize = 128;

/// Time in which a line that was begun has to end.
const LINE: Duration = Duration::from_secs(10);

/// Time for which a client may say nothing.
const IDLE: Duration = Duration::from_secs(120);

/// Time between two looks at whether the run ends.
const LOOK: Duration = Duration::from_millis(200);

/// Time in which a client has to take an answer, and the last ones at the run's end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Stack of a client's thread: it holds a line and little else.
const STACK: usize = 256 << 10;

/// A command that waits for the training loop.
#[derive(Debug)]
pub struct Pending {
    /// What to do. Its values are in their ranges.
    pub command: Command,
    answer: SyncSender<Outcome>,
}

impl Pending {
    /// Tells the client what became of it. One that is gone is not missed.
    pub fn answer(self, outcome: Result<Acknowledgement, ControlError>) {
        let outcome = outcome.map_or_else(Outcome::Error, Outcome::Done);
        let _ = self.answer.try_send(outcome);
    }
}

#[derive(Debug, Default)]
struct Shared {
    status: Mutex<Option<Status>>,
    ending: AtomicBool,
    clients: AtomicUsize,
    left: (Mutex<()>, Condvar),
}

impl Shared {
    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }
}

/// The training loop's end of the control socket. Dropping it says goodbye to every client and
/// removes the socket.
pub struct Control {
    commands: Option<Receiver<Pending>>,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    waker: Option<Box<dyn FnOnce() + Send>>,
}

impl Control {
    /// Listens for the run in `run`, whose record the caller writes.
    ///
    /// # Errors
    /// If no socket can be made. Training can go on without: see [`Control::deaf`].
    pub fn listen(run: &Path) -> io::Result<Self> {
        let run_id = RunReader::open(run)
            .map_err(io::Error::other)?
            .manifest()
            .run_id
            .clone();
        let listener = ControlListener::bind(run, &run_id)?;
        let waker = listener.waker();
        let (sender, commands) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let acceptor = {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("control".into())
                .stack_size(STACK)
                .spawn(move || accept(&listener, &sender, &shared))?
        };
        Ok(Self {
            commands: Some(commands),
            shared,
            acceptor: Some(acceptor),
            waker: Some(Box::new(waker)),
        })
    }

    /// One that hears nothing.
    pub fn deaf() -> Self {
        Self {
            commands: None,
            shared: Arc::default(),
            acceptor: None,
            waker: None,
        }
    }

    /// What clients are told who ask for the status.
    pub fn publish(&self, status: Status) {
        let mut known = self
            .shared
            .status
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *known = Some(status);
    }

    /// A command that waits, if there is one. Costs nothing to speak of where there is none.
    pub fn next(&self) -> Option<Pending> {
        self.commands.as_ref()?.try_recv().ok()
    }

    /// Waits for a command, at most for `time`.
    pub fn wait(&self, time: Duration) -> Option<Pending> {
        match self
            .commands
            .as_ref()
            .map(|commands| commands.recv_timeout(time))
        {
            Some(Ok(pending)) => Some(pending),
            Some(Err(RecvTimeoutError::Timeout)) => None,
            Some(Err(RecvTimeoutError::Disconnected)) | None => {
                std::thread::sleep(time);
                None
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        // Whoever still waits for an answer is told that the run ends.
        drop(self.commands.take());
        if let Some(waker) = self.waker.take() {
            waker();
        }
        if let Some(acceptor) = self.acceptor.take() {
            // It ends by itself or has panicked; either way the socket is gone with it.
            let _ = acceptor.join();
        }
        let end = Instant::now() + FAREWELL;
        let mut guard = self
            .shared
            .left
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while self.shared.clients.load(Ordering::SeqCst) > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            guard = self
                .shared
                .left
                .1
                .wait_timeout(guard, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

fn accept(listener: &ControlListener, commands: &Sender<Pending>, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.is_ending() {
            return;
        }
        let Ok(stream) = accepted else {
            // Out of file handles, most likely: some time, and it may work again.
            std::thread::sleep(LOOK);
            continue;
        };
        if shared.clients.fetch_add(1, Ordering::SeqCst) >= CLIENTS {
            let message = format!("{CLIENTS} clients are connected already; try again");
            let _ = say(stream, ControlError::new(ControlErrorKind::Busy, message));
            leave(shared);
            continue;
        }
        let (commands, for_thread) = (commands.clone(), shared.clone());
        let spawned = std::thread::Builder::new()
            .name("control-client".into())
            .stack_size(STACK)
            .spawn(move || {
                // A client that went away is no trouble of ours.
                let _ = serve(stream, &commands, &for_thread);
                leave(&for_thread);
            });
        if spawned.is_err() {
            leave(shared);
        }
    }
}

fn leave(shared: &Shared) {
    let _guard = shared.left.0.lock().unwrap_or_else(PoisonError::into_inner);
    shared.clients.fetch_sub(1, Ordering::SeqCst);
    shared.left.1.notify_all();
}

/// Tells a client of an error that belongs to no request, and closes.
fn say(mut stream: ControlStream, error: ControlError) -> io::Result<()> {
    stream.write_timeout(Some(LOOK))?;
    stream.write_all(&reply(None, Outcome::Error(error)).to_line())
}

fn reply(id: Option<u64>, outcome: Outcome) -> Reply {
    Reply {
        version: CONTROL_VERSION,
        id,
        outcome,
    }
}

fn serve(mut stream: ControlStream, commands: &Sender<Pending>, shared: &Shared) -> io::Result<()> {
    stream.read_timeout(Some(LOOK))?;
    stream.write_timeout(Some(FAREWELL))?;
    let mut lines = Lines::default();
    loop {
        let line = match lines.next(&mut stream, shared)? {
            Next::Line(line) => line,
            Next::End => return Ok(()),
            Next::Wrong(error) => {
                // What follows has no beginning any more: nothing but closing is left.
                return stream.write_all(&reply(None, Outcome::Error(error)).to_line());
            }
        };
        let answer = match Request::parse(&line) {
            Err((id, error)) => reply(id, Outcome::Error(error)),
            Ok(request) => reply(request.id, ask(request.command, commands, shared)),
        };
        stream.write_all(&answer.to_line())?;
    }
}

/// Answers a status at once; has everything else done by the training loop.
fn ask(command: Command, commands: &Sender<Pending>, shared: &Shared) -> Outcome {
    let ending = || Outcome::Error(ControlError::new(ControlErrorKind::Ending, "the run ends"));
    if command == Command::Status {
        let status = shared
            .status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        return match status {
            Some(status) => Outcome::Done(Acknowledgement {
                step: status.step,
                status: Some(Box::new(status)),
                ..Acknowledgement::default()
            }),
            None => Outcome::Error(ControlError::new(
                ControlErrorKind::Unavailable,
                "the run has only just begun",
            )),
        };
    }
    let (answer, answered) = mpsc::sync_channel(1);
    if commands.send(Pending { command, answer }).is_err() {
        return ending();
    }
    // The loop answers between two steps, or drops the command when it ends.
    answered.recv().unwrap_or_else(|_| ending())
}

enum Next {
    Line(Vec<u8>),
    Wrong(ControlError),
    End,
}

/// Whole lines of what a client sends, however it is cut into pieces.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    fn next(&mut self, stream: &mut impl Read, shared: &Shared) -> io::Result<Next> {
        let began = Instant::now();
        let wrong = |kind, message: String| Ok(Next::Wrong(ControlError::new(kind, message)));
        let mut seen = 0;
        loop {
            if let Some(end) = self.bytes[seen..].iter().position(|&byte| byte == b'\n') {
                let rest = self.bytes.split_off(seen + end + 1);
                let line = std::mem::replace(&mut self.bytes, rest);
                if line.len() > LONGEST_REQUEST {
                    return wrong(ControlErrorKind::TooLong, too_long());
                }
                return Ok(Next::Line(line));
            }
            seen = self.bytes.len();
            if seen > LONGEST_REQUEST {
                return wrong(ControlErrorKind::TooLong, too_long());
            }
            if shared.is_ending() {
                return Ok(Next::End);
            }
            if seen > 0 && began.elapsed() > LINE {
                let message = format!(
                    "a request's line has to end within {} seconds",
                    LINE.as_secs()
                );
                return wrong(ControlErrorKind::TooSlow, message);
            }
            if began.elapsed() > IDLE {
                return Ok(Next::End);
            }
            let mut piece = [0; 4096];
            match stream.read(&mut piece) {
                Ok(0) => return Ok(Next::End),
                Ok(count) => self.bytes.extend_from_slice(&piece[..count]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
    }
}

fn too_long() -> String {
    format!("a request's line has at most {LONGEST_REQUEST} bytes")
}
