use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::{ArrowError, DataType, Field, Schema};

use super::column::Column;

/// The first column of every table that belongs to a step.
pub(crate) const STEP: &str = "step";

/// A row of an Arrow table. Implemented by this crate's row types alone.
pub trait TableRow: Sized + Send + 'static {
    /// Its columns, without the step.
    #[doc(hidden)]
    fn fields() -> Vec<Field>;
    #[doc(hidden)]
    fn pack(rows: &[Self]) -> Vec<ArrayRef>;
    #[doc(hidden)]
    fn unpack(batch: &RecordBatch) -> Result<Vec<Self>, String>;
}

/// A row of one of the streams `<STREAM>.<n>.arrows`, which hold one or more batches a step.
pub trait StreamRow: TableRow {
    /// The first part of the files' names.
    const STREAM: &'static str;
}

/// One table of fields makes the struct and its Arrow form.
macro_rules! table_row {
    ($(#[$struct_doc:meta])* pub struct $name:ident { $($(#[$doc:meta])* pub $field:ident: $type:ty,)+ }) => {
        $(#[$struct_doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)+
        }

        impl $crate::rows::TableRow for $name {
            fn fields() -> Vec<arrow_schema::Field> {
                vec![$($crate::rows::table::field::<$type>(stringify!($field))),+]
            }

            fn pack(rows: &[Self]) -> Vec<arrow_array::ArrayRef> {
                use $crate::rows::column::Column;
                vec![$(<$type as Column>::pack(rows.iter().map(|row| &row.$field))),+]
            }

            fn unpack(batch: &arrow_array::RecordBatch) -> Result<Vec<Self>, String> {
                use $crate::rows::table::Reader;
                $(let $field = Reader::<$type>::new(batch, stringify!($field))?;)+
                (0..batch.num_rows()).map(|row| Ok(Self { $($field: $field.get(row)?),+ })).collect()
            }
        }
    };
}
pub(super) use table_row;

pub(super) fn field<C: Column>(name: &str) -> Field {
    Field::new(name, C::DATA_TYPE, C::NULLABLE)
}

/// One column of a batch that came from a file.
pub(super) struct Reader<'a, C: Column> {
    name: &'static str,
    array: Option<&'a C::Array>,
}

impl<'a, C: Column> Reader<'a, C> {
    pub(super) fn new(batch: &'a RecordBatch, name: &'static str) -> Result<Self, String> {
        let Some(column) = batch.column_by_name(name) else {
            return match C::missing() {
                Some(_) => Ok(Self { name, array: None }),
                None => Err(format!("there is no column {name:?}")),
            };
        };
        match column.as_any().downcast_ref() {
            Some(array) => Ok(Self {
                name,
                array: Some(array),
            }),
            None => Err(format!(
                "column {name:?} holds {} instead of {}",
                column.data_type(),
                C::DATA_TYPE
            )),
        }
    }

    pub(super) fn get(&self, row: usize) -> Result<C, String> {
        match self.array {
            Some(array) => C::get(array, row),
            None => C::missing().ok_or_else(|| "there is no such column".to_owned()),
        }
        .map_err(|what| format!("column {:?}, row {row}: {what}", self.name))
    }
}

pub(crate) fn schema<R: TableRow>(metadata: HashMap<String, String>) -> Schema {
    Schema::new_with_metadata(R::fields(), metadata)
}

pub(crate) fn step_schema<R: TableRow>(metadata: HashMap<String, String>) -> Schema {
    let mut fields = vec![Field::new(STEP, DataType::UInt64, false)];
    fields.extend(R::fields());
    Schema::new_with_metadata(fields, metadata)
}

pub(crate) fn batch<R: TableRow>(
    schema: &Arc<Schema>,
    rows: &[R],
) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new(Arc::clone(schema), R::pack(rows))
}

pub(crate) fn step_batch<R: TableRow>(
    schema: &Arc<Schema>,
    step: u64,
    rows: &[R],
) -> Result<RecordBatch, ArrowError> {
    let steps: ArrayRef = Arc::new(UInt64Array::from_value(step, rows.len()));
    let mut columns = vec![steps];
    columns.extend(R::pack(rows));
    RecordBatch::try_new(Arc::clone(schema), columns)
}
