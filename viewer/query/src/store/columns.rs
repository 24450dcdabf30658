//! Columns of a record's Arrow batches, without a row struct for each row.

use bellows_record::arrow_array::types::{Float32Type, UInt32Type, UInt64Type};
use bellows_record::arrow_array::{
    Array, ArrowPrimitiveType, PrimitiveArray, RecordBatch, StringArray,
};

use crate::Gap;

/// The columns of one batch.
pub(crate) struct Columns<'a> {
    batch: &'a RecordBatch,
    what: &'static str,
    step: u64,
}

impl<'a> Columns<'a> {
    /// Of a batch of the stream `what`, at `step`.
    pub(crate) fn new(batch: &'a RecordBatch, what: &'static str, step: u64) -> Self {
        Self { batch, what, step }
    }

    pub(crate) fn u32(&self, name: &str) -> Result<&'a [u32], Gap> {
        Ok(self.primitive::<UInt32Type>(name)?.values())
    }

    pub(crate) fn u64(&self, name: &str) -> Result<&'a [u64], Gap> {
        Ok(self.primitive::<UInt64Type>(name)?.values())
    }

    pub(crate) fn f32(&self, name: &str) -> Result<&'a [f32], Gap> {
        Ok(self.primitive::<Float32Type>(name)?.values())
    }

    /// A column that may be absent, as in a file of an older version, or hold nulls.
    pub(crate) fn optional_f32(
        &self,
        name: &str,
    ) -> Result<Option<&'a PrimitiveArray<Float32Type>>, Gap> {
        self.optional(name)
    }

    /// As [`optional_f32`](Self::optional_f32).
    pub(crate) fn optional_u32(
        &self,
        name: &str,
    ) -> Result<Option<&'a PrimitiveArray<UInt32Type>>, Gap> {
        self.optional(name)
    }

    pub(crate) fn text(&self, name: &str) -> Result<&'a StringArray, Gap> {
        let found: &StringArray = self.column(name)?;
        self.without_nulls(name, found).map(|()| found)
    }

    fn primitive<T: ArrowPrimitiveType>(&self, name: &str) -> Result<&'a PrimitiveArray<T>, Gap> {
        let found: &PrimitiveArray<T> = self.column(name)?;
        self.without_nulls(name, found).map(|()| found)
    }

    fn optional<T: ArrowPrimitiveType>(
        &self,
        name: &str,
    ) -> Result<Option<&'a PrimitiveArray<T>>, Gap> {
        match self.batch.column_by_name(name) {
            Some(_) => self.column(name).map(Some),
            None => Ok(None),
        }
    }

    fn column<A: Array + 'static>(&self, name: &str) -> Result<&'a A, Gap> {
        let column = self
            .batch
            .column_by_name(name)
            .ok_or_else(|| self.damaged(format!("there is no column {name:?}")))?;
        column
            .as_any()
            .downcast_ref()
            .ok_or_else(|| self.damaged(format!("column {name:?} holds {}", column.data_type())))
    }

    fn without_nulls(&self, name: &str, array: &dyn Array) -> Result<(), Gap> {
        if array.null_count() == 0 {
            Ok(())
        } else {
            Err(self.damaged(format!("column {name:?} lacks values")))
        }
    }

    fn damaged(&self, why: String) -> Gap {
        Gap::Unreadable {
            message: format!(
                "the record of {} at step {} is damaged: {why}",
                self.what, self.step
            ),
            remedy: "other steps can still be read; move the cursor".to_owned(),
        }
    }
}
