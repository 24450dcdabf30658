//! What can stop a command. A check that merely fails is not an error: commands return `Ok(false)` for that.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is missing or may not be executed.
    #[error("could not start `{command}`: {source}. {hint}")]
    Start {
        /// The command line as a person would type it.
        command: String,
        /// What the operating system said.
        source: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// A program ran and failed; it has already said why.
    #[error("`{command}` failed ({status}); its own messages are above{}{hint}", if hint.is_empty() { "" } else { ". " })]
    Failed {
        /// The command line as a person would type it.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What to do about it, empty where the messages above are enough.
        hint: &'static str,
    },
    /// Cargo's JSON could not be read.
    #[error(
        "could not read the JSON that `{command}` wrote: {source}. Is this cargo older than the `rust-version` of Cargo.toml?"
    )]
    Json {
        /// The command line as a person would type it.
        command: String,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A file that a command needs or makes.
    #[error("could not {action} {}: {source}", path.display())]
    File {
        /// `read`, `write`, `create`, `remove`, `find`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The crate that the SPIR-V tests mend has other text.
    #[error(
        "cubecl-spirv's {file} has not exactly one `{wrong}`: is it another version, perhaps mended? See xtask/src/test/mended.rs"
    )]
    Unmended {
        /// The file inside the crate.
        file: &'static str,
        /// What was to be exchanged.
        wrong: &'static str,
    },
    /// The output of a running test could not be passed on.
    #[error("could not pass on the output of {program}: {source}")]
    Stream {
        /// The program whose output it was.
        program: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// `cargo xtask bench` with nothing to run.
    #[error(
        "no bench matches: benches are example targets whose name starts with `bench_`; the workspace has {}",
        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
    )]
    NoBench {
        /// The benches the workspace does have.
        known: Vec<String>,
    },
}
