//! Parquet files, a batch of rows at a time.

use std::fs::File;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowDictionaryKeyType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{ConvertedType, LogicalType, Type as PhysicalType};
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};
use serde_json::{Map, Value};

use super::render::Renderer;
use super::{ListedFile, Reader, Visit, lossy};
use crate::{CorpusReport, DataError};

/// Rows decoded at once.
const ROWS: usize = 256;

pub(super) fn read(
    reader: &Reader<'_>,
    file: &ListedFile,
    renderer: &Renderer,
    report: &mut CorpusReport,
    visit: &mut Visit<'_>,
) -> Result<(), DataError> {
    let input = match File::open(&file.path) {
        Ok(input) => input,
        Err(error) => {
            report.skip_unreadable(&file.name, &error);
            return Ok(());
        }
    };
    let malformed = |error: parquet::errors::ParquetError| DataError::Parquet {
        path: file.path.clone(),
        message: error.to_string(),
    };
    let stored = ArrowReaderMetadata::load(&input, ArrowReaderOptions::new()).map_err(malformed)?;
    // Strings are read as bytes, so that invalid UTF-8 is replaced and counted instead of ending
    // the file.
    let schema = bytes_for_strings(
        &stored
            .metadata()
            .file_metadata()
            .schema_descr()
            .root_schema_ptr(),
    )
    .map_err(malformed)?;
    let options = ArrowReaderOptions::new()
        .with_skip_arrow_metadata(true)
        .with_parquet_schema(Arc::new(SchemaDescriptor::new(schema)));
    let metadata = ArrowReaderMetadata::load(&input, options).map_err(malformed)?;

    let available: Vec<String> = metadata
        .schema()
        .fields()
        .iter()
        .map(|f| f.name().clone())
        .collect();
    let columns = renderer.columns();
    if let Some((key, column)) = columns
        .iter()
        .find(|(_, column)| !available.contains(column))
    {
        return Err(DataError::Column {
            path: file.path.clone(),
            key,
            column: column.clone(),
            available,
        });
    }
    let optional = renderer.optional_columns();
    let wanted: Vec<usize> = (0..available.len())
        .filter(|i| {
            let name = &available[*i];
            columns.iter().any(|(_, column)| column == name) || optional.contains(&name.as_str())
        })
        .collect();
    let projection = ProjectionMask::roots(metadata.parquet_schema(), wanted);
    let rows = metadata.metadata().file_metadata().num_rows().max(1) as u64;
    let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata)
        .with_projection(projection)
        .with_batch_size(ROWS)
        .build()
        .map_err(malformed)?;

    let mut row = 0u64;
    let mut next = 0;
    for batch in batches {
        let batch = match batch {
            Ok(batch) => batch,
            // The rows before are good and already handed on.
            Err(error) => {
                report.skip_file(
                    &file.name,
                    format!("cannot be read after row {row}: {error}"),
                );
                return Ok(());
            }
        };
        let schema = batch.schema();
        for index in 0..batch.num_rows() {
            let mut replaced = 0;
            let values: Result<Map<String, Value>, String> = schema
                .fields()
                .iter()
                .zip(batch.columns())
                .map(|(field, column)| {
                    let value = value(column, index, &mut replaced)
                        .map_err(|e| format!("column {:?}: {e}", field.name()))?;
                    Ok((field.name().clone(), value))
                })
                .collect();
            match values.and_then(|values| renderer.render(&Value::Object(values))) {
                Ok(rendered) => {
                    report.replaced_sequences += replaced;
                    report.documents_with_replacements += u64::from(replaced > 0);
                    if rendered.is_empty() {
                        report.empty_documents += 1;
                    } else {
                        let consumed = file.bytes / rows;
                        let flow = reader.emit(file, row, rendered, consumed, &mut next, visit);
                        if flow.is_break() {
                            return Ok(());
                        }
                    }
                }
                Err(reason) => report.skip_row(&file.name, row + 1, reason),
            }
            row += 1;
        }
    }
    Ok(())
}

