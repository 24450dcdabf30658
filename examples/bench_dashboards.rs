//! What four attached dashboards add to a training step.
//!
//! ```sh
//! cargo build --release && cargo xtask bench dashboards
//! target/release/examples/bench_dashboards gpu train.batch_size=32    # a built one, anywhere
//! ```
//!
//! It trains with the real program, on a corpus that it makes up (or as a given CONFIG.toml says),
//! attaches four real dashboards to the run, each in a pseudo-terminal whose output is read as a
//! terminal would, takes them away again, and so on in turn, which half of a round comes first
//! taking turns too. A step's time is the distance of two steps on the run's own clock: everything
//! that the training thread does is in it, the record and the control socket as well. Compared are
//! medians, and how far the rounds scatter. On Linux the kernel also tells how long the training
//! thread had a processor core or waited for one. Arguments, in any order: a device (`auto`, `cpu`,
//! `gpu:1`), a configuration (`….toml`), settings (`section.key=value`), `rounds=…`: the more, the
//! less the rounds' mean may be off. The 20 of the default take a minute and a half.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(unix)]
    let measured = unix::run();
    #[cfg(not(unix))]
    let measured: Result<(), &str> = Err("the dashboards need pseudo-terminals, which are Unix's");
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::os::unix::process::CommandExt;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::thread::JoinHandle;
    use std::time::{Duration, Instant};

    use bellows_record::{RunReader, StepMetrics};

    type Failure = Box<dyn std::error::Error>;

    /// Dashboards attached at once.
    const DASHBOARDS: usize = 4;
    /// Pairs of phases, one alone and one watched.
    const ROUNDS: usize = 20;
    /// Length of a phase: short, because a machine's pace drifts over seconds.
    const PHASE: Duration = Duration::from_millis(1500);
    /// Steps of a phase at least.
    const STEPS: usize = 5;
    /// Steps before the first phase: kernels are compiled, caches fill.
    const WARM_UP: u64 = 20;
    /// Time in which dashboards open or close before a phase begins.
    const SETTLE: Duration = Duration::from_millis(700);

    /// A small Chain-of-Experts model: its steps are short, so what is added to them shows.
    const CONFIG: &str = r#"
[model]
model_type = "coe_deepseekv2"
hidden_size = 192
num_hidden_layers = 4
attention = "mla"
num_attention_heads = 6
kv_lora_rank = 64
qk_nope_head_dim = 16
qk_rope_head_dim = 16
v_head_dim = 32
tie_word_embeddings = true
max_position_embeddings = 512
n_routed_experts = 8
num_experts_per_tok = 2
moe_intermediate_size = 96
n_shared_experts = 1
norm_topk_prob = true
inner_iter = 2
inner_residual = true

[model.rope]
interleaved = true

[data]
cache = 'FOLDER/cache'

[data.source]
kind = "text"
paths = ['FOLDER/corpus/*.txt']

[data.tokenizer]
vocab_size = 2048

[train]
batch_size = 4
sequence_length = 128

