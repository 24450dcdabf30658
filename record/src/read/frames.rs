//! The framing of an Arrow IPC stream: where its messages lie, without reading their bodies.
//!
//! <https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format>

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use arrow_ipc::reader::StreamReader;
use arrow_ipc::{MessageHeader, RecordBatch, root_as_message};
use arrow_schema::{DataType, Schema, SchemaRef};

use crate::rows::STEP;

const CONTINUATION: [u8; 4] = [0xff; 4];

/// The metadata of our tables takes a few KiB; much more is a length read from garbage.
const LONGEST_METADATA: u64 = 1 << 20;

/// What stands at a place of the stream.
pub(super) enum Frame {
    /// The schema, in `length` bytes.
    Schema { length: u64 },
    /// A batch in `length` bytes. An eight-byte value at `first` is its first column's first.
    Batch {
        length: u64,
        rows: u64,
        first: Option<u64>,
    },
    /// The writer ended the stream here.
    End,
    /// The rest is not there yet.
    Incomplete,
    /// No message of ours.
    Garbage(String),
}

/// Looks at the message that begins at `offset`, in a file `end` bytes long.
pub(super) fn frame_at(file: &mut File, offset: u64, end: u64) -> io::Result<Frame> {
    let mut prefix = [0u8; 8];
    if end < offset + prefix.len() as u64 {
        return Ok(Frame::Incomplete);
    }
    read_at(file, offset, &mut prefix)?;
    let [marker, length] = [0, 4].map(|at| [0, 1, 2, 3].map(|i| prefix[at + i]));
    if marker != CONTINUATION {
        return Ok(Frame::Garbage("no Arrow message begins here".to_owned()));
    }
    let metadata_length = u64::from(u32::from_le_bytes(length));
    if metadata_length == 0 {
        return Ok(Frame::End);
    }
    if metadata_length > LONGEST_METADATA {
        return Ok(Frame::Garbage(format!(
            "an Arrow message claims {metadata_length} bytes of metadata"
        )));
    }
    let body = offset + prefix.len() as u64 + metadata_length;
    if end < body {
        return Ok(Frame::Incomplete);
    }
    let mut metadata = vec![0; metadata_length as usize];
    read_at(file, offset + prefix.len() as u64, &mut metadata)?;
    let message = match root_as_message(&metadata) {
        Ok(message) => message,
        Err(error) => return Ok(Frame::Garbage(format!("a damaged Arrow message: {error}"))),
    };
    let body_length = u64::try_from(message.bodyLength()).unwrap_or(u64::MAX);
    let Some(whole) = body.checked_add(body_length) else {
        return Ok(Frame::Garbage(
            "an Arrow message of impossible length".to_owned(),
        ));
    };
    if end < whole {
        return Ok(Frame::Incomplete);
    }
    let length = whole - offset;
    Ok(match message.header_type() {
        MessageHeader::Schema => Frame::Schema { length },
        MessageHeader::RecordBatch => {
            match message
                .header_as_record_batch()
                .and_then(|batch| measure(batch, body_length))
            {
                Some((rows, first)) => Frame::Batch {
                    length,
                    rows,
                    first: first.map(|first| body + first),
                },
                None => Frame::Garbage("an Arrow batch whose parts do not fit".to_owned()),
            }
        }
        other => Frame::Garbage(format!("an Arrow message of type {other:?}")),
    })
}

/// A batch's rows, and where in its body the first column's first value lies (if it takes eight
/// bytes). `None` for what arrow-ipc takes on trust and would panic on.
fn measure(batch: RecordBatch<'_>, body_length: u64) -> Option<(u64, Option<u64>)> {
    if batch.compression().is_some() {
        return None;
    }
    let rows = u64::try_from(batch.length()).ok()?;
    let nodes_fit = batch.nodes()?.iter().all(|node| {
        u64::try_from(node.length()) == Ok(rows) && (0..=node.length()).contains(&node.null_count())
    });
    // A row takes at least a bit.
    if !nodes_fit || rows / 8 > body_length {
        return None;
    }
    let buffers = batch.buffers()?;
    for buffer in buffers {
        let offset = u64::try_from(buffer.offset()).ok()?;
        let length = u64::try_from(buffer.length()).ok()?;
        if offset.checked_add(length)? > body_length {
            return None;
        }
    }
    // The values are the second buffer, after the validity bits.
    let first = (buffers.len() > 1 && buffers.get(1).length() >= 8)
        .then(|| buffers.get(1).offset().unsigned_abs());
    Some((rows, first))
}

/// Refuses what no table of ours has: nested or encoded columns.
fn check_columns(schema: &Schema) -> Result<(), String> {
    for field in schema.fields() {
        let data_type = field.data_type();
        let plain =
            data_type.is_primitive() || matches!(data_type, DataType::Utf8 | DataType::Boolean);
        if !plain {
            return Err(format!("column {:?} is of type {data_type}", field.name()));
        }
    }
    Ok(())
}

/// Makes sure that a batch's first value is its step.
pub(super) fn check_step(schema: &Schema) -> Result<(), String> {
    match schema.fields().first() {
        Some(field) if field.name() == STEP && field.data_type() == &DataType::UInt64 => Ok(()),
        _ => Err(format!("its first column is not {STEP:?} of type UInt64")),
    }
}

pub(super) fn read_at(file: &mut File, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(bytes)
}

/// Decodes the batch in `message`, which [`frame_at`] has looked at, after the message of its schema.
pub(super) fn decode(schema: &[u8], message: &[u8]) -> Result<arrow_array::RecordBatch, String> {
    let mut reader = open_schema(schema.chain(message))?;
    match reader.next() {
        Some(Ok(batch)) => Ok(batch),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("it is missing".to_owned()),
    }
}

/// Decodes a schema's message.
pub(super) fn decode_schema(message: &[u8]) -> Result<SchemaRef, String> {
    Ok(open_schema(message)?.schema())
}

fn open_schema<R: Read>(messages: R) -> Result<StreamReader<R>, String> {
    let reader = StreamReader::try_new(messages, None).map_err(|error| error.to_string())?;
    check_columns(&reader.schema())?;
    Ok(reader)
}
