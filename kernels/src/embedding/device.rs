//! Rows by number on the device.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

/// Units of a workgroup.
pub const UNITS: usize = 256;

/// `y[row] = weight[ids[row]]`, in f32. A unit takes a vector of a row, of which there are
/// `vectors`; numbers beyond the matrix read its last row.
#[cube(launch, launch_unchecked)]
pub fn rows<E: Float, N: Size>(
    weight: &[Vector<E, N>],
    ids: &[i32],
    y: &mut [Vector<f32, N>],
    vectors: usize,
    matrix_rows: usize,
    count: usize,
    #[define(E)] _element: ElemType,
) {
    let position = CUBE_POS * UNITS + UNIT_POS as usize;
    if position >= count {
        terminate!();
    }
    let id = usize::cast_from(ids[position / vectors]);
    let row = select(id < matrix_rows, id, matrix_rows - 1);
    y[position] = Vector::cast_from(weight[row * vectors + position % vectors]);
}