[router]
balance = "micro-batch"
"#;

    pub fn run() -> Result<(), Failure> {
        let (mut device, mut config, mut settings) = ("auto".to_owned(), None, Vec::new());
        let mut rounds = ROUNDS;
        for argument in std::env::args().skip(1) {
            if let Some(number) = argument.strip_prefix("rounds=") {
                rounds = match number.parse() {
                    Ok(number @ 2..) => number,
                    _ => return Err(format!("rounds={number}: a whole number from 2 on").into()),
                };
                continue;
            }
            match &argument[..] {
                argument if argument.ends_with(".toml") => config = Some(PathBuf::from(argument)),
                argument if argument.contains('=') => settings.push(argument.to_owned()),
                argument => device = argument.to_owned(),
            }
        }
        settings.push(format!("run.device={device}"));
        let name = format!("bellows-bench-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder)?;
        let measured = config
            .map_or_else(|| corpus(&folder), Ok)
            .and_then(|config| measure(&folder, &config, &settings, rounds));
        std::fs::remove_dir_all(&folder)?;
        measured
    }

    /// Made-up text and the configuration that trains on it.
    fn corpus(folder: &Path) -> Result<PathBuf, Failure> {
        let mut state = 1u64;
        let mut below = |end: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % end
        };
        let words: Vec<String> = (0..3000)
            .map(|_| {
                let letters = 2 + below(8);
                (0..letters)
                    .map(|_| char::from(b'a' + below(26) as u8))
                    .collect()
            })
            .collect();
        std::fs::create_dir_all(folder.join("corpus"))?;
        for document in 0..200 {
            let text: Vec<&str> = (0..2000)
                // Some words are frequent, as in a language.
                .map(|_| words[(below(3000) * below(3000) / 3000) as usize].as_str())
                .collect();
            let path = folder.join(format!("corpus/{document:03}.txt"));
            std::fs::write(path, text.join(" "))?;
        }
        let config = folder.join("bench.toml");
        std::fs::write(&config, CONFIG.replace("FOLDER", &folder.to_string_lossy()))?;
        Ok(config)
    }

    fn measure(
        folder: &Path,
        config: &Path,
        settings: &[String],
        rounds: usize,
    ) -> Result<(), Failure> {
        let log = File::create(folder.join("log"))?;
        let mut train = Command::new(beside("bellows")?);
        train
            .arg("train")
            .arg(config)
            .args(["--name", "watched", "--directory"])
            .arg(folder);
        let fixed = [
            "train.steps=100000000",
            "train.max_minutes=600",
            "checkpoint.every=0",
            "evaluate.every=0",
            "sample.every=0",
            "record.metrics_every=1",
        ];
        for setting in fixed.into_iter().chain(settings.iter().map(String::as_str)) {
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
        let measured = watch(&run, &mut training, rounds);
        let device = RunReader::open(&run).map(|run| run.manifest().info.device.name.clone());
        // Ended before its folder is removed.
        drop(training);
        let measured = measured.map_err(|failure| {
            let said = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            format!("{failure}\n{said}")
        })?;
        measured.tell(&device.unwrap_or_default());
        Ok(())
    }

    /// What was found out.
    #[derive(Default)]
    struct Measured {
        /// Each round, alone and watched.
        rounds: Vec<(Phase, Phase)>,
        /// Bytes that all dashboards sent to their terminals.
        sent: u64,
        /// Processor time that all dashboards took.
        busy: f64,
        /// Time for which one was attached, times their number.
        attached: f64,
    }

    impl Measured {
        fn tell(&self, device: &str) {
            println!("device                     {device}");
            self.compare("a step", |phase| phase.times.clone());
            let threads = |phase: &Phase| phase.thread.into_iter().collect();
            if self
                .rounds
                .iter()
                .all(|(a, b)| a.thread.is_some() && b.thread.is_some())
            {
                self.compare("its thread", threads);
            }
            println!(
                "a dashboard                {:.2} % of a processor core, {:.1} kB/s to its terminal",
                self.busy / self.attached * 100.0,
                self.sent as f64 / self.attached / 1e3
            );
        }
    }

    impl Measured {
        /// Medians of what `of` takes from the phases, and the rounds' differences with the
        /// standard error of their mean.
        fn compare(&self, what: &str, of: impl Fn(&Phase) -> Vec<f64>) {
            let all = |watched: bool| -> Vec<f64> {
                let phases = self.rounds.iter();
                let phases = phases.map(|(alone, with)| if watched { with } else { alone });
                phases.flat_map(&of).collect()
            };
            let (alone, watched) = (all(false), all(true));
            println!(
                "{what:<10} alone           {:.3} ms, the median of {}",
                median(&alone) * 1e3,
                alone.len()
            );
            println!(
                "{:<10} with {DASHBOARDS} dashboards {:.3} ms, the median of {}: {:+.2} %",
                "",
                median(&watched) * 1e3,
                watched.len(),
                (median(&watched) / median(&alone) - 1.0) * 100.0
            );
            let added: Vec<f64> = self
                .rounds
                .iter()
                .map(|(alone, with)| (median(&of(with)) / median(&of(alone)) - 1.0) * 100.0)
                .collect();
            let count = added.len() as f64;
            let mean = added.iter().sum::<f64>() / count;
            let squares: f64 = added.iter().map(|round| (round - mean).powi(2)).sum();
            let error = (squares / (count - 1.0) / count).sqrt();
            let each: Vec<String> = added.iter().map(|round| format!("{round:+.2}")).collect();
            println!(
                "{:<10} by round        {} %: {mean:+.2} ± {error:.2} % in the mean",
                "",
                each.join(", ")
            );
        }
    }

    fn watch(run: &Path, training: &mut Stopped, rounds: usize) -> Result<Measured, Failure> {
        while last_step(run, training)? < WARM_UP {
            std::thread::sleep(Duration::from_millis(200));
        }
        let mut measured = Measured::default();
        for round in 0..rounds {
            // Alone first, then watched first: a drift of the machine's pace cancels out.
            let early = (round % 2 == 1)
                .then(|| measured.attached(run, training))
                .transpose()?;
            let alone = phase(run, training)?;
            let watched = match early {
                Some(watched) => watched,
                None => measured.attached(run, training)?,
            };
            measured.rounds.push((alone, watched));
        }
        Ok(measured)
    }

    impl Measured {
        /// A phase with dashboards.
        fn attached(&mut self, run: &Path, training: &mut Stopped) -> Result<Phase, Failure> {
            let (began, busy) = (Instant::now(), children_seconds());
            let mut dashboards = (0..DASHBOARDS)
                .map(|_| Dashboard::attach(run))
                .collect::<Result<Vec<_>, _>>()?;
            let watched = phase(run, training)?;
            for dashboard in &mut dashboards {
                if dashboard.child.try_wait()?.is_some() {
                    return Err("a dashboard ended while it was to watch".into());
                }
            }
            self.attached += began.elapsed().as_secs_f64() * DASHBOARDS as f64;
            for dashboard in dashboards {
                self.sent += dashboard.leave()?;
            }
            self.busy += children_seconds() - busy;
            Ok(watched)
        }
    }

    /// Some seconds of training.
    struct Phase {
        /// Seconds between neighbouring steps.
        times: Vec<f64>,
        /// Seconds a step for which the training thread had a core or waited for one; absent where
        /// the system does not say.
        thread: Option<f64>,
    }

    fn phase(run: &Path, training: &mut Stopped) -> Result<Phase, Failure> {
        std::thread::sleep(SETTLE);
        let first = last_step(run, training)?;
        let before = thread_seconds(training);
        loop {
            std::thread::sleep(PHASE);
            let last = last_step(run, training)?;
            let after = thread_seconds(training);
            let rows = RunReader::open(run)?.last_metrics(20_000)?;
            let rows: Vec<&StepMetrics> = rows.iter().filter(|row| row.step > first).collect();
            let times: Vec<f64> = rows
                .windows(2)
                .filter(|pair| pair[1].step == pair[0].step + 1)
                .map(|pair| pair[1].time - pair[0].time)
                .collect();
            if times.len() >= STEPS {
                let seconds = before.zip(after).map(|(before, after)| after - before);
                let thread = seconds.map(|seconds| seconds / (last - first) as f64);
                return Ok(Phase { times, thread });
            }
        }
    }

    /// Seconds for which the training thread, the program's first, has run or waited for a core.
    fn thread_seconds(training: &Stopped) -> Option<f64> {
        let id = training.0.id();
        let path = format!("/proc/{id}/task/{id}/schedstat");
        let told = std::fs::read_to_string(path).ok()?;
        let mut numbers = told.split_whitespace().map(str::parse::<u64>);
        let (run, wait) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some((run + wait) as f64 / 1e9)
    }

    fn last_step(run: &Path, training: &mut Stopped) -> Result<u64, Failure> {
        if let Some(status) = training.0.try_wait()? {
            return Err(format!("the run ended with {status}").into());
        }
        if !run.join("metrics.jsonl").exists() {
            return Ok(0);
        }
        let rows = RunReader::open(run)?.last_metrics(1)?;
        Ok(rows.last().map_or(0, |row| row.step))
    }

    /// Processor time of the children that have ended.
    fn children_seconds() -> f64 {
        // SAFETY: an all-zero `rusage` is valid, and the call fills it.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
            usage
        };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        seconds(usage.ru_utime) + seconds(usage.ru_stime)
    }

    /// The training program, ended with this one.
    struct Stopped(Child);

    impl Drop for Stopped {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A dashboard in a terminal of 120 × 40.
    struct Dashboard {
        child: Child,
        terminal: File,
        reader: Option<JoinHandle<u64>>,
    }

    impl Dashboard {
        fn attach(run: &Path) -> Result<Self, Failure> {
            let (ours, theirs) = pseudo_terminal()?;
            let mut command = Command::new(beside("bellows-tui")?);
            command
                .arg(run)
                .env("TERM", "xterm-256color")
                .stdin(theirs.try_clone()?)
                .stdout(theirs.try_clone()?)
                .stderr(theirs);
            // SAFETY: both calls are async-signal-safe and touch nothing but the process itself.
            unsafe {
                command.pre_exec(|| {
                    libc::setsid();
                    match libc::ioctl(0, libc::TIOCSCTTY as _, 0) {
                        0 => Ok(()),
                        _ => Err(std::io::Error::last_os_error()),
                    }
                });
            }
            let child = command.spawn()?;
            // What holds the other side open here would keep the reader from its end.
            drop(command);
            let terminal = File::from(ours);
            let mut output = terminal.try_clone()?;
            let reader = std::thread::spawn(move || {
                let (mut bytes, mut sent) = ([0; 16 << 10], 0);
                // It ends with an error: the other side is closed.
                while let Ok(count @ 1..) = output.read(&mut bytes) {
                    sent += count as u64;
                }
                sent
            });
            Ok(Self {
                child,
                terminal,
                reader: Some(reader),
            })
        }

        /// Leaves it with `q`; returns how much it sent to its terminal.
        fn leave(mut self) -> Result<u64, Failure> {
            self.terminal.write_all(b"q")?;
            self.child.wait()?;
            let reader = self.reader.take().ok_or("it was left already")?;
            reader.join().map_err(|_| "its terminal failed".into())
        }
    }

    impl Drop for Dashboard {
        fn drop(&mut self) {
            if self.reader.is_some() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }

    /// Both sides of a new pseudo-terminal: ours, and the program's.
    fn pseudo_terminal() -> std::io::Result<(OwnedFd, OwnedFd)> {
        let (mut ours, mut theirs) = (0, 0);
        let mut size = libc::winsize {
            ws_row: 40,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let none = std::ptr::null_mut();
        // SAFETY: the pointers are valid for the call, the name's may be null; what it opened is
        // owned from here on, and closed when another program is started.
        unsafe {
            if libc::openpty(
                &raw mut ours,
                &raw mut theirs,
                none,
                none.cast(),
                &raw mut size,
            ) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
            for side in [ours, theirs] {
                libc::fcntl(side, libc::F_SETFD, libc::FD_CLOEXEC);
            }
            Ok((OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)))
        }
    }

    /// A program of this build.
    fn beside(name: &str) -> Result<PathBuf, Failure> {
        let example = std::env::current_exe()?;
        // In the folder above `examples`, or where this was copied to.
        [2, 1]
            .into_iter()
            .filter_map(|up| Some(example.ancestors().nth(up)?.join(name)))
            .find(|path| path.is_file())
            .ok_or_else(|| format!("{name} is not built; `cargo build --release` builds it").into())
    }

    fn median(values: &[f64]) -> f64 {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }
}
