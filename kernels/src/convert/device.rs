//! The conversion kernel.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

/// `to = from`, converted.
#[cube(launch, launch_unchecked)]
pub(super) fn convert<A: Float, B: Float, N: Size>(
    from: &[Vector<A, N>],
    to: &mut [Vector<B, N>],
    count: usize,
    #[define(A, B)] _types: [ElemType; 2],
) {
    if ABSOLUTE_POS < count {
        to[ABSOLUTE_POS] = Vector::cast_from(from[ABSOLUTE_POS]);
    }
}
