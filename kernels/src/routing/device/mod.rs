//! Routing on the device.
//!
//! A row of units shares a token: lane `l` of `lanes` holds experts `l`, `l + lanes`, … in
//! registers. Tokens are taken in tiles, never across two sequences, so that what a tile counted
//! says where its slots go: [`choice`] counts, or [`sort`] where choices are given; [`sort`] adds up
//! over tiles and places.

pub mod choice;
pub(crate) mod lanes;
pub mod losses;
pub mod pairs;
mod select;
pub mod sort;

/// Units of a workgroup.
pub const UNITS: usize = 256;

/// Most experts that one lane holds.
pub const HELD: usize = 8;

/// Most experts of a router: a lane for each [`HELD`] of them, and a row in one workgroup; sums
/// over all of them have four to a unit.
pub const MAX_EXPERTS: usize = 1024;

/// What is the same for all tokens of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Experts.
    pub experts: usize,
    /// Choices of a token.
    pub top_k: usize,
    /// Units of a row, a power of two.
    pub lanes: usize,
    /// Experts of a lane.
    pub held: usize,
    /// Scores are sigmoids, not a softmax.
    pub sigmoid: bool,
    /// A bias takes part in the choice.
    pub biased: bool,
    /// Divide weights by their sum.
    pub normalise: bool,
    /// Groups of experts; 0: no limit.
    pub groups: usize,
    /// Groups that a token chooses from.
    pub chosen_groups: usize,
    /// A group is ranked by the sum of its two best.
    pub best_two: bool,
}
