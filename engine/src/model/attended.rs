//! Where the results of a pass's attention come from.

use bellows_kernels::attention::Known;

/// Where the result of one layer's attention comes from, and whether somebody wants it.
#[derive(Clone, Debug, Default)]
pub enum Attended {
    /// It is computed.
    #[default]
    Fresh,
    /// It is computed and left here for another pass over the same tokens.
    Keep(Option<Known>),
    /// An earlier pass left it here, which this one repeats for its gradients.
    Replay(Option<Known>),
}

impl Attended {
    /// What an earlier pass left.
    pub(super) fn take(&mut self) -> Option<Known> {
        match self {
            Self::Replay(known) => known.take(),
            Self::Fresh | Self::Keep(_) => None,
        }
    }

    /// Leaves what was found where somebody wants it.
    pub(super) fn put(&mut self, known: Known) {
        if let Self::Keep(place) = self {
            *place = Some(known);
        }
    }
}
