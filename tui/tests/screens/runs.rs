//! Runs to look at: a record that is written and read as a real one is, with its clock frozen.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bellows_record::time::{OffsetDateTime, UtcOffset};
use bellows_record::{
    DeviceInfo, Event, EventKind, Liveness, MemoryRow, ModelSummary, RouterRow, RoutingRow,
    RunInfo, RunState, RunSummary, RunWriter, Sample, StepMetrics,
};
use bellows_tui::app::{
    App, Effect, Form, Options, Overlay, Plan, Prompt, PromptKind, Question, Screen, TextLine,
    Verdict,
};
use bellows_tui::store::{HomeData, HomeFollower, HomeRow, Loading, RunData, RunFollower, Shared};
use bellows_tui::theme::{Glyphs, Theme, ThemeName};
use crossterm::event::KeyCode;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

/// Steps of the recorded run.
const STEPS: u64 = 400;
/// Steps between its records of routing and memory.
const EVERY: u64 = 10;

/// The terminal that a screen is drawn on.
pub struct Setting {
    width: u16,
    height: u16,
    theme: ThemeName,
    pub ascii: bool,
    pub read_only: bool,
}

impl Setting {
    pub fn new(width: u16, height: u16, theme: ThemeName) -> Self {
        Self {
            width,
            height,
            theme,
            ascii: false,
            read_only: false,
        }
    }

    fn options(&self) -> Options {
        Options {
            root: PathBuf::from("runs"),
            examples: PathBuf::from("no/such/folder"),
            read_only: self.read_only,
            theme: Theme::new(self.theme),
            glyphs: Glyphs { ascii: self.ascii },
            offset: UtcOffset::UTC,
        }
    }

    /// The dashboard with a list of runs.
    pub fn app(&self, home: HomeData) -> App {
        App::new(
            self.options(),
            HomeFollower::of(home),
            now(),
            Arc::new(|| {}),
        )
    }

    pub fn draw(&self, app: &mut App) -> Buffer {
        let backend = TestBackend::new(self.width, self.height);
        let mut terminal = Terminal::new(backend).expect("a terminal in memory");
        let draw = |frame: &mut ratatui::Frame| bellows_tui::view::draw(app, frame.buffer_mut());
        terminal.draw(draw).expect("it is drawn");
        terminal.backend().buffer().clone()
    }

    pub fn text(&self, app: &mut App) -> String {
        crate::picture::text(&self.draw(app))
    }
}

/// The moment at which every screen is drawn.
fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_780_000_000).expect("a time")
}

fn ago(seconds: i64) -> OffsetDateTime {
    now() - bellows_record::time::Duration::seconds(seconds)
}

/// The dashboard opened for one run.
pub fn alone(setting: &Setting, follower: RunFollower) -> App {
    let mut app = setting.app(HomeData::default());
    app.open_alone(follower);
    app
}

/// A directory without runs.
pub fn nothing(setting: &Setting) -> App {
    setting.app(HomeData {
        looked: true,
        ..HomeData::default()
    })
}

/// A run in each state, and one that cannot be read.
pub fn home(setting: &Setting) -> App {
    let states = [
        ("chain-2x8", Liveness::Running, 0.71),
        (
            "chain-long-name-of-a-run-with-everything",
            Liveness::Paused,
            0.2,
        ),
        ("mixture-baseline", Liveness::Finished, 1.0),
        ("chain-no-balance", Liveness::Stopped, 0.44),
        ("nan-hunt", Liveness::Failed, 0.03),
        ("overnight", Liveness::Crashed, 0.9),
    ];
    let rows = states
        .into_iter()
        .enumerate()
        .map(|(index, (name, liveness, share))| {
            let steps = (12_000.0 * share) as u64;
            let failed = liveness == Liveness::Failed;
            HomeRow {
                summary: RunSummary {
                    path: PathBuf::from("runs").join(name),
                    name: name.into(),
                    run_id: index.to_string(),
                    liveness,
                    step: steps,
                    total_steps: 12_000,
                    loss: (!failed).then_some(2.1 + 0.37 * index as f64),
                    validation_loss: (!failed).then_some(2.2 + 0.37 * index as f64),
                    tokens_per_second: Some(104_000.0 / (index + 1) as f64),
                    created: ago(9000 * (index as i64 + 1)),
                    heartbeat: ago(if liveness.is_live() {
                        1
                    } else {
                        4000 * index as i64
                    }),
                    device: "NVIDIA GeForce RTX 4090".into(),
                    model_type: "coe_deepseekv2".into(),
                },
                losses: (0..64)
                    .map(|at| 8.0 - f64::from(at).sqrt() + f64::from(at * 7 % 5) * 0.1)
                    .collect(),
                seconds_left: (liveness == Liveness::Running).then_some(4023.0),
            }
        });
    let trouble = "schema version 9.0 is not known; this program reads 1.x";
    setting.app(HomeData {
        runs: rows.collect(),
        unreadable: vec![(PathBuf::from("runs/from-the-future"), trouble.into())],
        trouble: None,
        looked: true,
    })
}

