//! What four attached dashboards add to a training step.
//!
//! ```sh
//! cargo build --release && cargo xtask bench dashboards -- CONFIG DEVICE [section.key=value …]
//! ```
//!
//! It trains CONFIG (default: `examples/rust-code.toml`) with the real program, attaches four real
//! dashboards to the run, each in a terminal of its own (util-linux's `script`), takes them away
//! again, and so on in turn. The ratio is that of the median `step_seconds` in `metrics.jsonl`, which
//! the training thread measures itself.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bellows_record::{RunReader, StepMetrics};

type Failure = Box<dyn std::error::Error>;

/// Dashboards attached at once.
const DASHBOARDS: usize = 4;
/// Pairs of phases, one alone and one watched.
const ROUNDS: usize = 6;
/// Steps measured of a phase.
const STEPS: u64 = 30;
/// Steps before the first phase: kernels are compiled, caches fill.
const WARM_UP: u64 = 20;
/// Time in which dashboards open or close before a phase is measured.
const SETTLE: Duration = Duration::from_secs(2);

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let config = arguments.next().unwrap_or("examples/rust-code.toml".into());
    let device = arguments.next().unwrap_or("auto".into());
    let settings: Vec<String> = arguments.collect();
    let folder = std::env::temp_dir().join(format!("bellows-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let measured = measure(&folder, &config, &device, &settings);
    std::fs::remove_dir_all(&folder)?;
    measured
}

fn measure(folder: &Path, config: &str, device: &str, settings: &[String]) -> Result<(), Failure> {
    let log = std::fs::File::create(folder.join("log"))?;
    let mut train = Command::new(beside("bellows")?);
    train
        .args(["train", config, "--name", "watched", "--directory"])
        .arg(folder);
    let fixed = [
        "train.steps=100000000",
        "checkpoint.every=0",
        "evaluate.every=0",
        "sample.every=0",
        "train.max_minutes=600",
    ];
    let device = format!("run.device={device}");
    for setting in fixed
        .into_iter()
        .chain([device.as_str()])
        .chain(settings.iter().map(String::as_str))
    {
        train.args(["--set", setting]);
    }
    let mut training = Stopped(
        train
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?,
    );
    let run = folder.join("watched");
    let rounds = watch(&run, &mut training);
    // Ended before its folder is removed.
    drop(training);
    let rounds = rounds.map_err(|failure| {
        let said = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        format!("{failure}\n{said}")
    })?;
    let (alone, watched): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
    let ratios: Vec<f64> = alone
        .iter()
        .zip(&watched)
        .map(|(alone, watched)| median(watched) / median(alone))
        .collect();
    let (alone, watched) = (median(&alone.concat()), median(&watched.concat()));
    println!("a step alone                    {:.2} ms", alone * 1e3);
    println!(
        "with {DASHBOARDS} dashboards attached      {:.2} ms",
        watched * 1e3
    );
    println!(
        "added                           {:+.2} %",
        (watched / alone - 1.0) * 100.0
    );
    let each: Vec<String> = ratios
        .iter()
        .map(|ratio| format!("{:+.2} %", (ratio - 1.0) * 100.0))
        .collect();
    println!("added, by round                 {}", each.join(", "));
    Ok(())
}

/// Step times of each round: alone, and watched.
fn watch(run: &Path, training: &mut Stopped) -> Result<Vec<(Vec<f64>, Vec<f64>)>, Failure> {
    after(run, WARM_UP, training)?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let alone = phase(run, training)?;
        let dashboards: Vec<Dashboard> = (0..DASHBOARDS)
            .map(|_| Dashboard::attach(run))
            .collect::<Result<_, _>>()?;
        let watched = phase(run, training)?;
        for mut dashboard in dashboards {
            if dashboard.child.try_wait()?.is_some() {
                return Err("a dashboard ended while it was to watch".into());
            }
        }
        rounds.push((alone, watched));
    }
    Ok(rounds)
}

fn phase(run: &Path, training: &mut Stopped) -> Result<Vec<f64>, Failure> {
    std::thread::sleep(SETTLE);
    let first = last_step(run)? + 1;
    let rows = after(run, first + STEPS, training)?;
    let within = |row: &&StepMetrics| row.step > first && row.step <= first + STEPS;
    Ok(rows
        .iter()
        .filter(within)
        .map(|row| row.step_seconds)
        .collect())
}

fn last_step(run: &Path) -> Result<u64, Failure> {
    Ok(RunReader::open(run)?
        .last_metrics(1)?
        .last()
        .map_or(0, |row| row.step))
}

/// Waits for a step; the newest rows.
fn after(run: &Path, step: u64, training: &mut Stopped) -> Result<Vec<StepMetrics>, Failure> {
    loop {
        if let Some(status) = training.0.try_wait()? {
            return Err(format!("the run ended with {status}").into());
        }
        if run.join("metrics.jsonl").exists() {
            let rows = RunReader::open(run)?.last_metrics(1000)?;
            if rows.last().is_some_and(|row| row.step >= step) {
                return Ok(rows);
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The training program, ended with this one.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A dashboard in a terminal of 120 × 40, left with `q`.
struct Dashboard {
    child: Child,
}

impl Dashboard {
    fn attach(run: &Path) -> Result<Self, Failure> {
        let line = format!(
            "stty rows 40 cols 120; exec '{}' '{}'",
            beside("bellows-tui")?.display(),
            run.display()
        );
        let child = Command::new("script")
            .args(["-q", "-e", "-c", &line, "/dev/null"])
            .env("TERM", "xterm-256color")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| {
                format!("util-linux's `script`, which gives a dashboard its terminal: {error}")
            })?;
        Ok(Self { child })
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        if let Some(keys) = &mut self.child.stdin {
            let _ = keys.write_all(b"q");
        }
        let _ = self.child.wait();
    }
}

/// A program of this build.
fn beside(name: &str) -> Result<PathBuf, Failure> {
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let examples = std::env::current_exe()?;
    let path = examples
        .parent()
        .and_then(Path::parent)
        .map(|folder| folder.join(file));
    path.filter(|path| path.is_file())
        .ok_or_else(|| format!("{name} is not built; `cargo build --release` builds it").into())
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
