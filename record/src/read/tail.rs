use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::segments::Segments;
use crate::{LineRow, RecordError, Result, StepMetrics};

const BLOCK: u64 = 64 << 10;

/// A line and the rest of the one before it, most likely.
const LINES: u64 = 4 << 10;

/// No row is this long: what has no line end for so long is no metrics file.
const LONGEST_LINE: usize = 8 << 20;

/// The last `n` steps of `metrics.jsonl`, read from the file's end: a first screen does not wait for
/// the history of a million steps.
pub(super) fn last_metrics(
    path: &Path,
    segments: &mut Segments,
    n: usize,
) -> Result<Vec<StepMetrics>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RecordError::io("open", path)(error)),
    };
    let mut read = || {
        let mut start = file.metadata()?.len();
        // Bytes from `start` to where lines were last taken from.
        let mut carry = Vec::new();
        let mut rows = BTreeMap::new();
        let mut has_end = false;
        while start > 0 && rows.len() < n && carry.len() <= LONGEST_LINE {
            let from = start.saturating_sub(BLOCK);
            let mut block = vec![0; (start - from) as usize];
            file.seek(SeekFrom::Start(from))?;
            file.read_exact(&mut block)?;
            start = from;
            block.append(&mut carry);
            if !has_end {
                // What follows the last line end is half written.
                let Some(end) = block.iter().rposition(|&byte| byte == b'\n') else {
                    carry = block;
                    continue;
                };
                block.truncate(end + 1);
                has_end = true;
            }
            // The block's first line may begin before the block.
            let whole = match start {
                0 => 0,
                _ => match block.iter().position(|&byte| byte == b'\n') {
                    Some(end) => end + 1,
                    None => block.len(),
                },
            };
            let lines = block.split_off(whole);
            carry = block;
            for line in lines.rsplit(|&byte| byte == b'\n') {
                let Ok(row) = serde_json::from_slice::<StepMetrics>(line) else {
                    continue;
                };
                let (segment, step) = row.position();
                segments.meet(segment, step);
                // From the end backwards, so the first line met for a step is its last one.
                if segments.counts(segment, step) && rows.len() < n {
                    rows.entry(step).or_insert(row);
                }
            }
        }
        Ok(rows)
    };
    let rows = read().map_err(RecordError::io("read", path))?;
    Ok(rows.into_values().collect())
}

/// Up to `n` steps from all over `metrics.jsonl`, read at places that are evenly spread over the
/// file: a small curve of a million steps costs no more than one of a hundred.
pub(super) fn spread_metrics(
    path: &Path,
    segments: &mut Segments,
    n: usize,
) -> Result<Vec<StepMetrics>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RecordError::io("open", path)(error)),
    };
    let mut read = || {
        let length = file.metadata()?.len();
        let mut rows = BTreeMap::new();
        for place in 0..n as u64 {
            let from = length / n as u64 * place;
            let mut block = Vec::new();
            file.seek(SeekFrom::Start(from))?;
            (&mut file).take(LINES).read_to_end(&mut block)?;
            // The first line may have begun before, the last may go on behind; one between is whole.
            let mut lines = block.split_inclusive(|&byte| byte == b'\n');
            if from > 0 {
                lines.next();
            }
            let Some(row) = lines
                .next()
                .filter(|line| line.ends_with(b"\n"))
                .and_then(|line| serde_json::from_slice::<StepMetrics>(line).ok())
            else {
                continue;
            };
            let (segment, step) = row.position();
            segments.meet(segment, step);
            rows.insert((segment, step), row);
        }
        Ok(rows)
    };
    let rows = read().map_err(RecordError::io("read", path))?;
    let mut spread: Vec<StepMetrics> = rows
        .into_iter()
        .filter(|((segment, step), _)| segments.counts(*segment, *step))
        .map(|(_, row)| row)
        .collect();
    spread.sort_by_key(|row| row.step);
    Ok(spread)
}
