//! Subgroup cooperative matrices: f16 and bf16 with f32 sums.
//!
//! A subgroup owns 16 rows, queries or keys, and keeps their operands and sums in matrices of
//! 16×16; a workgroup's subgroups share tiles of the other side in workgroup memory, moved in
//! 16-byte pieces, each row padded by one piece against bank conflicts. The next tile's pieces
//! are in registers while this one multiplies. Scores pass through a subgroup's own scratch,
//! because nobody but the driver knows which unit holds which element of a matrix: from there
//! each unit takes a part of one row, and there it leaves the row's weights in 16 bits, as the
//! left operand of the second product.

mod forward;
mod keys;
mod queries;
mod scratch;

pub(super) use forward::attend;
pub(super) use keys::dkey_dvalue;
pub(super) use queries::dquery;

use cubecl::cmma::{self, MatrixIdent, MatrixLayout};
use cubecl::prelude::*;

use super::span::{Four, Rows};
use scratch::{own_column, own_row, pack, rescale, scratch_of, spread, write};

/// Sixteen bytes: eight 16-bit elements, or four f32.
pub(super) type Piece = Vector<u32, Four>;

/// Rows of a subgroup.
pub(super) const ROWS: usize = 16;

/// The sizes of a kernel, fixed when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Units of a subgroup: 16, 32 or 64.
    pub subgroup: usize,
    /// Subgroups of a workgroup.
    pub subgroups: usize,
    /// Columns of a tile, a multiple of 16.
    pub columns: usize,
    /// Width of queries and keys, rounded up to 16.
    pub width: usize,
    /// Width of values, rounded up to 16.
    pub value_width: usize,
    /// Whether sequences hold several documents.
    pub documents: bool,
}

impl Frame {
    /// Units of a workgroup.
    const fn units(self) -> usize {
        self.subgroup * self.subgroups
    }

    /// Rows of a workgroup.
    pub const fn rows(self) -> usize {
        ROWS * self.subgroups
    }

    /// Pieces of both tiles: first the one of the queries' width, then the other.
    const fn tiles(self) -> usize {
        self.columns * (stride(self.width) + stride(self.value_width))
    }

    /// First piece of the tile of the values' width.
    const fn second(self) -> usize {
        self.columns * stride(self.width)
    }

    /// Pieces from row to row of a subgroup's scratch.
    const fn line(self) -> usize {
        self.columns / 4 + 1
    }

    /// Columns of a row that one unit takes.
    const fn share(self) -> usize {
        self.columns * ROWS / self.subgroup
    }

    /// Pieces of workgroup memory.
    pub const fn memory(self) -> usize {
        let work = self.tiles() + self.subgroups * ROWS * self.line();
        let widest = if self.width > self.value_width {
            self.width
        } else {
            self.value_width
        };
        let staged = self.rows() * stride(widest);
        if work > staged { work } else { staged }
    }
}

/// Pieces from row to row of a tile in workgroup memory.
const fn stride(width: usize) -> usize {
    width / 8 + 1
}

/// Reads the unit's pieces of the tile of rows from `first` on; `real` pieces of a row exist.
#[cube]
fn fetch(
    source: &[Piece],
    rows: &Rows,
    first: usize,
    real: usize,
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) -> Array<Piece> {
    let across = comptime!(width / 8);
    let total = comptime!(frame.columns * width / 8);
    let count = comptime!(total.div_ceil(frame.units()));
    let mut pieces = Array::<Piece>::new(count);
    #[unroll]
    for i in 0..count {
        let index = UNIT_POS as usize + comptime!(i * frame.units());
        let row = first + index / across;
        let column = index % across;
        let mut piece = Piece::new(0u32);
        if index < total && row < rows.count && column < real {
            piece = source[rows.start + row * rows.stride + column];
        }
        pieces[i] = piece;
    }
    pieces
}

/// Writes the unit's pieces to the tile that starts at `start`.
#[cube]
fn keep(
    memory: &mut Shared<[Piece]>,
    #[comptime] start: usize,
    pieces: &Array<Piece>,
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) {
    let across = comptime!(width / 8);
    let total = comptime!(frame.columns * width / 8);
    let count = comptime!(total.div_ceil(frame.units()));
    #[unroll]
    for i in 0..count {
        let index = UNIT_POS as usize + comptime!(i * frame.units());
        if index < total {
            memory[start + (index / across) * comptime!(stride(width)) + index % across] =
                pieces[i];
        }
    }
}

