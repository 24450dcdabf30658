//! What the dashboard costs on a long run: time to the first screen, time to the whole history, and
//! memory, on a record that this program generates.
//!
//! ```sh
//! cargo run --release --example bench_dashboard              # a million steps
//! cargo run --release --example bench_dashboard -- 600 DIR   # 600 steps, kept in DIR to look at
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bellows_record::{
    DeviceInfo, Event, EventKind, MemoryRow, ModelSummary, RouterRow, RoutingRow, RunInfo,
    RunState, RunWriter, Sample, StepMetrics,
};
use bellows_tui::app::{App, Options};
use bellows_tui::store::{HomeFollower, Loading, RunFollower};
use bellows_tui::theme::{Glyphs, Theme, ThemeName};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

const LAYERS: u32 = 6;
const ITERATIONS: u32 = 2;
const EXPERTS: u32 = 16;
/// Steps between two records of routing and memory, as is the default.
const EVERY: u64 = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let steps: u64 = arguments
        .next()
        .map_or(Ok(1_000_000), |steps| steps.parse())?;
    let kept = arguments.next().map(PathBuf::from);
    let folder = match &kept {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir().join(format!("bellows-bench-{}", std::process::id())),
    };
    let began = Instant::now();
    let run = generate(&folder, steps)?;
    println!(
        "record            {steps} steps, {:.1} MB, written in {:.1} s",
        size(&run) as f64 / 1e6,
        began.elapsed().as_secs_f64()
    );
    let measured = measure(&run, steps);
    if kept.is_none() {
        std::fs::remove_dir_all(&folder)?;
    }
    measured.map_err(Into::into)
}

/// Opens the run as the dashboard does, and says how long things took.
fn measure(run: &Path, steps: u64) -> Result<(), String> {
    let before = resident().unwrap_or(0);
    let options = Options {
        root: run.parent().unwrap_or(run).to_owned(),
        examples: PathBuf::new(),
        read_only: true,
        theme: Theme::new(ThemeName::Dark),
        glyphs: Glyphs { ascii: false },
        offset: bellows_record::time::UtcOffset::UTC,
    };
    let mut app = App::new(
        options,
        HomeFollower::of(Default::default()),
        bellows_record::now(),
        Arc::new(|| {}),
    );
    let mut screen = Buffer::empty(Rect::new(0, 0, 250, 80));
    let began = Instant::now();
    let follower = RunFollower::start(run.to_owned(), Arc::new(|| {}));
    let data = follower.data.clone();
    app.open_alone(follower);
    // The first screen: a headline and a curve of the newest steps.
    while data.read().present().last().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    bellows_tui::view::draw(&mut app, &mut screen);
    println!("first screen      {:.3} s", began.elapsed().as_secs_f64());
    let mut most = 0;
    let (mut drawings, mut busiest) = (Vec::new(), Duration::ZERO);
    let mut history = None;
    let last = steps / EVERY * EVERY;
    // The history, then the Arrow streams.
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let (drawing, busy) = (Instant::now(), busy());
        screen.reset();
        bellows_tui::view::draw(&mut app, &mut screen);
        drawings.push(drawing.elapsed());
        busiest = busiest.max(self::busy().saturating_sub(busy));
        most = most.max(resident().unwrap_or(0));
        let data = data.read();
        if let Some(trouble) = &data.trouble {
            return Err(trouble.clone());
        }
        if data.loading == Loading::Complete && history.is_none() {
            history = Some(began.elapsed());
        }
        let routing = data
            .routing
            .history
            .values()
            .next()
            .and_then(|router| router.imbalance.last_step());
        let memory = data
            .memory
            .kinds
            .values()
            .next()
            .and_then(|kind| kind.last_step());
        if history.is_some() && routing.unwrap_or(0) >= last && memory.unwrap_or(0) >= last {
            break;
        }
    }
    println!(
        "all metrics       {:.2} s",
        history.unwrap_or_default().as_secs_f64()
    );
    println!("all streams       {:.2} s", began.elapsed().as_secs_f64());
    drawings.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "a drawing         {:.1} ms at 250x80 while it loads (the median of {}), {:.1} ms the longest, locks included",
        drawings
            .get(drawings.len() / 2)
            .copied()
            .map_or(f64::NAN, ms),
        drawings.len(),
        drawings.last().copied().map_or(f64::NAN, ms)
    );
    println!(
        "of that computing {:.1} ms at most; the rest is waiting, for a lock or for a free core",
        ms(busiest)
    );
    println!(
        "memory            {:.1} MB at its peak, {:.1} MB before opening",
        most as f64 / 1e6,
        before as f64 / 1e6
    );
    Ok(())
}

/// Processor time of this thread.
#[cfg(unix)]
fn busy() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is valid for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(not(unix))]
fn busy() -> Duration {
    Duration::ZERO
}

/// Resident memory of this process in bytes, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

