//! What a person should know about a run's files.

use std::path::Path;

use bellows_record::{BadLines, StreamProblem, StreamReader, StreamRow};

use super::Stream;
use super::run::{Streams, read};
use super::snapshot::{Note, RunSnapshot, Severity};
use crate::Gap;

pub(super) fn notes(
    snapshot: &RunSnapshot,
    streams: &Streams,
    lines: &[(&str, &BadLines)],
) -> Vec<Note> {
    let mut notes = Vec::new();
    of_stream(&mut notes, snapshot, &read(&streams.routing));
    of_stream(&mut notes, snapshot, &read(&streams.routers));
    of_stream(&mut notes, snapshot, &read(&streams.transitions));
    of_stream(&mut notes, snapshot, &read(&streams.memory));
    for (file, bad) in lines {
        let Some(last) = &bad.last else { continue };
        notes.push(Note {
            severity: Severity::Warning,
            file: (*file).to_owned(),
            text: format!(
                "{} unreadable line(s); the last is line {}: {}",
                bad.count, last.line, last.message
            ),
            remedy: "they are left out; a killed process leaves such a line behind".to_owned(),
        });
    }
    for (file, result) in [
        ("config.toml", streams.reader.config().err()),
        ("plan.json", streams.reader.plan().err()),
    ] {
        if let Some(error) = result {
            notes.push(Note {
                severity: Severity::Warning,
                file: file.to_owned(),
                text: error.to_string(),
                remedy: "what depends on it is not shown".to_owned(),
            });
        }
    }
    for (file, stream, steps) in [
        ("routing", Stream::Routing, &snapshot.routing),
        ("transitions", Stream::Transitions, &snapshot.transitions),
        ("memory", Stream::Memory, &snapshot.memory),
        ("traces", Stream::Traces, &snapshot.traces),
    ] {
        if steps.is_empty()
            && let Gap::NotRecorded { what, why, remedy } = snapshot.not_recorded(stream)
        {
            notes.push(Note {
                severity: Severity::Info,
                file: file.to_owned(),
                text: format!("{what} was not recorded: {why}"),
                remedy,
            });
        }
    }
    notes
}

fn of_stream<R: StreamRow>(
    notes: &mut Vec<Note>,
    snapshot: &RunSnapshot,
    stream: &StreamReader<R>,
) {
    let live = snapshot.liveness.is_some_and(|liveness| liveness.is_live());
    let shown = match stream.latest() {
        Some(step) => format!("everything up to step {step} is shown"),
        None => "nothing of it can be shown".to_owned(),
    };
    for problem in stream.problems() {
        notes.push(Note {
            severity: Severity::Warning,
            file: file_name(&problem.path),
            text: format!(
                "cannot be read beyond byte {}: {}",
                problem.offset, problem.message
            ),
            remedy: shown.clone(),
        });
    }
    if live {
        // The writer is about to finish its batch.
        return;
    }
    for StreamProblem {
        path,
        offset,
        message,
    } in stream.half_written()
    {
        notes.push(Note {
            severity: Severity::Warning,
            file: file_name(&path),
            text: format!("is cut: {message} follow byte {offset}"),
            remedy: format!(
                "{shown}; the process was killed while it wrote, or the file was cut later"
            ),
        });
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

impl RunSnapshot {
    /// Why a stream has no records.
    pub(crate) fn not_recorded(&self, stream: Stream) -> Gap {
        if let Some(problem) = &self.problem {
            return problem.clone();
        }
        let what = stream.words().to_owned();
        let Some(manifest) = &self.manifest else {
            return Gap::Opening { what: "the run" };
        };
        if self.loading == super::Loading::Opening {
            return Gap::Opening {
                what: stream.words(),
            };
        }
        let gap = |why: String, remedy: String| Gap::NotRecorded { what, why, remedy };
        if stream != Stream::Memory && manifest.info.model.experts == 0 {
            return gap(
                "the model is dense: it has no experts".to_owned(),
                String::new(),
            );
        }
        let key = match stream {
            Stream::Routing => "routing_every",
            Stream::Transitions => "transitions_every",
            Stream::Memory => "memory_every",
            Stream::Traces => "traces_every",
        };
        let every = self
            .config
            .parse::<toml::Table>()
            .ok()
            .and_then(|config| config.get("record")?.get(key)?.as_integer());
        let step = manifest.progress.step;
        match every {
            Some(0) => gap(
                format!("the run was configured with record.{key} = 0"),
                format!("train with --set record.{key}=50"),
            ),
            Some(every) if (step as i64) < every => gap(
                format!("it is recorded every {every} steps, and the run has taken {step}"),
                format!(
                    "wait, or train with --set record.{key}={}",
                    (step / 2).max(1)
                ),
            ),
            _ => gap(
                "the run has no such file".to_owned(),
                format!("train with record.{key} above 0; a copy of a run needs all its files"),
            ),
        }
    }
}
