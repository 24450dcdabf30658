//! What is at work, which is who owns the memory that it takes.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// What a training step is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Nothing of a step: the program around it.
    #[default]
    Outside,
    /// The forward pass.
    Forward,
    /// A part of the forward pass again, within the backward pass.
    Recompute,
    /// The backward pass.
    Backward,
    /// The optimizer's update.
    Optimizer,
}

impl Stage {
    const ALL: [Self; 5] = [
        Self::Outside,
        Self::Forward,
        Self::Recompute,
        Self::Backward,
        Self::Optimizer,
    ];
}

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Parameters.
    Weights,
    /// Gradients of parameters.
    Gradients,
    /// Moments of the optimizer.
    Optimizer,
    /// What a forward computation keeps for its backward pass.
    Activations,
    /// What one computation needs while it runs, gradients of activations among it.
    Workspace,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Weights,
        Self::Gradients,
        Self::Optimizer,
        Self::Activations,
        Self::Workspace,
    ];

    /// Its name in a record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Gradients => "gradients",
            Self::Optimizer => "optimizer",
            Self::Activations => "activations",
            Self::Workspace => "workspace",
        }
    }
}

/// Where work is done: stage, layer and part.
///
/// Packed into a word, because the allocator reads it: kind 3 bits, stage 3, layer 12, name 14.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u32);

const NO_LAYER: u32 = (1 << 12) - 1;
const LAYER: u32 = 6;
const NAME: u32 = 18;

/// The place where the process is at work. A training process trains on one thread; those that
/// help it take memory for it.
static PLACE: AtomicU32 = AtomicU32::new(Place::NOWHERE.0);

static NAMES: Mutex<Vec<Cow<'static, str>>> = Mutex::new(Vec::new());

impl Place {
    pub(super) const NOWHERE: Self = Self(NO_LAYER << LAYER);

    fn with(self, shift: u32, bits: u32, value: u32) -> Self {
        let mask = ((1 << bits) - 1) << shift;
        Self(self.0 & !mask | (value << shift & mask))
    }

    /// The kind that was named, if one was.
    pub(super) fn kind(self) -> Option<Kind> {
        match self.0 & 7 {
            0 => None,
            kind => Some(Kind::ALL[kind as usize - 1]),
        }
    }

    pub(super) fn of_kind(self, kind: Kind) -> Self {
        self.with(0, 3, 1 + kind as u32)
    }

    /// The stage.
    pub fn stage(self) -> Stage {
        Stage::ALL[(self.0 >> 3 & 7) as usize]
    }

    pub(super) fn at_stage(self, stage: Stage) -> Self {
        self.with(3, 3, stage as u32)
    }

    /// The layer, from 0.
    pub fn layer(self) -> Option<u32> {
        let layer = self.0 >> LAYER & NO_LAYER;
        (layer != NO_LAYER).then_some(layer)
    }

    pub(super) fn in_layer(self, layer: Option<u32>) -> Self {
        self.with(LAYER, 12, layer.unwrap_or(NO_LAYER).min(NO_LAYER))
    }

    pub(super) fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        let name = name.into();
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        let at = names.iter().position(|known| *known == name);
        let at = at.unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        self.with(NAME, 14, 1 + at as u32)
    }

    /// Name of the part, or of what it is.
    pub(super) fn name(self) -> Option<Cow<'static, str>> {
        let at = (self.0 >> NAME).checked_sub(1)?;
        let names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(at as usize).cloned()
    }

    /// Whether both name the same layer and part in the same stage.
    pub(super) fn is_at(self, other: Self) -> bool {
        self.0 >> 3 == other.0 >> 3
    }
}

/// Where the process is at work.
pub fn place() -> Place {
    Place(PLACE.load(Ordering::Relaxed))
}

/// The place before, put back when dropped.
#[derive(Debug)]
#[must_use = "the place is left as soon as this is dropped"]
pub struct Entered(Place);

impl Entered {
    fn go(change: impl FnOnce(Place) -> Place) -> Self {
        super::watch::settle_place();
        let before = place();
        PLACE.store(change(before).0, Ordering::Relaxed);
        Self(before)
    }

    /// Works for `place` in `stage`, as the backward pass of what was computed there does.
    pub(crate) fn back_at(there: Place, stage: Stage) -> Self {
        Self::go(|_| there.at_stage(stage))
    }
}

/// The innermost place that a panic left.
static FAILED: AtomicU32 = AtomicU32::new(Place::NOWHERE.0);

/// Where the last panic of a step was, in words, such as "in the backward pass of layer 3
/// (attention)"; `None` where no step was at work. The device runs behind, so what failed may have
/// been asked for a little earlier.
pub fn failed_at() -> Option<String> {
    let place = Place(FAILED.swap(Place::NOWHERE.0, Ordering::Relaxed));
    let stage = match place.stage() {
        Stage::Outside => return None,
        Stage::Forward => "forward pass",
        Stage::Recompute | Stage::Backward => "backward pass",
        Stage::Optimizer => "optimizer's update",
    };
    let mut words = format!("in the {stage}");
    if let Some(layer) = place.layer() {
        words += &format!(" of layer {layer}");
    }
    if let Some(name) = place.name() {
        words += &format!(" ({name})");
    }
    Some(words)
}

impl Drop for Entered {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let here = place();
            let unset = Place::NOWHERE.0;
            let order = Ordering::Relaxed;
            let _ = FAILED.compare_exchange(unset, here.0, order, order);
        }
        if !std::thread::panicking() {
            super::watch::settle_place();
        }
        PLACE.store(self.0.0, Ordering::Relaxed);
    }
}

/// Says what the step is doing from here on.
pub fn enter_stage(stage: Stage) -> Entered {
    Entered::go(|place| place.at_stage(stage))
}

/// Says which layer is at work from here on.
pub fn enter_layer(layer: usize) -> Entered {
    Entered::go(|place| place.in_layer(Some(layer as u32)))
}

/// Says which part of a layer or model is at work from here on, such as `attention`.
pub fn enter_part(part: &'static str) -> Entered {
    Entered::go(|place| place.named(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_leaves_its_place_in_words() {
        let panicked = std::panic::catch_unwind(|| {
            let _stage = enter_stage(Stage::Backward);
            let _layer = enter_layer(3);
            let _part = enter_part("attention");
            std::panic::resume_unwind(Box::new("no memory"));
        });
        assert!(panicked.is_err());
        let words = failed_at().expect("a step was at work");
        assert_eq!(words, "in the backward pass of layer 3 (attention)");
        assert_eq!(failed_at(), None);
    }

    #[test]
    fn a_place_says_what_was_put_into_it() {
        let place = Place::NOWHERE;
        assert_eq!(
            (place.kind(), place.layer(), place.name()),
            (None, None, None)
        );
        let place = place
            .in_layer(Some(77))
            .at_stage(Stage::Optimizer)
            .named("experts")
            .of_kind(Kind::Workspace);
        assert_eq!(place.kind(), Some(Kind::Workspace));
        assert_eq!(place.stage(), Stage::Optimizer);
        assert_eq!(place.layer(), Some(77));
        assert_eq!(place.name().as_deref(), Some("experts"));
        assert_eq!(place.in_layer(None).layer(), None);
        for (kind, index) in Kind::ALL.into_iter().zip(0..) {
            assert_eq!(kind as u32, index);
            assert_eq!(place.of_kind(kind).kind(), Some(kind));
        }
        for stage in Stage::ALL {
            assert_eq!(place.at_stage(stage).stage(), stage);
        }
    }
}
