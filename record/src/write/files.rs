use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_schema::{ArrowError, Schema};

use super::append::{Appender, Grows};
use super::atomic::replace_file;
use crate::layout;
use crate::rows::{LineRow, StreamRow, batch, schema, step_batch, step_schema};
use crate::{ProbeToken, RecordError, Result, SCHEMA_VERSION, TraceRow};

/// Keys of every Arrow file's schema metadata.
fn metadata(segment: u32) -> HashMap<String, String> {
    HashMap::from([
        (
            "bellows.schema_version".to_owned(),
            SCHEMA_VERSION.to_string(),
        ),
        ("bellows.segment".to_owned(), segment.to_string()),
    ])
}

pub(crate) fn append_line(file: &mut Appender, row: &impl LineRow) -> Result<()> {
    let mut line = serde_json::to_vec(row).expect("rows have string keys and plain values");
    line.push(b'\n');
    file.append(line)
}

/// `<stream>.<segment>.arrows`, made with its first batch.
pub(crate) struct StreamFile<R> {
    path: PathBuf,
    schema: Arc<Schema>,
    /// Encodes into memory, so that a batch reaches the file as a whole.
    encoder: Option<StreamWriter<Vec<u8>>>,
    file: Appender,
    rows: std::marker::PhantomData<R>,
}

impl<R: StreamRow> StreamFile<R> {
    pub(crate) fn new(run: &Path, segment: u32) -> Self {
        let path = run.join(layout::stream_file(R::STREAM, segment));
        Self {
            file: Appender::new(path.clone(), false),
            path,
            schema: Arc::new(step_schema::<R>(metadata(segment))),
            encoder: None,
            rows: std::marker::PhantomData,
        }
    }

    pub(crate) fn append(&mut self, step: u64, rows: &[R]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let bytes = self
            .encode(step, rows)
            .map_err(|error| RecordError::arrow(&self.path, error))?;
        self.file.append(bytes)
    }

    fn encode(&mut self, step: u64, rows: &[R]) -> Result<Vec<u8>, ArrowError> {
        let batch = step_batch(&self.schema, step, rows)?;
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            // The schema's message goes out with the first batch.
            none => none.insert(StreamWriter::try_new(Vec::new(), &self.schema)?),
        };
        encoder.write(&batch)?;
        Ok(std::mem::take(encoder.get_mut()))
    }
}

impl<R: StreamRow> Grows for StreamFile<R> {
    fn retry(&mut self) -> Result<()> {
        self.file.retry()
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync()
    }

    /// Marks the stream's end, if there is a stream.
    fn finish(&mut self) -> Result<()> {
        if let Some(mut encoder) = self.encoder.take() {
            encoder
                .finish()
                .map_err(|error| RecordError::arrow(&self.path, error))?;
            self.file.append(std::mem::take(encoder.get_mut()))?;
        }
        self.sync()
    }
}

pub(crate) fn write_trace(run: &Path, segment: u32, step: u64, rows: &[TraceRow]) -> Result<()> {
    let path = run
        .join(layout::TRACES)
        .join(layout::trace_file(step, segment));
    let schema = Arc::new(step_schema::<TraceRow>(metadata(segment)));
    write_table(&path, &schema, step_batch(&schema, step, rows))
}

pub(crate) fn write_probe(run: &Path, segment: u32, tokens: &[ProbeToken]) -> Result<()> {
    let path = run.join(layout::TRACES).join(layout::PROBE);
    let schema = Arc::new(schema::<ProbeToken>(metadata(segment)));
    write_table(&path, &schema, batch::<ProbeToken>(&schema, tokens))
}

fn write_table(
    path: &Path,
    schema: &Schema,
    batch: Result<arrow_array::RecordBatch, ArrowError>,
) -> Result<()> {
    let encode = || {
        let mut writer = FileWriter::try_new(Vec::new(), schema)?;
        writer.write(&batch?)?;
        writer.finish()?;
        writer.into_inner()
    };
    let bytes = encode().map_err(|error: ArrowError| RecordError::arrow(path, error))?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(RecordError::io("create", directory))?;
    }
    replace_file(path, &bytes)
}
