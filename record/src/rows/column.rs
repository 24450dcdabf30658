use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Float32Array, StringArray, UInt32Array, UInt64Array};
use arrow_schema::DataType;

/// A Rust type that is a column of an Arrow table.
pub trait Column: Sized {
    /// The column's type in Arrow.
    const DATA_TYPE: DataType;
    /// Whether values may be missing.
    const NULLABLE: bool = false;
    /// The array that holds the column.
    type Array: Array + 'static;

    /// Packs values into an array.
    fn pack<'a>(values: impl ExactSizeIterator<Item = &'a Self>) -> ArrayRef
    where
        Self: 'a;

    /// The value at `row`, which is below the array's length; `Err` says what else is there.
    fn get(array: &Self::Array, row: usize) -> Result<Self, String>;

    /// The value where a file of an older version lacks the column.
    fn missing() -> Option<Self> {
        None
    }
}

macro_rules! number_column {
    ($type:ty, $data_type:ident, $array:ty) => {
        impl Column for $type {
            const DATA_TYPE: DataType = DataType::$data_type;
            type Array = $array;

            fn pack<'a>(values: impl ExactSizeIterator<Item = &'a Self>) -> ArrayRef {
                Arc::new(<$array>::from_iter_values(values.copied()))
            }

            fn get(array: &$array, row: usize) -> Result<Self, String> {
                valid(array, row).map(|()| array.value(row))
            }
        }

        impl Column for Option<$type> {
            const DATA_TYPE: DataType = DataType::$data_type;
            const NULLABLE: bool = true;
            type Array = $array;

            fn pack<'a>(values: impl ExactSizeIterator<Item = &'a Self>) -> ArrayRef {
                Arc::new(values.copied().collect::<$array>())
            }

            fn get(array: &$array, row: usize) -> Result<Self, String> {
                Ok(array.is_valid(row).then(|| array.value(row)))
            }

            fn missing() -> Option<Self> {
                Some(None)
            }
        }
    };
}

number_column!(u32, UInt32, UInt32Array);
number_column!(u64, UInt64, UInt64Array);
number_column!(f32, Float32, Float32Array);

impl Column for String {
    const DATA_TYPE: DataType = DataType::Utf8;
    type Array = StringArray;

    fn pack<'a>(values: impl ExactSizeIterator<Item = &'a Self>) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(values))
    }

    fn get(array: &StringArray, row: usize) -> Result<Self, String> {
        valid(array, row).map(|()| array.value(row).to_owned())
    }
}

impl Column for Cow<'static, str> {
    const DATA_TYPE: DataType = DataType::Utf8;
    type Array = StringArray;

    fn pack<'a>(values: impl ExactSizeIterator<Item = &'a Self>) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(values))
    }

    fn get(array: &StringArray, row: usize) -> Result<Self, String> {
        String::get(array, row).map(Cow::Owned)
    }
}

fn valid(array: &impl Array, row: usize) -> Result<(), String> {
    if array.is_valid(row) {
        Ok(())
    } else {
        Err("a value is missing".to_owned())
    }
}