/// The same schema with text columns as plain byte columns.
fn bytes_for_strings(schema: &TypePtr) -> parquet::errors::Result<TypePtr> {
    let info = schema.get_basic_info();
    let id = info.has_id().then(|| info.id());
    let rebuilt = if schema.is_group() {
        let fields = schema
            .get_fields()
            .iter()
            .map(bytes_for_strings)
            .collect::<Result<Vec<_>, _>>()?;
        let mut group = Type::group_type_builder(schema.name())
            .with_fields(fields)
            .with_id(id)
            .with_converted_type(info.converted_type())
            .with_logical_type(info.logical_type_ref().cloned());
        if info.has_repetition() {
            group = group.with_repetition(info.repetition());
        }
        group.build()?
    } else {
        let text = matches!(
            info.logical_type_ref(),
            Some(LogicalType::String | LogicalType::Json)
        ) || matches!(
            info.converted_type(),
            ConvertedType::UTF8 | ConvertedType::JSON
        );
        if !text || schema.get_physical_type() != PhysicalType::BYTE_ARRAY {
            return Ok(schema.clone());
        }
        Type::primitive_type_builder(schema.name(), PhysicalType::BYTE_ARRAY)
            .with_repetition(info.repetition())
            .with_id(id)
            .build()?
    };
    Ok(Arc::new(rebuilt))
}

/// One cell as JSON, which is what templates see.
fn value(array: &ArrayRef, row: usize, replaced: &mut u64) -> Result<Value, String> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    let mut text = |bytes: &[u8]| {
        let (text, count) = lossy::decode(bytes);
        *replaced += count;
        Value::String(text)
    };
    Ok(match array.data_type() {
        DataType::Binary => text(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => text(array.as_binary::<i64>().value(row)),
        DataType::BinaryView => text(array.as_binary_view().value(row)),
        DataType::Utf8 => Value::from(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Value::from(array.as_string::<i64>().value(row)),
        DataType::Utf8View => Value::from(array.as_string_view().value(row)),
        DataType::Boolean => Value::from(array.as_boolean().value(row)),
        DataType::Int8 => Value::from(array.as_primitive::<Int8Type>().value(row)),
        DataType::Int16 => Value::from(array.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => Value::from(array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => Value::from(array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => Value::from(array.as_primitive::<UInt8Type>().value(row)),
        DataType::UInt16 => Value::from(array.as_primitive::<UInt16Type>().value(row)),
        DataType::UInt32 => Value::from(array.as_primitive::<UInt32Type>().value(row)),
        DataType::UInt64 => Value::from(array.as_primitive::<UInt64Type>().value(row)),
        DataType::Float32 => Value::from(array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => Value::from(array.as_primitive::<Float64Type>().value(row)),
        DataType::List(_) => items(&array.as_list::<i32>().value(row), replaced)?,
        DataType::LargeList(_) => items(&array.as_list::<i64>().value(row), replaced)?,
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let fields = fields
                .iter()
                .zip(columns)
                .map(|(field, column)| Ok((field.name().clone(), value(column, row, replaced)?)));
            Value::Object(fields.collect::<Result<_, String>>()?)
        }
        DataType::Dictionary(key, _) => match key.as_ref() {
            DataType::Int8 => keyed::<Int8Type>(array, row, replaced)?,
            DataType::Int16 => keyed::<Int16Type>(array, row, replaced)?,
            DataType::Int32 => keyed::<Int32Type>(array, row, replaced)?,
            DataType::Int64 => keyed::<Int64Type>(array, row, replaced)?,
            other => return Err(format!("dictionary keys of type {other} are not supported")),
        },
        other => {
            return Err(format!(
                "type {other} is not text, a number, a list or a struct"
            ));
        }
    })
}

fn items(list: &ArrayRef, replaced: &mut u64) -> Result<Value, String> {
    (0..list.len())
        .map(|i| value(list, i, replaced))
        .collect::<Result<Vec<_>, _>>()
        .map(Value::Array)
}

fn keyed<K: ArrowDictionaryKeyType>(
    array: &ArrayRef,
    row: usize,
    replaced: &mut u64,
) -> Result<Value, String> {
    let dictionary = array.as_dictionary::<K>();
    match dictionary.key(row) {
        Some(key) => value(dictionary.values(), key, replaced),
        None => Ok(Value::Null),
    }
}