/// The subgroup's rows, from `first` on, as left operands. All units have to call it; afterwards
/// memory is free once all have passed a barrier.
#[cube]
fn operands<E: Float>(
    memory: &mut Shared<[Piece]>,
    source: &[Piece],
    rows: &Rows,
    first: usize,
    real: usize,
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) -> Sequence<cmma::Matrix<E>> {
    let across = comptime!(width / 8);
    let total = comptime!(ROWS * width / 8);
    let start = UNIT_POS_Y as usize * comptime!(ROWS * stride(width));
    sync_cube();
    #[unroll]
    for i in 0..comptime!(total.div_ceil(frame.subgroup)) {
        let index = UNIT_POS_X as usize + comptime!(i * frame.subgroup);
        if index < total {
            let row = first + index / across;
            let column = index % across;
            let mut piece = Piece::new(0u32);
            if row < rows.count && column < real {
                piece = source[rows.start + row * rows.stride + column];
            }
            memory[start + (index / across) * comptime!(stride(width)) + column] = piece;
        }
    }
    sync_cube();
    let mut matrices = Sequence::<cmma::Matrix<E>>::new();
    #[unroll]
    for depth in 0..comptime!(width / 16) {
        matrices.push(left::<E>(
            &*memory,
            start + comptime!(depth * 2),
            comptime!(stride(width)),
        ));
    }
    matrices
}

/// The left operand that starts at piece `at`, rows `stride` pieces apart.
#[cube]
fn left<E: Float>(
    memory: &Shared<[Piece]>,
    at: usize,
    #[comptime] stride: usize,
) -> cmma::Matrix<E> {
    let mut matrix = unsafe {
        cmma::Matrix::<E>::uninitialized(
            MatrixIdent::A,
            16usize,
            16usize,
            16usize,
            MatrixLayout::RowMajor,
        )
    };
    cmma::load(
        &mut matrix,
        &memory[at..memory.len()],
        comptime!(stride as u32 * 4),
    );
    matrix
}

/// Matrices of sums, zero, for results so many columns wide.
#[cube]
fn zeros(#[comptime] width: usize) -> Sequence<cmma::Matrix<f32>> {
    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(width / 16) {
        sums.push(cmma::Matrix::<f32>::from_value(
            MatrixIdent::Accumulator,
            16usize,
            16usize,
            16usize,
            MatrixLayout::Undefined,
            0.0,
        ));
    }
    sums
}

/// Products of the subgroup's rows with all rows of the tile at `start`: a matrix for every 16
/// columns.
#[cube]
fn products<E: Float>(
    memory: &Shared<[Piece]>,
    #[comptime] start: usize,
    rows: &Sequence<cmma::Matrix<E>>,
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) -> Sequence<cmma::Matrix<f32>> {
    let sums = zeros(comptime!(frame.columns));
    #[unroll]
    for depth in 0..comptime!(width / 16) {
        #[unroll]
        for j in 0..comptime!(frame.columns / 16) {
            let mut matrix = unsafe {
                cmma::Matrix::<E>::uninitialized(
                    MatrixIdent::B,
                    16usize,
                    16usize,
                    16usize,
                    MatrixLayout::ColMajor,
                )
            };
            let at = comptime!(start + j * 16 * stride(width) + depth * 2);
            cmma::load(
                &mut matrix,
                &memory[at..memory.len()],
                comptime!(stride(width) as u32 * 4),
            );
            let sum = sums.index(j);
            cmma::execute(rows.index(depth), &matrix, sum, sum);
        }
    }
    sums
}

/// Adds the product of the scratch's weights with the tile at `start` to `sums`.
#[cube]
fn accumulate<E: Float>(
    memory: &Shared<[Piece]>,
    #[comptime] start: usize,
    sums: &Sequence<cmma::Matrix<f32>>,
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) {
    let from = scratch_of(frame);
    #[unroll]
    for step in 0..comptime!(frame.columns / 16) {
        let weights = left::<E>(memory, from + comptime!(step * 2), comptime!(frame.line()));
        #[unroll]
        for j in 0..comptime!(width / 16) {
            let mut matrix = unsafe {
                cmma::Matrix::<E>::uninitialized(
                    MatrixIdent::B,
                    16usize,
                    16usize,
                    16usize,
                    MatrixLayout::RowMajor,
                )
            };
            let at = comptime!(start + step * 16 * stride(width) + j * 2);
            cmma::load(
                &mut matrix,
                &memory[at..memory.len()],
                comptime!(stride(width) as u32 * 4),
            );
            let sum = sums.index(j);
            cmma::execute(&weights, &matrix, sum, sum);
        }
    }
}
