//! The traced text: which experts each token of the probe set visits, and what experts specialise in.

mod class;
mod groups;
mod lift;
mod map;
mod path;
pub(crate) mod saturation;
mod speciality;

pub use class::TokenClass;
pub use lift::{ExpertTokens, Lift, Specialisation};
pub use map::{TokenCell, TokenMap, TokenSequence, TracedText};
pub use path::{Hop, Path, TokenPath};
pub use saturation::{Saturation, SaturationCurves};
pub use speciality::{Speciality, SpecialityMap};

/// By what tokens are counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Grouping {
    /// By their own text.
    #[default]
    Token,
    /// By what they are in the text: brackets, names, comments, …
    Class,
    /// By where the text comes from.
    Source,
}

impl Grouping {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Token, Self::Class, Self::Source];

    /// Its name for a menu.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Class => "class",
            Self::Source => "source",
        }
    }
}
