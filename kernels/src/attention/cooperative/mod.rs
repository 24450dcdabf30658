//! Cooperative matrices: f16 and bf16 with f32 sums.
//!
//! An owner has some rows, queries or keys, and keeps their operands and sums in matrices for the
//! whole pass. By [`Scope`] it is a subgroup, with 16 rows in matrices of 16×16, or the whole
//! workgroup, with all rows in matrices as wide as a tile. Tiles of the other side are in workgroup
//! memory, moved in 16-byte pieces, each row padded by one piece against bank conflicts. The next
//! tile's pieces are in registers while this one multiplies. Scores pass through the owner's
//! scratch, because nobody but the driver knows which unit holds which element of a matrix: from
//! there each unit takes a part of one row, and there it leaves the row's weights in 16 bits, as the
//! left operand of the second product. A unit works on rows of its own subgroup in either case.
//! [`held`] is the forward pass on drivers that compute with every element in its place.

mod forward;
mod held;
mod keys;
mod queries;
mod scratch;
mod walk;

pub(super) use forward::attend;
pub(super) use keys::dkey_dvalue;
pub(super) use queries::dquery;

use cubecl::cmma::{self, MatrixIdent, MatrixLayout, MatrixScope};
use cubecl::prelude::*;

use super::Scope;
use super::span::{Four, Rows};

/// Sixteen bytes: eight 16-bit elements, or four f32.
pub(super) type Piece = Vector<u32, Four>;

/// Rows that the units of a subgroup work on.
pub(super) const ROWS: usize = 16;

