use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::frames::{Frame, decode, frame_at, read_at};
use super::segments::Segments;
use crate::layout::{PROBE, TRACES, parse_trace_file};
use crate::rows::TableRow;
use crate::{ProbeToken, RecordError, Result, TraceRow};

const MAGIC: &[u8; 6] = b"ARROW1";

/// Writers pad the magic to their alignment: 8 bytes by the format, 64 in arrow-rs.
const LONGEST_START: u64 = 64;

/// The trace that counts of each step: its path and segment.
pub(super) fn traces(run: &Path, segments: &mut Segments) -> Result<BTreeMap<u64, PathBuf>> {
    let directory = run.join(TRACES);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(RecordError::io("read", &directory)(error)),
    };
    segments.refresh();
    let mut found: Vec<(u64, u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let (step, segment) = parse_trace_file(entry.file_name().to_str()?)?;
            segments
                .counts(segment, step)
                .then(|| (step, segment, entry.path()))
        })
        .collect();
    // Of two that count, the later segment's comes last and stays.
    found.sort();
    Ok(found
        .into_iter()
        .map(|(step, _, path)| (step, path))
        .collect())
}

pub(super) fn trace(run: &Path, segments: &mut Segments, step: u64) -> Result<Vec<TraceRow>> {
    match traces(run, segments)?.get(&step) {
        Some(path) => read_table(path),
        None => Ok(Vec::new()),
    }
}

pub(super) fn probe(run: &Path) -> Result<Vec<ProbeToken>> {
    let path = run.join(TRACES).join(PROBE);
    match path.try_exists() {
        Ok(false) => Ok(Vec::new()),
        _ => read_table(&path),
    }
}

/// Reads a whole Arrow IPC file: its magic, then a stream with its end, then a footer that repeats
/// where the stream's messages are.
fn read_table<R: TableRow>(path: &Path) -> Result<Vec<R>> {
    let io = |error| RecordError::io("read", path)(error);
    let damaged = |message: &str| RecordError::arrow(path, message);
    let mut file = File::open(path).map_err(RecordError::io("open", path))?;
    let end = file.metadata().map_err(io)?.len();
    let mut magic = [[0; 6]; 2];
    if end < 2 * MAGIC.len() as u64 {
        return Err(damaged("not a whole Arrow file: it is too short"));
    }
    read_at(&mut file, 0, &mut magic[0]).map_err(io)?;
    read_at(&mut file, end - MAGIC.len() as u64, &mut magic[1]).map_err(io)?;
    if magic != [*MAGIC; 2] {
        return Err(damaged("not a whole Arrow file: a part of it is missing"));
    }
    let mut offset = 8;
    let mut word = [0; 8];
    while offset < LONGEST_START.min(end - 8) {
        read_at(&mut file, offset, &mut word).map_err(io)?;
        if word != [0; 8] {
            break;
        }
        offset += 8;
    }
    let (mut rows, mut schema) = (Vec::new(), Vec::new());
    loop {
        let frame = frame_at(&mut file, offset, end).map_err(io)?;
        let length = match frame {
            Frame::Schema { length } | Frame::Batch { length, .. } => length,
            Frame::End => return Ok(rows),
            Frame::Incomplete => return Err(damaged("its last batch is not complete")),
            Frame::Garbage(message) => return Err(damaged(&message)),
        };
        let mut message = vec![0; length as usize];
        read_at(&mut file, offset, &mut message).map_err(io)?;
        offset += length;
        if schema.is_empty() {
            schema = message;
            continue;
        }
        let batch = decode(&schema, &message).map_err(|message| damaged(&message))?;
        rows.extend(R::unpack(&batch).map_err(|message| damaged(&message))?);
    }
}
