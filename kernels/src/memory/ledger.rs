//! The ledger: every live buffer's owner.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::backend::DispatchTensorKind;
use burn::tensor::Tensor;

use super::owner::{Kind, Place, Stage, place};
use super::{counting, handles};

static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Names owners of memory while it lives.
#[derive(Debug)]
#[must_use = "owners are named only while the ledger lives"]
pub struct Ledger(());

impl Ledger {
    /// Names owners from now on. What was made before is known once [`own`] names it.
    #[allow(clippy::new_without_default, reason = "a guard is not a value")]
    pub fn new() -> Self {
        KEPT.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if KEPT.fetch_sub(1, Ordering::Relaxed) == 1 {
            handles::forget();
        }
    }
}

/// Whether anyone keeps a ledger.
pub(super) fn is_kept() -> bool {
    KEPT.load(Ordering::Relaxed) > 0
}

/// Says what a tensor is, and in which layer, while a ledger lives: for what is made at one time
/// and used at others. `name` is its owner's.
pub fn own<const D: usize>(tensor: &Tensor<D>, kind: Kind, layer: Option<usize>, name: &str) {
    if !is_kept() {
        return;
    }
    let there = Place::NOWHERE
        .at_stage(place().stage())
        .in_layer(layer.map(|layer| layer as u32))
        .named(name.to_owned())
        .of_kind(kind);
    own_at(tensor, there);
}

/// Says that a tensor is the gradient of a parameter of the part that is at work.
pub(crate) fn own_gradient<const D: usize>(tensor: &Tensor<D>) {
    if is_kept() {
        own_at(tensor, place().of_kind(Kind::Gradients));
    }
}

pub(super) fn own_at<const D: usize>(tensor: &Tensor<D>, there: Place) {
    let plain = tensor.clone().without_autodiff().into_dispatch();
    if let Some(primitive) = handles::on_device(&plain) {
        handles::own(&primitive, there);
    } else if let DispatchTensorKind::Flex(primitive) = plain.kind {
        counting::own(primitive.float().bytes().as_ptr().addr(), there);
    }
}

/// Bytes that one owner holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What for.
    pub kind: Kind,
    /// The owner's layer, from 0.
    pub layer: Option<u32>,
    /// The owner: a parameter, a part of a layer, a computation.
    pub owner: Cow<'static, str>,
    /// Bytes.
    pub bytes: u64,
}

/// Sums of bytes by place.
pub(super) type Sums = BTreeMap<Place, u64>;

/// What is held now, by place.
pub(super) fn sums(on_device: bool) -> Sums {
    let mut sums = Sums::new();
    let mut add = |place, bytes| *sums.entry(place).or_default() += bytes;
    match on_device {
        true => handles::by_place(&mut add),
        false => counting::by_place(&mut add),
    }
    sums
}

/// The owners behind `sums`, which were taken while the process was at work at `now`.
pub(super) fn owners(sums: &Sums, now: Place) -> Vec<Held> {
    let mut owners: BTreeMap<(Kind, Option<u32>, Cow<'static, str>), u64> = BTreeMap::new();
    for (&place, &bytes) in sums {
        let (kind, fallback) = match (place.kind(), place.stage()) {
            (Some(kind), _) => (kind, "parameter"),
            (None, Stage::Outside) => (Kind::Workspace, "program"),
            (None, Stage::Forward | Stage::Recompute) if !place.is_at(now) => {
                (Kind::Activations, "model")
            }
            (None, _) => (Kind::Workspace, "model"),
        };
        let name = match place.stage() {
            Stage::Outside if place.kind().is_none() => Cow::Borrowed(fallback),
            _ => place.name().unwrap_or(Cow::Borrowed(fallback)),
        };
        *owners.entry((kind, place.layer(), name)).or_default() += bytes;
    }
    owners
        .into_iter()
        .map(|((kind, layer, owner), bytes)| Held {
            kind,
            layer,
            owner,
            bytes,
        })
        .collect()
}