/// A form with a configuration, resolved, whose `steps` are typed in; and the question about it.
fn filled(steps: &str) -> (Form, Question) {
    let (mut form, _) = Form::new(Path::new("no/such/folder"), Path::new("runs"));
    for character in "examples/rust-code.toml".chars() {
        form.key(&KeyCode::Char(character).into());
    }
    form.select(3);
    for character in steps.chars() {
        form.key(&KeyCode::Char(character).into());
    }
    let (mut effects, _) = form.check();
    let Some(Effect::Ask(question)) = effects.pop() else {
        panic!("the settings are asked about");
    };
    (form, question)
}

/// What the configuration says.
fn resolved() -> BTreeMap<String, String> {
    [
        ("run.name", "rust-code"),
        ("run.device", "auto"),
        ("train.steps", "20000"),
        ("train.batch_size", "8"),
        ("train.accumulation", "4"),
        ("train.sequence_length", "1024"),
        ("optimizer.learning_rate", "0.0003"),
        ("run.seed", "1"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// The form, checked, with its plan.
pub fn form(setting: &Setting) -> App {
    let mut app = setting.app(HomeData::default());
    let (mut form, question) = filled("20000");
    form.resolved(question.edition, Ok(resolved()));
    form.planned(question.edition, plan(true));
    app.screen = Screen::Form(Box::new(form));
    app
}

/// The form with a wrong value.
pub fn wrong_form(setting: &Setting) -> App {
    let mut app = setting.app(HomeData::default());
    let (mut form, question) = filled("0");
    let trouble = "--set: train.steps is 0; it must be 1 or more";
    form.resolved(question.edition, Err(trouble.into()));
    app.screen = Screen::Form(Box::new(form));
    app
}

/// The question before a run is started whose plan says that it does not fit.
pub fn start_question(setting: &Setting) -> App {
    let mut app = setting.app(HomeData::default());
    let (mut form, question) = filled("20000");
    app.overlay = form.resolved(question.edition, Ok(resolved()));
    form.planned(question.edition, plan(false));
    app.screen = Screen::Form(Box::new(form));
    app
}

fn plan(fits: bool) -> Verdict {
    let lines: &[&str] = match fits {
        true => &[
            "fits: 17.2 GiB of 24.0 GiB at the peak, in checkpoint mode",
            "on NVIDIA GeForce RTX 4090; sequences of up to 4,096 tokens fit in checkpoint mode",
        ],
        false => &[
            "does not fit: stream mode needs 31.0 GiB of 24.0 GiB; the nearest that fits is train.batch_size = 4",
            "on NVIDIA GeForce RTX 4090",
            "halve train.batch_size and double train.accumulation: the same step in less memory",
        ],
    };
    Verdict::Said(Plan {
        fits: Some(fits),
        lines: lines.iter().map(|line| (*line).to_owned()).collect(),
    })
}

/// A run that ended, asked from which of its checkpoints it is to go on.
pub fn resume_prompt(setting: &Setting) -> App {
    let mut app = alone(setting, run("chain", 1.0));
    let choice = |name: &str, note: &str| (name.to_owned(), note.to_owned());
    app.overlay = Some(Overlay::Prompt(Prompt {
        title: "Go on from which checkpoint?".into(),
        hint: "one of these, or any step that has one; a step before the last gives up what came after it".into(),
        text: TextLine::new("best"),
        choices: vec![
            choice("last", "step 400, validation 3.121"),
            choice("best", "step 200, validation 3.118"),
            choice("400", "step 400, validation 3.121"),
            choice("200", "step 200, validation 3.118"),
        ],
        complaint: None,
        kind: PromptKind::Resume,
        run: PathBuf::from("runs/chain"),
    }));
    app
}

/// A run that trains, read back from a record whose losses are `scale` times as large. Each is
/// written and read once; screens only look at it.
pub fn run(name: &str, scale: f64) -> RunFollower {
    static READ: Mutex<BTreeMap<String, Shared<RunData>>> = Mutex::new(BTreeMap::new());
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let data = read
        .entry(name.to_owned())
        .or_insert_with(|| Shared::new(data(name, scale)));
    let mut follower = RunFollower::of(RunData::default());
    follower.data = data.clone();
    follower
}

fn data(name: &str, scale: f64) -> RunData {
    let folder = tempfile::tempdir().expect("a folder");
    let path = write(folder.path(), name, scale).expect("a record");
    let follower = RunFollower::start(path, Arc::new(|| {}));
    let shared = follower.data.clone();
    let complete = || {
        let data = shared.read();
        assert_eq!(data.trouble, None);
        data.loading == Loading::Complete
            && data
                .routing
                .view
                .steps
                .is_some_and(|(_, last)| last == STEPS)
            && data.memory.view.step == Some(STEPS)
            && data
                .memory
                .kinds
                .values()
                .all(|kind| kind.last_step() == Some(STEPS))
            && data
                .routing
                .history
                .values()
                .all(|router| router.imbalance.last_step() == Some(STEPS))
            && data
                .warnings
                .iter()
                .any(|warning| warning.title.contains("dead"))
    };
    while !complete() {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(follower);
    let mut data = std::mem::take(&mut *shared.write());
    // From here on nobody follows: what depends on the clock is set to the frozen one.
    data.path = PathBuf::from("runs").join(name);
    data.liveness = Some(Liveness::Running);
    data.checkpoints = vec![200, 400];
    for event in &mut data.events {
        event.time = ago((STEPS - event.step) as i64 / 3);
    }
    if let Some(manifest) = &mut data.manifest {
        manifest.state = RunState::Running;
        manifest.heartbeat = ago(1);
        manifest.pid = 4711;
        manifest.hostname = "workstation".into();
        manifest.created = ago(200);
        manifest.progress.seconds = 124.0;
    }
    data
}

fn info() -> RunInfo {
    RunInfo {
        program_version: "0.1.0".into(),
        device: DeviceInfo {
            name: "NVIDIA GeForce RTX 4090".into(),
            kind: "discrete".into(),
            backend: "vulkan".into(),
            dtype: "f32".into(),
            precision: "bf16".into(),
            memory_bytes: Some(24 << 30),
            peak_flops: Some(1.6e14),
            ..DeviceInfo::default()
        },
        model: ModelSummary {
            model_type: "coe_deepseekv2".into(),
            parameters: 544_000_000,
            layers: 4,
            moe_layers: 4,
            iterations: 2,
            experts: 16,
            experts_per_token: 2,
            flops_per_token: Some(4.1e8),
            ..ModelSummary::default()
        },
        total_steps: 1000,
    }
}

fn write(root: &Path, name: &str, scale: f64) -> bellows_record::Result<PathBuf> {
    let config = format!(
        "[run]\nname = \"{name}\"\ndevice = \"auto\"\n\n[train]\nsteps = 1000\nbatch_size = 8\n\n[optimizer]\nlearning_rate = {}\n",
        3e-4 * scale
    );
    let writer = RunWriter::create(root, name, info(), &config)?;
    writer.event(Event::new(0, EventKind::Started, ""))?;
    for step in 1..=STEPS {
        let share = step as f64 / STEPS as f64;
        // Noise without a generator: any sequence that looks ragged does.
        let noise = ((step * 7919) % 101) as f64 / 101.0 - 0.5;
        let spike = if step == 250 { 3.0 } else { 0.0 };
        let loss = scale * (2.2 + 5.0 * (-5.0 * share).exp() + 0.2 * noise) + spike;
        let evaluates = step % 50 == 0;
        writer.metrics(StepMetrics {
            step,
            time: step as f64 * 0.31,
            tokens: step * 32_768,
            loss: if step == 300 { f64::NAN } else { loss },
            cross_entropy: loss - 0.01,
            aux_loss: Some(1.02 + 0.02 * noise),
            validation_loss: evaluates.then_some(
                scale * (2.3 + 5.0 * (-5.0 * share).exp()) + if share > 0.7 { share } else { 0.0 },
            ),
            grad_norm: Some(0.8 + 0.3 * noise + spike),
            learning_rate: 3e-4 * scale * (1.0 - 0.9 * share) * (step as f64 / 40.0).min(1.0),
            tokens_per_second: if share > 0.9 {
                60_000.0
            } else {
                105_000.0 + 4_000.0 * noise
            },
            step_seconds: 0.31 - 0.01 * noise,
            memory_bytes: Some((21u64 << 30) + (1e9 * noise.abs()) as u64),
            peak_memory_bytes: Some(23 << 30),
            skipped: step == 300,
            skipped_steps: Some(u64::from(step >= 300)),
            ..StepMetrics::default()
        })?;
        if step % EVERY == 0 {
            let (routing, routers) = loads(step, share);
            writer.routing(step, routing)?;
            writer.routers(step, routers)?;
            writer.memory(step, ledger(noise))?;
        }
        if step % 200 == 0 {
            let reason = "every 200 steps";
            writer.event(
                Event::new(step, EventKind::Checkpoint, reason).elapsed(step as f64 * 0.31),
            )?;
            writer.sample(Sample {
                step,
                prompt: "fn main() {\n".into(),
                text: format!("    let answer = {step};\n    println!(\"{{answer}}\");\n}}\n"),
                ..Sample::default()
            })?;
        }
    }
    let reason = "the loss is NaN; of shard 3, document 1204";
    writer.event(Event::new(300, EventKind::Skipped, reason).elapsed(93.0))?;
    let path = writer.path().to_owned();
    writer.finish(RunState::Stopped)?;
    Ok(path)
}

/// Expert 5 of layer 2 dies; expert 11 of layer 3 takes ever more.
fn loads(step: u64, share: f64) -> (Vec<RoutingRow>, Vec<RouterRow>) {
    let (mut routing, mut routers) = (Vec::new(), Vec::new());
    for layer in 0..4u32 {
        for iteration in 0..2u32 {
            for expert in 0..16u32 {
                let bent = match (layer, expert) {
                    (2, 5) if share > 0.4 => 0.0,
                    (3, 11) => 1.0 + 4.0 * share,
                    _ => 1.0,
                };
                let ragged = (step * 31 + u64::from(layer * 17 + iteration * 5 + expert * 13)) % 23;
                routing.push(RoutingRow {
                    layer,
                    iteration,
                    expert,
                    tokens: (bent * (3000.0 + 90.0 * ragged as f64)) as u64,
                    probability: 1.0 / 16.0,
                    bias: None,
                });
            }
            routers.push(RouterRow {
                layer,
                iteration,
                tokens: 32_768,
                dropped: 0,
                entropy: 2.4 - 0.2 * (layer + iteration) as f32,
            });
        }
    }
    (routing, routers)
}

fn ledger(noise: f64) -> Vec<MemoryRow> {
    let mut rows = Vec::new();
    for (moment, phase) in ["backward", "optimizer"].into_iter().enumerate() {
        let mut add = |layer: Option<u32>, kind: &'static str, owner: String, bytes: f64| {
            rows.push(MemoryRow {
                moment: moment as u32,
                phase: phase.into(),
                layer,
                kind: kind.into(),
                owner: owner.into(),
                bytes: bytes as u64,
            });
        };
        for layer in 0..4 {
            for (kind, bytes) in [("weights", 8e8), ("gradients", 8e8), ("optimizer", 1.6e9)] {
                add(
                    Some(layer),
                    kind,
                    format!("layers.{layer}.mlp.experts.down_proj"),
                    bytes * 0.4,
                );
                add(
                    Some(layer),
                    kind,
                    format!("layers.{layer}.mlp.experts.gate_up_proj"),
                    bytes * 0.6,
                );
            }
        }
        add(None, "weights", "embed_tokens".into(), 3e8);
        add(
            None,
            MemoryRow::ALLOCATOR,
            MemoryRow::IN_USE.into(),
            2.1e10 + 1e9 * noise.abs(),
        );
        add(
            None,
            MemoryRow::ALLOCATOR,
            MemoryRow::RESERVED.into(),
            2.25e10,
        );
    }
    rows
}
