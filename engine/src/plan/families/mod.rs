//! What each family of kernels takes, holds and keeps: the contracts of `bellows_kernels` in bytes.
//! A family that changes what it keeps changes one file here.

pub mod attention;
pub mod head;
pub mod linear;
pub mod mixture;
pub mod norm;
pub mod optimizer;

/// Bytes of an f32, and of an i32.
pub const F32: u64 = 4;

/// Bytes of `rows` rows of `width` f32.
pub fn rows(rows: usize, width: usize) -> u64 {
    F32 * (rows * width) as u64
}
