//! How tokens are spread over experts.
//!
//! Loads are in *even shares*: 1 is what an expert gets when all get the same, 2 twice that, 0 nothing. So loads
//! of layers, runs and batches of any size compare. [`LoadMap`] has the plain counts beside them.

mod balance;
mod card;
mod health;
mod load;
pub(crate) mod order;
pub(crate) mod sum;
mod time;

pub use balance::{Balance, BalanceCurves, BalanceFigure};
pub use card::{Card, ExpertCard, Neighbour};
pub use health::{Health, HealthTable, RouterHealth};
pub use load::{LoadMap, RoutingLoad};
pub use time::{LoadOverTime, LoadTime, TimeColumn};

/// The load of an expert that was given `tokens` of all its router's `total`, in even shares.
pub(crate) fn even_shares(tokens: u64, total: u64, experts: u32) -> f32 {
    // In f64, so that two fifths of the even share are 0.4 and not the float beside it.
    (tokens as f64 * f64::from(experts) / total.max(1) as f64) as f32
}

/// What a load is measured by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Measure {
    /// Assignments, in even shares: what the expert is given to do.
    #[default]
    Tokens,
    /// Mean router probability, in even shares: what the router would like.
    Probability,
    /// Tokens less probability, in even shares: above 0 the choice of k favours the expert more than its probability says.
    Difference,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tokens, Self::Probability, Self::Difference];

    /// Its name for a menu.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Probability => "probability",
            Self::Difference => "tokens − probability",
        }
    }
}

/// In which order experts stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// By number.
    #[default]
    Index,
    /// The fullest first, each router by itself.
    Load,
    /// Experts whose loads rise and fall together stand beside each other: average-linkage clustering of the
    /// correlation of their loads over the run, with one order for all iterations of a layer, which share experts.
    Cluster,
}

impl Order {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Index, Self::Load, Self::Cluster];

    /// Its name for a menu.
    pub fn name(self) -> &'static str {
        match self {
            Self::Index => "number",
            Self::Load => "load",
            Self::Cluster => "similarity",
        }
    }
}
