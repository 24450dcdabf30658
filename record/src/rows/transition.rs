use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray};
use arrow_schema::DataType;

use super::StreamRow;
use super::column::Column;
use super::table::table_row;

table_row! {
    /// A row of `transitions.<n>.arrows`: how often one expert followed another in one step.
    ///
    /// Each token adds one for every pair of an expert it visited before and one it visited after:
    /// k × k a token and transition. Pairs that never occurred have no row.
    pub struct TransitionRow {
        /// Between what.
        pub kind: TransitionKind,
        /// Decoder layer before.
        pub from_layer: u32,
        /// Iteration before.
        pub from_iteration: u32,
        /// Expert before.
        pub from_expert: u32,
        /// Decoder layer after.
        pub to_layer: u32,
        /// Iteration after.
        pub to_iteration: u32,
        /// Expert after.
        pub to_expert: u32,
        /// Tokens' slot pairs that went this way.
        pub count: u64,
    }
}

impl StreamRow for TransitionRow {
    const STREAM: &'static str = "transitions";
}

/// What lies between the two experts of a [`TransitionRow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransitionKind {
    /// `iteration`: from one iteration to the next of the same layer.
    Iteration,
    /// `layer`: from a layer's last iteration to the first of the next layer that has experts.
    Layer,
}

impl TransitionKind {
    /// Its name in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Iteration => "iteration",
            Self::Layer => "layer",
        }
    }
}

impl Column for TransitionKind {
    const DATA_TYPE: DataType = DataType::Utf8;
    type Array = StringArray;

    fn pack<'a>(values: impl ExactSizeIterator<Item = &'a Self>) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(
            values.map(|kind| kind.as_str()),
        ))
    }

    fn get(array: &StringArray, row: usize) -> Result<Self, String> {
        match array.value(row) {
            "iteration" => Ok(Self::Iteration),
            "layer" => Ok(Self::Layer),
            other => Err(format!("{other:?} is neither \"iteration\" nor \"layer\"")),
        }
    }
}