fn size(folder: &Path) -> u64 {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// A small generator: the same record each time.
struct Random(u64);

impl Random {
    /// From 0 to under 1.
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn generate(root: &Path, steps: u64) -> bellows_record::Result<PathBuf> {
    let info = RunInfo {
        program_version: env!("CARGO_PKG_VERSION").into(),
        device: DeviceInfo {
            name: "A generated device".into(),
            kind: "discrete".into(),
            backend: "vulkan".into(),
            dtype: "f32".into(),
            memory_bytes: Some(24 << 30),
            peak_flops: Some(4e13),
            ..DeviceInfo::default()
        },
        model: ModelSummary {
            model_type: "coe_deepseekv2".into(),
            parameters: 1_200_000_000,
            layers: LAYERS,
            moe_layers: LAYERS,
            iterations: ITERATIONS,
            experts: EXPERTS,
            experts_per_token: 2,
            flops_per_token: Some(1.8e9),
            ..ModelSummary::default()
        },
        total_steps: steps + steps / 4,
    };
    let writer = RunWriter::create(root, "generated", info, "[train]\nsteps = 1\n")?;
    writer.event(Event::new(0, EventKind::Started, ""))?;
    let mut random = Random(1);
    for step in 1..=steps {
        let share = step as f64 / steps as f64;
        let decay = 2.2 + 6.0 * (-6.0 * share).exp();
        let spike = if random.next() < 3.0 / steps as f64 {
            4.0
        } else {
            0.0
        };
        let noise = random.next() - 0.5;
        let loss = decay + 0.25 * noise + spike;
        let evaluates = step.is_multiple_of((steps / 100).max(1));
        writer.metrics(StepMetrics {
            step,
            time: step as f64 * 0.31,
            tokens: step * 32_768,
            loss,
            cross_entropy: loss - 0.01,
            aux_loss: Some(1.02 + 0.02 * random.next()),
            z_loss: Some(0.4 + 0.1 * random.next()),
            validation_loss: evaluates.then_some(decay + 0.1),
            grad_norm: Some(0.6 + 0.3 * random.next() + spike),
            learning_rate: 3e-4 * (1.0 - 0.9 * share) * (step as f64 / 40.0).min(1.0),
            tokens_per_second: 105_000.0 + 4_000.0 * noise,
            step_seconds: 0.31 - 0.01 * noise,
            memory_bytes: Some((17u64 << 30) + (2e9 * random.next()) as u64),
            peak_memory_bytes: Some(20 << 30),
            ..StepMetrics::default()
        })?;
        if step.is_multiple_of(EVERY) {
            let (routing, routers) = loads(&mut random, share);
            writer.routing(step, routing)?;
            writer.routers(step, routers)?;
            writer.memory(step, ledger(&mut random))?;
        }
        if evaluates {
            let loss =
                Event::new(step, EventKind::Evaluated, "").with("validation_loss", decay + 0.1);
            writer.event(loss)?;
            writer.sample(Sample {
                step,
                prompt: "fn main() {\n".into(),
                text: "    let answer = 42;\n    println!(\"{answer}\");\n}\n".into(),
                ..Sample::default()
            })?;
        }
    }
    let path = writer.path().to_owned();
    writer.finish(RunState::Stopped)?;
    Ok(path)
}

fn loads(random: &mut Random, share: f64) -> (Vec<RoutingRow>, Vec<RouterRow>) {
    let (mut routing, mut routers) = (Vec::new(), Vec::new());
    for layer in 0..LAYERS {
        for iteration in 0..ITERATIONS {
            for expert in 0..EXPERTS {
                // One expert dies, one takes more and more.
                let bent = match (layer, expert) {
                    (2, 5) if share > 0.5 => 0.0,
                    (4, 11) => 1.0 + 3.0 * share,
                    _ => 1.0,
                };
                routing.push(RoutingRow {
                    layer,
                    iteration,
                    expert,
                    tokens: (bent * (3000.0 + 2000.0 * random.next())) as u64,
                    probability: 1.0 / EXPERTS as f32,
                    bias: None,
                });
            }
            routers.push(RouterRow {
                layer,
                iteration,
                tokens: 32_768,
                dropped: 0,
                entropy: 2.4 - 0.8 * share as f32,
            });
        }
    }
    (routing, routers)
}

fn ledger(random: &mut Random) -> Vec<MemoryRow> {
    let mut rows = Vec::new();
    let mut add = |layer: Option<u32>, kind: &'static str, owner: String, bytes: f64| {
        rows.push(MemoryRow {
            moment: 0,
            phase: "backward".into(),
            layer,
            kind: kind.into(),
            owner: owner.into(),
            bytes: bytes as u64,
        });
    };
    for layer in 0..LAYERS {
        for (kind, bytes) in [
            ("weights", 8e8),
            ("gradients", 8e8),
            ("optimizer", 1.6e9),
            ("activations", 6e8 + 2e8 * random.next()),
        ] {
            add(
                Some(layer),
                kind,
                format!("layers.{layer}.mlp.experts"),
                bytes,
            );
        }
    }
    add(None, "weights", "embed_tokens".into(), 3e8);
    add(None, MemoryRow::ALLOCATOR, MemoryRow::IN_USE.into(), 1.9e10);
    rows
}
