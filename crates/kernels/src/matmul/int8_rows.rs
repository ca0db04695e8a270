//! Activations rounded to int8, and their products with a panel of quantised weights. Must not know matrices or threads.
//!
//! Every result is a sum over blocks in order, so its bits depend neither on the other rows nor on the threads.

use crate::QuantFormat;

/// One row of activations in int8, in blocks of 32.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct Row {
    /// Rounded values.
    pub q: *const i8,
    /// The scale `dx` of each block.
    pub scales: *const f32,
    /// `dx Σq` of each block.
    pub sums: *const f32,
    /// `-8 Σq`, `-16 Σq`, `-128 Σq` of each block: what levels that are moved up to be unsigned add too much.
    pub zero8: *const i32,
    pub zero16: *const i32,
    pub zero128: *const i32,
    /// `-32 Σq` of each half of a block.
    pub halves: *const i32,
}
// SAFETY: the rows are only read once they are made.
unsafe impl Sync for Row {}

impl Row {
    pub(super) fn bytes(k: usize) -> usize {
        k + k / 32 * 7 * 4
    }
    /// # Safety
    /// `at` is valid for `Row::bytes(k)` bytes and aligned to 4.
    pub(super) unsafe fn at(at: *mut u8, k: usize) -> Row {
        let blocks = k / 32;
        let array = |i: usize| at.wrapping_add(k + i * blocks * 4).cast_const();
        Row {
            q: at.cast_const().cast(),
            scales: array(0).cast(),
            sums: array(1).cast(),
            zero8: array(2).cast(),
            zero16: array(3).cast(),
            zero128: array(4).cast(),
            halves: array(5).cast(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use super::int8_vnni::TOGETHER;
#[cfg(not(target_arch = "x86_64"))]
pub(super) const TOGETHER: usize = 1;

/// Rounds `x` into `row`.
pub(super) fn round(row: &Row, x: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the table that interleaves is only made for processors with these features; the row is as long as `x`.
    unsafe {
        super::int8_round::round(row, x)
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (row, x);
}

/// One panel with up to [`TOGETHER`] rows; row `i` goes to `out + i * ld`, `cols` elements of it.
pub(super) fn multiply(
    format: QuantFormat,
    panel: &[u8],
    blocks: usize,
    rows: &[Row],
    out: *mut f32,
    ld: usize,
    cols: usize,
) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above; the caller's `out` has these rows and columns.
    unsafe {
        super::int8_vnni::multiply(&super::int8_vnni::Panel { format, panel, blocks, rows, out, ld, cols })
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (format, panel, blocks, rows, out, ld, cols);
}