/// The sizes of a kernel, fixed when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Whose matrices multiply.
    pub scope: Scope,
    /// Units of a subgroup: 16, 32 or 64.
    pub subgroup: usize,
    /// Subgroups of a workgroup.
    pub subgroups: usize,
    /// Columns of a tile, a multiple of 16.
    pub columns: usize,
    /// Width of queries and keys, rounded up to [`Frame::edge`].
    pub width: usize,
    /// Width of values, likewise.
    pub value_width: usize,
    /// Whether sequences hold several documents.
    pub documents: bool,
    /// Whether the forward kernel makes weights inside matrices: [`Tiles::held`].
    ///
    /// [`Tiles::held`]: super::Tiles::held
    pub held: bool,
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

    /// Rows of an owner, and of its matrices.
    pub const fn owned(self) -> usize {
        match self.scope {
            Scope::Subgroup => ROWS,
            Scope::Workgroup => self.rows(),
        }
    }

    /// Columns of a matrix, and its depth along a sum.
    pub const fn edge(self) -> usize {
        match self.scope {
            Scope::Subgroup => 16,
            Scope::Workgroup => self.columns,
        }
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

/// The first row of the unit's owner, in a workgroup whose first row is `first_row`.
#[cube]
fn first_owned(first_row: usize, #[comptime] frame: Frame) -> usize {
    let mut first = first_row;
    if comptime!(frame.scope == Scope::Subgroup) {
        first += UNIT_POS_Y as usize * ROWS;
    }
    first
}

/// The owner's rows, in a workgroup whose first row is `first_row`, as left operands. All units have
/// to call it; afterwards memory is free once all have passed a barrier.
#[cube]
fn operands<E: Float, S: MatrixScope>(
    memory: &mut Shared<[Piece]>,
    source: &[Piece],
    rows: &Rows,
    first_row: usize,
    real: usize,
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) -> Sequence<cmma::Matrix<E, S>> {
    let across = comptime!(width / 8);
    let total = comptime!(ROWS * width / 8);
    let first = first_row + UNIT_POS_Y as usize * ROWS;
    let start = UNIT_POS_Y as usize * comptime!(ROWS * stride(width));
    let owned = first_owned(0usize, frame) * comptime!(stride(width));
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
    let mut matrices = Sequence::<cmma::Matrix<E, S>>::new();
    #[unroll]
    for depth in 0..comptime!(width / frame.edge()) {
        matrices.push(left::<E, S>(
            &*memory,
            owned + comptime!(depth * frame.edge() / 8),
            comptime!(stride(width)),
            frame,
        ));
    }
    matrices
}

/// The left operand that starts at piece `at`, rows `stride` pieces apart.
#[cube]
fn left<E: Float, S: MatrixScope>(
    memory: &Shared<[Piece]>,
    at: usize,
    #[comptime] stride: usize,
    #[comptime] frame: Frame,
) -> cmma::Matrix<E, S> {
    let mut matrix = unsafe {
        cmma::Matrix::<E, S>::uninitialized(
            MatrixIdent::A,
            comptime!(frame.owned()),
            comptime!(frame.edge()),
            comptime!(frame.edge()),
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
fn zeros<S: MatrixScope>(
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) -> Sequence<cmma::Matrix<f32, S>> {
    let mut sums = Sequence::<cmma::Matrix<f32, S>>::new();
    #[unroll]
    for _ in 0..comptime!(width / frame.edge()) {
        sums.push(cmma::Matrix::<f32, S>::from_value(
            MatrixIdent::Accumulator,
            comptime!(frame.owned()),
            comptime!(frame.edge()),
            comptime!(frame.edge()),
            MatrixLayout::Undefined,
            0.0,
        ));
    }
    sums
}

/// Products of the owner's rows with all rows of the tile at `start`: a matrix for every
/// [`Frame::edge`] columns.
#[cube]
fn products<E: Float, S: MatrixScope>(
    memory: &Shared<[Piece]>,
    #[comptime] start: usize,
    rows: &Sequence<cmma::Matrix<E, S>>,
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) -> Sequence<cmma::Matrix<f32, S>> {
    let zero = zeros::<S>(comptime!(frame.edge()), frame);
    products_onto::<E, S>(memory, start, rows, zero.index(0), width, frame)
}

/// The same added to `onto`, which the matrices of all columns begin with.
#[cube]
fn products_onto<E: Float, S: MatrixScope>(
    memory: &Shared<[Piece]>,
    #[comptime] start: usize,
    rows: &Sequence<cmma::Matrix<E, S>>,
    onto: &cmma::Matrix<f32, S>,
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) -> Sequence<cmma::Matrix<f32, S>> {
    let edge = comptime!(frame.edge());
    let sums = zeros::<S>(comptime!(frame.columns), frame);
    #[unroll]
    for depth in 0..comptime!(width / edge) {
        #[unroll]
        for j in 0..comptime!(frame.columns / edge) {
            let mut matrix = unsafe {
                cmma::Matrix::<E, S>::uninitialized(
                    MatrixIdent::B,
                    comptime!(frame.owned()),
                    comptime!(frame.edge()),
                    comptime!(frame.edge()),
                    MatrixLayout::ColMajor,
                )
            };
            let at = comptime!(start + j * edge * stride(width) + depth * edge / 8);
            cmma::load(
                &mut matrix,
                &memory[at..memory.len()],
                comptime!(stride(width) as u32 * 4),
            );
            let sum = sums.index(j);
            if comptime!(depth == 0) {
                cmma::execute(rows.index(depth), &matrix, onto, sum);
            } else {
                cmma::execute(rows.index(depth), &matrix, sum, sum);
            }
        }
    }
    sums
}

/// Adds the product of `weights`, one matrix for every [`Frame::edge`] columns, with the tile at
/// `start` to `sums`.
#[cube]
fn accumulate<E: Float, S: MatrixScope>(
    memory: &Shared<[Piece]>,
    #[comptime] start: usize,
    weights: &Sequence<cmma::Matrix<E, S>>,
    sums: &Sequence<cmma::Matrix<f32, S>>,
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) {
    let edge = comptime!(frame.edge());
    #[unroll]
    for step in 0..comptime!(frame.columns / edge) {
        #[unroll]
        for j in 0..comptime!(width / edge) {
            let mut matrix = unsafe {
                cmma::Matrix::<E, S>::uninitialized(
                    MatrixIdent::B,
                    comptime!(frame.owned()),
                    comptime!(frame.edge()),
                    comptime!(frame.edge()),
                    MatrixLayout::RowMajor,
                )
            };
            let at = comptime!(start + step * edge * stride(width) + j * edge / 8);
            cmma::load(
                &mut matrix,
                &memory[at..memory.len()],
                comptime!(stride(width) as u32 * 4),
            );
            let sum = sums.index(j);
            cmma::execute(weights.index(step), &matrix, sum, sum);
        }
    }
}
