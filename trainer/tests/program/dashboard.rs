//! The dashboard in a real terminal (tmux), steering a real run.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::common::Folder;

/// Longest wait for something that takes moments: reached only when a test fails.
const PATIENCE: Duration = Duration::from_secs(300);

/// A terminal with the dashboard in it, and the run that it starts; both ended with the test.
struct Terminal<'a> {
    folder: &'a Folder,
    server: PathBuf,
}

impl<'a> Terminal<'a> {
    fn new(folder: &'a Folder) -> Self {
        // One server for all of the test's terminals: one that ends with the first would refuse the
        // second while it does.
        folder.write("tmux.conf", "set -s exit-empty off\n");
        let server = folder.path("tmux.sock");
        Self { folder, server }
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        Command::new("tmux")
            .arg("-S")
            .arg(&self.server)
            .arg("-f")
            .arg(self.folder.path("tmux.conf"))
            .args(arguments)
            .env_remove("TMUX")
            .env_remove("NO_COLOR")
            .env("LC_ALL", "C.UTF-8")
            .current_dir(self.folder.path("."))
            .output()
            .expect("tmux runs")
    }

    /// Starts `bellows tui` with `arguments` in a terminal of 120 × 40.
    #[track_caller]
    fn open(&self, arguments: &str) {
        let program = env!("CARGO_BIN_EXE_bellows");
        let line = format!("'{program}' tui {arguments}");
        let done = self.tmux(&["new-session", "-d", "-x", "120", "-y", "40", &line]);
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    /// Presses keys, by tmux's names.
    fn press(&self, keys: &[&str]) {
        for key in keys {
            assert!(
                self.tmux(&["send-keys", key]).status.success(),
                "{key} was not taken"
            );
        }
    }

    fn write(&self, text: &str) {
        assert!(
            self.tmux(&["send-keys", "-l", text]).status.success(),
            "{text} was not taken"
        );
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p"]).stdout).into_owned()
    }

    /// Waits until all of `words` are on the screen.
    #[track_caller]
    fn wait_for(&self, words: &[&str]) {
        let shown = || {
            let screen = self.screen();
            words.iter().all(|word| screen.contains(word))
        };
        self.wait_until(&format!("{words:?}"), shown);
    }

    #[track_caller]
    fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(
                start.elapsed() < PATIENCE,
                "waited in vain for {what}:\n{}",
                self.screen()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_open(&self) -> bool {
        self.tmux(&["has-session"]).status.success()
    }

    fn last_step(&self) -> u64 {
        self.folder
            .metrics("live")
            .last_key_value()
            .map_or(0, |(&step, _)| step)
    }

    #[track_caller]
    fn wait_for_steps(&self, more: u64) {
        let wanted = self.last_step() + more;
        self.wait_until("further steps", || self.last_step() >= wanted);
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
        for run in ["live", "live-branch"] {
            if self.folder.run(run).exists() {
                let stop = format!("ctl runs/{run} stop --wait --timeout 60");
                let _ = self.folder.bellows(&stop);
            }
        }
    }
}

#[test]
fn a_run_is_started_steered_left_alone_and_stopped_from_the_terminal() {
    if Command::new("tmux").arg("-V").output().is_err() {
        println!(
            "SKIPPED a_run_is_started_steered_left_alone_and_stopped_from_the_terminal: tmux is not installed"
        );
        return;
    }
    let beside = PathBuf::from(env!("CARGO_BIN_EXE_bellows")).with_file_name("bellows-tui");
    assert!(
        beside.is_file(),
        "no bellows-tui beside bellows; test with --workspace, which builds both"
    );
    let folder = Folder::new();
    let terminal = Terminal::new(&folder);

    // Start. The run has the steps that were typed, not the file's, however fast Enter follows.
    terminal.open("runs --examples .");
    terminal.wait_for(&["There are no runs in runs yet."]);
    terminal.press(&["N"]);
    // What `bellows config` says of the file: its steps, its device.
    terminal.wait_for(&["New run", "run.toml", " 12 ", " cpu "]);
    terminal.press(&["Tab"]);
    terminal.write("live");
    terminal.press(&["Tab", "Tab"]);
    terminal.write("1000000");
    terminal.press(&["Enter"]);
    terminal.wait_for(&["Start live?", "1000000 steps on cpu", "Memory plan"]);
    terminal.press(&["y"]);
    terminal.wait_for(&["1 run, 1 alive", "● running"]);
    terminal.press(&["Enter"]);
    terminal.wait_for(&["[1 charts]", "● running", "loss", "tok/s"]);
    terminal.wait_until("first steps", || {
        folder.run("live").join("metrics.jsonl").exists()
    });
    terminal.wait_for_steps(3);
    let status = folder.bellows("status runs/live --json").ok().json();
    assert_eq!(status["total_steps"], 1_000_000);

    // Pause: steps stop. The sign is the run's own state; the answer alone is a passing word.
    terminal.press(&["P"]);
    terminal.wait_for(&["◐ paused"]);
    terminal.wait_until("the pause", || folder.state("live") == "paused");
    let paused = terminal.last_step();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(
        terminal.last_step(),
        paused,
        "a step was taken during the pause"
    );

    // Resume, with another learning rate.
    terminal.press(&["L"]);
    terminal.wait_for(&["Scale the learning rate"]);
    terminal.write("0.5");
    terminal.press(&["Enter"]);
    terminal.wait_until("the event", || {
        folder
            .text("runs/live/events.jsonl")
            .contains("the learning rate is scaled by 0.5")
    });
    terminal.press(&["P"]);
    terminal.wait_for(&["● running"]);
    terminal.wait_for_steps(3);
    let rows = folder.metrics("live");
    let rate = |step: u64| -> f64 { rows[&step]["learning_rate"].parse().expect("a number") };
    let changed = rate(paused + 1) / rate(paused);
    assert!(
        (changed - 0.5).abs() < 1e-3,
        "the learning rate changed by {changed}"
    );

    // Checkpoint.
    terminal.press(&["C"]);
    let written = || {
        let checkpoints = std::fs::read_dir(folder.run("live").join("checkpoints"));
        let mut names = checkpoints
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name());
        names.any(|name| {
            name.to_str()
                .is_some_and(|name| name.parse::<u64>().is_ok())
        })
    };
    terminal.wait_until("a checkpoint", written);

    // Every tab shows what the run has.
    for (key, words) in [
        ("2", ["[2 routing]", "entropy"]),
        ("3", ["weights", "allocator"]),
        ("4", ["checkpoint", "learning_rate_scale"]),
        ("5", ["flops_per_token", "checkpoint"]),
        ("6", ["[6 samples]", "▸ the"]),
        ("1", ["[1 charts]", "tok/s"]),
    ] {
        terminal.press(&[key]);
        terminal.wait_for(&words);
    }

    // Quit: the run goes on.
    terminal.press(&["q"]);
    terminal.wait_for(&["1 run, 1 alive"]);
    terminal.press(&["q"]);
    terminal.wait_until("the end of the dashboard", || !terminal.is_open());
    terminal.wait_for_steps(5);
    assert_eq!(folder.state("live"), "running");

    // Attach again, and only look: nothing that steers is offered or taken.
    terminal.open("runs/live --read-only");
    terminal.wait_for(&["● running", "read-only"]);
    terminal.press(&["P"]);
    terminal.wait_for_steps(3);
    assert_eq!(folder.state("live"), "running");
    terminal.press(&["q"]);
    terminal.wait_until("the end of the dashboard", || !terminal.is_open());

    // Attach again, and stop.
    terminal.open("runs/live");
    terminal.wait_for(&["● running"]);
    terminal.press(&["S"]);
    terminal.wait_for(&["Stop the run?"]);
    terminal.press(&["n"]);
    terminal.wait_for_steps(3);
    terminal.press(&["S"]);
    terminal.wait_for(&["Stop the run?"]);
    terminal.press(&["y"]);
    terminal.wait_for(&["■ stopped"]);
    assert_eq!(folder.state("live"), "stopped");
    let last = folder.metrics("live").len() as u64;
    assert_eq!(
        folder.checkpoints("live").last(),
        Some(&last),
        "no checkpoint of the last step"
    );

    // Go on from the first checkpoint, under another name: the run itself stays as it is.
    terminal.press(&["B"]);
    terminal.wait_for(&["from which checkpoint", "last", "live-branch"]);
    terminal.press(&["Down", "Enter"]);
    terminal.wait_for(&["Branch live-branch from"]);
    terminal.press(&["y"]);
    // Its first step: a run takes commands from then on at the latest.
    let metrics = folder.run("live-branch").join("metrics.jsonl");
    terminal.wait_until("the branch", || {
        std::fs::metadata(&metrics).is_ok_and(|file| file.len() > 0)
    });
    folder
        .bellows("ctl runs/live-branch stop --wait --timeout 60")
        .ok();
    assert_eq!(folder.metrics("live").len() as u64, last);
    terminal.press(&["q"]);
    terminal.wait_until("the end of the dashboard", || !terminal.is_open());
}

#[test]
fn a_dashboard_that_is_not_there_is_looked_for_on_the_path_and_then_told_how_to_build() {
    let folder = Folder::new();
    // The program alone in a folder.
    let alone = folder.path("bellows");
    let program = env!("CARGO_BIN_EXE_bellows");
    if std::fs::hard_link(program, &alone).is_err() {
        std::fs::copy(program, &alone).expect("a copy");
    }
    let tui = |path: &Path| {
        let mut command = Command::new(&alone);
        command
            .args(["tui", "runs", "--read-only"])
            .env("PATH", path)
            .current_dir(folder.path("."));
        command
    };
    crate::common::finish(&mut tui(&folder.path("empty"))).refused(&[
        "bellows-tui, is neither beside this program nor on the PATH",
        "cargo build --release -p bellows-tui",
    ]);
    std::fs::create_dir(folder.path("path")).expect("a folder");
    std::os::unix::fs::symlink("/bin/echo", folder.path("path/bellows-tui")).expect("a link");
    let done = crate::common::finish(&mut tui(&folder.path("path"))).ok();
    assert_eq!(done.stdout, "runs --read-only\n");
}
