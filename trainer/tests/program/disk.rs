//! A disk that fills while checkpoints are written.

use crate::common::Folder;

/// A run of twelve steps with two checkpoints, to be gone on with to step 24.
#[cfg(unix)]
const SETTINGS: [&str; 1] = ["schedule.kind='constant'"];

/// The run that never met a full disk.
#[cfg(unix)]
fn whole(folder: &Folder) {
    let mut settings = SETTINGS.to_vec();
    settings.push("train.steps=24");
    folder.train("whole", &settings).ok();
}

#[cfg(unix)]
#[test]
fn a_checkpoint_that_cannot_be_written_whole_leaves_the_last_good_one() {
    use std::os::unix::process::CommandExt;

    let folder = Folder::new();
    whole(&folder);
    folder.train("run", &SETTINGS).ok();
    let size = |file| {
        let file = folder.checkpoint("run", 12, file);
        std::fs::metadata(file).expect("a checkpoint").len()
    };
    // Room for every file but the moments: the checkpoint fails after its first files.
    let limit = size("optimizer.safetensors") - 1;
    assert!(limit > size("model.safetensors"));
    let mut command = folder.command("resume runs/run --steps 24");
    // SAFETY: both calls are async-signal-safe and touch nothing but the process itself.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit {
                rlim_cur: limit as libc::rlim_t,
                rlim_max: limit as libc::rlim_t,
            };
            // Ignored, the signal becomes an error of the write, as a full disk does.
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            match libc::setrlimit(libc::RLIMIT_FSIZE, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let done = crate::common::finish(&mut command).refused(&[
        "error: a checkpoint could not be written",
        "optimizer.safetensors",
        "last complete checkpoint is kept",
    ]);
    // The one before the last is a warning: training went on to the end.
    assert!(
        done.stderr
            .contains("warning: a checkpoint could not be written"),
        "{}",
        done.stderr
    );
    assert_eq!(folder.metrics("run").len(), 24);
    assert_eq!(folder.checkpoints("run"), [6, 12]);
    assert_eq!(folder.state("run"), "failed");
    folder.bellows("resume runs/run").ok();
    folder.assert_equal_runs("whole", "run", 24);
}

/// Runs in a mount namespace of its own, on a file system of 2 MiB.
#[cfg(target_os = "linux")]
const ON_A_SMALL_DISK: &str = r#"
mount -t tmpfs -o size=2m tmpfs runs || exit 77
"$@" train run.toml --name run $SETTINGS || exit 10
free=$(df -k --output=avail runs | tail -1)
head -c $((free * 1024 - 65536)) /dev/zero > runs/filler || exit 11
"$@" resume runs/run --steps 24 2> nearly-full.txt
echo $? >> codes.txt
ls runs/run/checkpoints >> left.txt
cat /dev/zero > runs/more 2> /dev/null
"$@" resume runs/run 2> full.txt
echo $? >> codes.txt
ls runs/run/checkpoints >> left.txt
rm runs/filler runs/more
"$@" resume runs/run || exit 12
cp -r runs/run survivor
"#;

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_costs_neither_checkpoints_nor_the_run() {
    use std::process::Command;

    let own_mounts = Command::new("unshare")
        .args(["-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .output();
    if !own_mounts.is_ok_and(|output| output.status.success()) {
        println!(
            "SKIPPED a_disk_that_fills_up_costs_neither_checkpoints_nor_the_run: \
             this system lets no user mount a file system of his own"
        );
        return;
    }
    let folder = Folder::new();
    whole(&folder);
    let settings = SETTINGS.map(|setting| format!("--set {}", setting.replace('\'', "")));
    let mut command = Command::new("unshare");
    command
        .args(["-Urm", "sh", "-c", ON_A_SMALL_DISK, "sh"])
        .arg(env!("CARGO_BIN_EXE_bellows"))
        .env("SETTINGS", settings.join(" "))
        .env_remove("RUST_BACKTRACE")
        .current_dir(folder.path(""));
    let done = crate::common::finish(&mut command).ok();

    assert_eq!(folder.text("codes.txt"), "2\n2\n", "{}", done.stderr);
    let both = "00000006\n00000012\n";
    assert_eq!(folder.text("left.txt"), both.repeat(2));
    for file in ["nearly-full.txt", "full.txt"] {
        let told = folder.text(file);
        assert!(told.contains("No space left on device"), "{told}");
        assert!(told.contains("free some space"), "{told}");
        assert!(!told.contains("panicked"), "{told}");
    }
    std::fs::rename(folder.path("survivor"), folder.run("run")).expect("a run");
    folder.assert_equal_runs("whole", "run", 24);
}

/// The same for a live run that is asked how it is.
#[cfg(target_os = "linux")]
const LIVE_ON_A_SMALL_DISK: &str = r#"
mount -t tmpfs -o size=64m tmpfs runs || exit 77
"$@" train run.toml --name run --set train.steps=1000000 --set checkpoint.every=0 --set evaluate.every=0 \
    --set record.routing_every=0 --set record.memory_every=0 --set record.transitions_every=0 \
    --set record.traces_every=0 2> log.txt &
looks=0
again() { looks=$((looks + 1)); [ $looks -lt 3000 ] && kill -0 $! && sleep 0.1; }
until [ -s runs/run/metrics.jsonl ]; do again || exit 10; done
cat /dev/zero > runs/filler 2> /dev/null
until "$@" status runs/run --json > full.json && grep -q '"trouble"' full.json; do again || exit 11; done
rm runs/filler
until "$@" status runs/run --json > room.json && ! grep -q '"trouble"' room.json; do again || exit 12; done
"$@" ctl runs/run stop --wait || exit 13
wait $! || exit 14
cp -r runs/run survivor
"#;

#[cfg(target_os = "linux")]
#[test]
fn a_live_run_on_a_full_disk_says_so_and_loses_no_row() {
    use std::process::Command;

    let own_mounts = Command::new("unshare")
        .args(["-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .output();
    if !own_mounts.is_ok_and(|output| output.status.success()) {
        println!(
            "SKIPPED a_live_run_on_a_full_disk_says_so_and_loses_no_row: \
             this system lets no user mount a file system of his own"
        );
        return;
    }
    let folder = Folder::new();
    std::fs::create_dir(folder.path("runs")).expect("a folder");
    let mut command = Command::new("unshare");
    command
        .args(["-Urm", "sh", "-c", LIVE_ON_A_SMALL_DISK, "sh"])
        .arg(env!("CARGO_BIN_EXE_bellows"))
        .env_remove("RUST_BACKTRACE")
        .current_dir(folder.path(""));
    crate::common::finish(&mut command).ok();

    let full: serde_json::Value = serde_json::from_str(&folder.text("full.json")).expect("JSON");
    assert_eq!(full["state"], "running");
    let trouble = full["control"]["trouble"].as_str().expect("words");
    assert!(trouble.contains("No space left on device"), "{trouble}");
    assert!(trouble.contains("free some space"), "{trouble}");
    std::fs::create_dir_all(folder.path("runs")).expect("a folder");
    std::fs::rename(folder.path("survivor"), folder.run("run")).expect("a run");
    let rows = folder.metrics("run");
    let last = *rows.last_key_value().expect("rows").0;
    assert_eq!(rows.len() as u64, last, "rows are missing");
    assert_eq!(folder.checkpoints("run"), [last]);
}
