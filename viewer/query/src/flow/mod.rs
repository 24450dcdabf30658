//! Which expert follows which: between iterations of a chain, and between layers.
//!
//! Counts are of slot pairs: a token that visits k experts before and k after adds k × k of them.

mod combinations;
mod matrix;
pub(crate) mod pairs;
mod revisit;
mod sankey;
mod strength;

pub use combinations::{CombinationTable, Combinations, LayerCombinations};
pub use matrix::{TransitionMatrix, Transitions};
pub use revisit::{LayerRevisits, RevisitTable, Revisits};
pub use sankey::{Sankey, SankeyDiagram, SankeyLink, SankeyNode, SankeyPath};
pub use strength::{FlowStrength, Strength, StrengthTable};
