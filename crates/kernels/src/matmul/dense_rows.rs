//! Products of activations with a panel of weights that are not quantised: bf16 weights times activations rounded to bf16, f32 and
//! f16 weights times f32. The panels are what the micro-kernels of large products read, packed once instead of in each
//! product. Must not know matrices or threads.
//!
//! Every result is a sum along `k` in order, so its bits depend neither on the other rows nor on the threads.

use super::interleave::{DENSE, PanelFormat};
use super::tile::{Kernel, LINE, Tile};
use crate::scratch::{self, Slot};
use crate::{Isa, Mat, bf16, convert, f16};

/// Columns of f16 weights that are widened at a time: they stay in the first-level cache.
const WIDENED: usize = 128;

/// Bytes of `m` rows of activations in lines of units of four bytes ([`super::tile`]): bf16 pairs, or f32.
pub(super) fn lines_bytes(kernel: &Kernel, m: usize, k: usize) -> usize {
    m.div_ceil(kernel.mr()) * group_bytes(kernel, k)
}

fn group_bytes(kernel: &Kernel, k: usize) -> usize {
    k.div_ceil(kernel.per_unit()).next_multiple_of(LINE) * kernel.mr() * 4
}

/// Puts row `i` of the activations into its lines.
///
/// # Safety
/// `lines` is valid for the lines of more than `i` rows of `x.len()` and aligned to 4; nobody else uses those of row `i`.
pub(super) unsafe fn put_row(isa: Isa, kernel: &Kernel, lines: *mut u8, i: usize, x: &[f32]) {
    let mr = kernel.mr();
    let lines = lines.wrapping_add(i / mr * group_bytes(kernel, x.len()));
    for (at, x) in x.chunks(LINE * kernel.per_unit()).enumerate() {
        let line = lines.wrapping_add((at * mr + i % mr) * LINE * 4);
        // SAFETY: a line of the row, of 16 f32 or 32 bf16; both allow any bits.
        unsafe {
            if kernel.pairs {
                let line = std::slice::from_raw_parts_mut(line.cast::<bf16>(), 2 * LINE);
                line[x.len()..].fill(bf16::ZERO);
                convert::narrow(isa, &mut line[..x.len()], x);
            } else {
                std::slice::from_raw_parts_mut(line.cast::<f32>(), LINE)[..x.len()].copy_from_slice(x);
            }
        }
    }
}

/// Rows of one panel's products.
pub(super) struct Rows {
    /// All rows of activations, as [`put_row`] leaves them.
    pub lines: *const u8,
    pub m: usize,
    pub k: usize,
    /// The result of the first row, rows `ld` apart, `cols` elements of each.
    pub out: *mut f32,
    pub ld: usize,
    pub cols: usize,
}

/// Multiplies all rows with one panel.
///
/// # Safety
/// The kernel is of the processor, with pairs for bf16 only; `rows` describes valid memory that nobody else writes.
pub(super) unsafe fn multiply(isa: Isa, kernel: &Kernel, format: PanelFormat, panel: &[u8], rows: &Rows) {
    assert!(kernel.nr == DENSE && panel.len() == format.panel_bytes(rows.k) && rows.cols <= DENSE);
    match format {
        PanelFormat::F16 => scratch::with(Slot::Converted, WIDENED * DENSE * 4, |buffer| {
            // SAFETY: the panel holds f16 only, which allow any bits, at a multiple of a cache line.
            let panel: &[f16] = unsafe { std::slice::from_raw_parts(panel.as_ptr().cast(), panel.len() / 2) };
            for at in (0..rows.k).step_by(WIDENED) {
                let here = WIDENED.min(rows.k - at);
                // SAFETY: the buffer holds that many f32, which allow any bits.
                let wide = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<f32>(), here * DENSE) };
                convert::to_f32(isa, wide, Mat::F16(panel), at * DENSE);
                // SAFETY: as the caller promises.
                unsafe { tiles(kernel, buffer, at, here, rows) };
            }
        }),
        // SAFETY: as the caller promises.
        _ => unsafe { tiles(kernel, panel.as_ptr(), 0, rows.k.div_ceil(kernel.per_unit()), rows) },
    }
}

/// Adds the products of `steps` steps from `at` (a multiple of a line) on, which begin at `b`; those before are in `out`.
unsafe fn tiles(kernel: &Kernel, b: *const u8, at: usize, steps: usize, rows: &Rows) {
    let mr = kernel.mr();
    for i0 in (0..rows.m).step_by(mr) {
        let group = rows.lines.wrapping_add(i0 / mr * group_bytes(kernel, rows.k));
        let out = rows.out.wrapping_add(i0 * rows.ld);
        let tile = Tile {
            a: group.wrapping_add(at * mr * 4),
            b,
            steps,
            init: if at > 0 { out.cast_const() } else { std::ptr::null() },
            init_ld: rows.ld,
            out: out.cast(),
            out_ld: rows.ld,
            bf16: false,
            add: false,
            cols: rows.cols,
        };
        // SAFETY: the lines and the panel hold these steps; the tile lies inside `out`.
        unsafe { (kernel.lines[mr.min(rows.m - i0) - 1])(&tile) };
    }
}
