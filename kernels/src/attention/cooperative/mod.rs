//! Subgroup cooperative matrices: f16 and bf16 with f32 sums.
//!
//! A subgroup owns 16 rows, queries or keys, and keeps their operands and sums in matrices of
//! 16×16; a workgroup's subgroups share tiles of the other side in workgroup memory, moved in
//! 16-byte pieces, each row padded by one piece against bank conflicts. The next tile's pieces
//! are in registers while this one multiplies. Scores pass through a subgroup's own scratch,
//! because nobody but the driver knows which unit holds which element of a matrix: from there
//! each unit takes a part of one row, and there it leaves the row's weights in 16 bits, as the
//! left operand of the second product.

mod backward;
mod forward;

pub(super) use backward::{dkey_dvalue, dquery};
pub(super) use forward::attend;

use cubecl::cmma::{self, MatrixIdent, MatrixLayout};
use cubecl::prelude::*;

use super::span::{Four, Rows};

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

/// First piece of the subgroup's scratch.
#[cube]
fn scratch(#[comptime] frame: Frame) -> usize {
    comptime!(frame.tiles()) + UNIT_POS_Y as usize * comptime!(ROWS * frame.line())
}

/// The row of the subgroup that the unit works on.
#[cube]
fn own_row() -> usize {
    UNIT_POS_X as usize % ROWS
}

/// The unit's first column of a tile.
#[cube]
fn own_column(#[comptime] frame: Frame) -> usize {
    (UNIT_POS_X as usize / ROWS) * comptime!(frame.share())
}

/// Hands the unit its part of its row out of a tile's sums, four columns a vector.
#[cube]
fn spread(
    memory: &mut Shared<[Piece]>,
    sums: &Sequence<cmma::Matrix<f32>>,
    #[comptime] frame: Frame,
) -> Array<Vector<f32, Four>> {
    let start = scratch(frame);
    // The subgroup's earlier reads of its scratch come first.
    sync_plane();
    #[unroll]
    for j in 0..comptime!(frame.columns / 16) {
        let at = start + comptime!(j * 4);
        let end = memory.len();
        cmma::store(
            &mut memory[at..end],
            sums.index(j),
            comptime!(frame.line() as u32 * 4),
            MatrixLayout::RowMajor,
        );
    }
    sync_plane();
    let count = comptime!(frame.share() / 4);
    let mut values = Array::<Vector<f32, Four>>::new(count);
    let from = start + own_row() * comptime!(frame.line()) + own_column(frame) / 4;
    #[unroll]
    for i in 0..count {
        values[i] = Vector::<f32, Four>::reinterpret(memory[from + i]);
    }
    values
}

/// Leaves the units' parts of their rows in the scratch, in 16 bits, for [`accumulate`].
#[cube]
fn pack<E: Float>(
    memory: &mut Shared<[Piece]>,
    values: &Array<Vector<f32, Four>>,
    #[comptime] frame: Frame,
) {
    let to = scratch(frame) + own_row() * comptime!(frame.line()) + own_column(frame) / 8;
    sync_plane();
    #[unroll]
    for i in 0..comptime!(frame.share() / 8) {
        let low = halves::<E>(values[comptime!(2 * i)]);
        let high = halves::<E>(values[comptime!(2 * i + 1)]);
        let mut piece = Piece::new(0u32);
        piece.insert(0usize, low.extract(0usize));
        piece.insert(1usize, low.extract(1usize));
        piece.insert(2usize, high.extract(0usize));
        piece.insert(3usize, high.extract(1usize));
        memory[to + i] = piece;
    }
    sync_plane();
}

/// Four numbers in 16 bits each.
#[cube]
fn halves<E: Float>(values: Vector<f32, Four>) -> Vector<u32, Const<2>> {
    Vector::<u32, Const<2>>::reinterpret(Vector::<E, Four>::cast_from(values))
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
    let from = scratch(frame);
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

/// Multiplies each row of `sums` by its unit's `factor`, which all units of a row agree on.
#[cube]
fn rescale(
    memory: &mut Shared<[Piece]>,
    sums: &mut Sequence<cmma::Matrix<f32>>,
    factor: f32,
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) {
    let start = scratch(frame);
    let at_once = comptime!(frame.columns / 16);
    let own = start + own_row() * comptime!(frame.line()) + own_column(frame) / 4;
    #[unroll]
    for turn in 0..comptime!((width / 16).div_ceil(at_once)) {
        sync_plane();
        #[unroll]
        for j in 0..at_once {
            if comptime!(turn * at_once + j < width / 16) {
                let at = start + comptime!(j * 4);
                let end = memory.len();
                cmma::store(
                    &mut memory[at..end],
                    sums.index(comptime!(turn * at_once + j)),
                    comptime!(frame.line() as u32 * 4),
                    MatrixLayout::RowMajor,
                );
            }
        }
        sync_plane();
        #[unroll]
        for i in 0..comptime!(frame.share() / 4) {
            let value = Vector::<f32, Four>::reinterpret(memory[own + i]) * Vector::new(factor);
            memory[own + i] = Piece::reinterpret(value);
        }
        sync_plane();
        #[unroll]
        for j in 0..at_once {
            if comptime!(turn * at_once + j < width / 16) {
                let at = start + comptime!(j * 4);
                cmma::load_with_layout(
                    sums.index_mut(comptime!(turn * at_once + j)),
                    &memory[at..memory.len()],
                    comptime!(frame.line() as u32 * 4),
                    MatrixLayout::RowMajor,
                );
            }
        }
    }
    sync_plane();
}

/// Writes the subgroup's rows, from `first` on, `real` vectors long, each multiplied by its
/// unit's `factor`.
#[cube]
fn write(
    memory: &mut Shared<[Piece]>,
    out: &mut [Vector<f32, Four>],
    rows: &Rows,
    first: usize,
    real: usize,
    sums: &Sequence<cmma::Matrix<f32>>,
    factor: f32,
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) {
    let start = scratch(frame);
    let at_once = comptime!(frame.columns / 16);
    let across = comptime!(frame.columns / 4);
    sync_plane();
    // The factors lie behind the rows.
    if UNIT_POS_X < comptime!(ROWS as u32) {
        memory[start + own_row() * comptime!(frame.line()) + across] =
            Piece::new(u32::reinterpret(factor));
    }
    #[unroll]
    for turn in 0..comptime!((width / 16).div_ceil(at_once)) {
        sync_plane();
        #[unroll]
        for j in 0..at_once {
            if comptime!(turn * at_once + j < width / 16) {
                let at = start + comptime!(j * 4);
                let end = memory.len();
                cmma::store(
                    &mut memory[at..end],
                    sums.index(comptime!(turn * at_once + j)),
                    comptime!(frame.line() as u32 * 4),
                    MatrixLayout::RowMajor,
                );
            }
        }
        sync_plane();
        #[unroll]
        for i in 0..comptime!(ROWS * frame.columns / 4 / frame.subgroup) {
            let index = UNIT_POS_X as usize + comptime!(i * frame.subgroup);
            let row = index / across;
            let column = comptime!(turn * across) + index % across;
            if first + row < rows.count && column < real {
                let line = start + row * comptime!(frame.line());
                let factor = f32::reinterpret(memory[line + across].extract(0usize));
                let value = Vector::<f32, Four>::reinterpret(memory[line + index % across]);
                out[rows.start + (first + row) * rows.stride + column] =
                    value * Vector::new(factor);
            }
        }
    }
}
