//! Programs of their own that a command starts.

use std::fs;
use std::process::Command;

use crate::common::Folder;

/// The program somewhere else, where nothing stands beside it.
fn alone(folder: &Folder) -> std::path::PathBuf {
    let program = folder.path(&format!("alone/bellows{}", std::env::consts::EXE_SUFFIX));
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_bellows"), &program).unwrap();
    program
}

#[test]
fn a_program_that_was_not_built_is_told_with_the_command_that_builds_it() {
    let folder = Folder::new();
    let program = alone(&folder);
    for (command, build) in [
        ("tui", "cargo build --release -p bellows-tui"),
        (
            "view",
            "cargo build --release --manifest-path viewer/Cargo.toml --target-dir target",
        ),
    ] {
        let done = Command::new(&program)
            .arg(command)
            .env("PATH", "")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains(build), "{said}");
    }
}

#[cfg(unix)]
#[test]
fn what_stands_beside_is_started_with_every_argument_and_its_exit_code_is_ours() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let program = alone(&folder);
    let viewer = program.with_file_name("bellows-viewer");
    fs::write(&viewer, "#!/bin/sh\nprintf '%s|' \"$@\"\nexit 7\n").unwrap();
    fs::set_permissions(&viewer, fs::Permissions::from_mode(0o755)).unwrap();
    let done = Command::new(&program)
        .args(["view", "a run", "--panel", "routing-load", "--step", "3"])
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(7));
    assert_eq!(
        String::from_utf8_lossy(&done.stdout),
        "a run|--panel|routing-load|--step|3|"
    );
}
