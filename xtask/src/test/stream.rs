//! Passes a program's output on to the terminal as it comes, while something listens.

use std::io::{self, PipeReader, Read, Write};
use std::process::{Command, ExitStatus, Stdio};

use super::transcript::Transcript;
use crate::cargo;
use crate::error::Error;

/// What listens to a program's output.
pub trait Listener {
    /// Takes a line without its colours and its end; false where it should not be shown.
    fn line(&mut self, line: &str) -> bool;

    /// Whether the beginning of an unfinished line should be shown at once.
    fn shows_early(&self, beginning: &[u8]) -> bool;
}

impl Listener for Transcript {
    fn line(&mut self, line: &str) -> bool {
        self.line(line)
    }

    fn shows_early(&self, beginning: &[u8]) -> bool {
        self.shows_early(beginning)
    }
}

/// Runs a command with both its outputs in one pipe, so that they stay in order, and shows the lines that the listener
/// lets pass.
pub fn watch(command: &mut Command, output: &mut impl Listener) -> Result<ExitStatus, Error> {
    let shown = cargo::shown(command);
    let stream = |source| Error::Stream {
        program: shown.clone(),
        source,
    };
    let (reader, writer) = io::pipe().map_err(stream)?;
    command
        .stderr(writer.try_clone().map_err(stream)?)
        .stdout(writer);
    let mut child = command.spawn().map_err(|source| Error::Start {
        command: cargo::shown(command),
        source,
        hint: "Is it still where the build put it?",
    })?;
    // The command keeps our ends of the pipe, and while they are open it has no end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let streamed = pass_on(reader, output);
    let status = child.wait().map_err(stream)?;
    streamed.map_err(stream)?;
    Ok(status)
}

fn pass_on(mut reader: PipeReader, output: &mut impl Listener) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut line: Vec<u8> = Vec::new();
    let mut shown = 0;
    let mut chunk = [0; 8192];
    loop {
        let count = match reader.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        if count == 0 {
            break;
        }
        for piece in chunk[..count].split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if line.ends_with(b"\n") {
                if output.line(&plain(&line)) || shown > 0 {
                    out.write_all(&line[shown..])?;
                }
                line.clear();
                shown = 0;
            }
        }
        if output.shows_early(&line) {
            out.write_all(&line[shown..])?;
            shown = line.len();
        }
        out.flush()?;
    }
    if !line.is_empty() && (output.line(&plain(&line)) || shown > 0) {
        out.write_all(&line[shown..])?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// A line without its colours and its end.
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    anstream::adapter::strip_str(text.trim_end_matches(['\n', '\r'])).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_broken_across_reads_are_read_whole() {
        struct Lines(Vec<String>);
        impl Listener for Lines {
            fn line(&mut self, line: &str) -> bool {
                self.0.push(line.to_owned());
                false
            }

            fn shows_early(&self, _: &[u8]) -> bool {
                false
            }
        }
        let (reader, mut writer) = io::pipe().unwrap();
        let writing = std::thread::spawn(move || {
            for piece in ["test a", " ... \u{1b}[32mok\u{1b}[0m\r\nnext\nla", "st"] {
                writer.write_all(piece.as_bytes()).unwrap();
            }
        });
        let mut lines = Lines(Vec::new());
        pass_on(reader, &mut lines).unwrap();
        writing.join().unwrap();
        assert_eq!(lines.0, ["test a ... ok", "next", "last"]);
    }
}
