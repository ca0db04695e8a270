//! Products of activations, rounded to int8, with interleaved weights: any number of rows, several weights in one region.
//!
//! Every result is a sum over blocks in order, so its bits depend neither on the other rows nor on the threads.

use super::interleave::{self, Layout, PANEL};
use crate::scratch::{self, Slot};
use crate::{Cpu, Isa, QuantFormat};

/// Quantised weights `[n, k]` that [`Cpu::interleave`] has laid out.
#[derive(Clone, Copy, Debug)]
pub struct Interleaved<'a> {
    pub format: QuantFormat,
    pub panels: &'a [u8],
    pub n: usize,
}

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
    fn bytes(k: usize) -> usize {
        k + k / 32 * 7 * 4
    }
    /// # Safety
    /// `at` is valid for `Row::bytes(k)` bytes and aligned to 4.
    unsafe fn at(at: *mut u8, k: usize) -> Row {
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

/// Weights that one task reads, about, in bytes: enough to pay for taking it, little enough to share evenly.
const TASK_BYTES: usize = 32 << 10;
/// Rows that a task of rounding takes.
const ROUND_ROWS: usize = 8;

impl Cpu {
    /// Whether this table multiplies interleaved weights.
    pub fn interleaves(&self) -> bool {
        self.isa == Isa::Avx512Bf16
    }

    /// Bytes of `n` rows of `k` interleaved weights.
    pub fn interleaved_bytes(format: QuantFormat, n: usize, k: usize) -> usize {
        interleave::bytes(format, n, k)
    }

    /// Lays out `n` rows of `k` weights for [`Cpu::matmul_nt_interleaved`].
    pub fn interleave(&self, out: &mut [u8], format: QuantFormat, blocks: &[u8], n: usize, k: usize) {
        let (row_bytes, panel_bytes) = (format.row_bytes(k), Layout::of(format).panel_bytes(k));
        assert_eq!((out.len(), blocks.len()), (interleave::bytes(format, n, k), n * row_bytes), "bytes of [{n}, {k}]");
        let out = Apart(out.as_mut_ptr());
        self.pool.run(n.div_ceil(PANEL), |p, _| {
            let rows = PANEL.min(n - p * PANEL);
            // SAFETY: tasks write separate panels.
            let panel = unsafe { std::slice::from_raw_parts_mut(out.get().add(p * panel_bytes), panel_bytes) };
            interleave::panel(panel, format, &blocks[p * PANEL * row_bytes..][..rows * row_bytes], k);
        });
    }

    /// `outs[i][m, n_i] = x[m, k] · w_i[n_i, k]ᵀ` with `x` rounded to blocks of int8. Not exact (about 1e-2 relative). Panics
    /// where this table does not [interleave](Cpu::interleaves).
    pub fn matmul_nt_interleaved(
        &self,
        outs: &mut [&mut [f32]],
        x: &[f32],
        weights: &[Interleaved],
        m: usize,
        k: usize,
    ) {
        assert!(self.interleaves() && outs.len() == weights.len() && x.len() == m * k);
        for (out, w) in outs.iter().zip(weights) {
            assert!(out.len() == m * w.n && w.panels.len() == interleave::bytes(w.format, w.n, k));
        }
        if m * k == 0 {
            return outs.iter_mut().for_each(|out| out.fill(0.0));
        }
        let row_bytes = Row::bytes(k).next_multiple_of(64);
        scratch::with(Slot::Shared, m * row_bytes, |buffer| {
            let buffer = Apart(buffer);
            // SAFETY: the buffer holds `m` rows; their types allow any bits.
            let row = |i: usize| unsafe { Row::at(buffer.get().add(i * row_bytes), k) };
            self.pool.run(m.div_ceil(ROUND_ROWS), |task, _| {
                for i in task * ROUND_ROWS..m.min((task + 1) * ROUND_ROWS) {
                    round(&row(i), &x[i * k..][..k]);
                }
            });
            let outs: Vec<Apart<f32>> = outs.iter_mut().map(|out| Apart(out.as_mut_ptr())).collect();
            let tasks = tasks(weights, k);
            self.pool.run(tasks.len(), |task, _| {
                let (which, panels) = &tasks[task];
                let (w, out) = (&weights[*which], outs[*which].get());
                let panel_bytes = Layout::of(w.format).panel_bytes(k);
                let mut rows = [row(0); TOGETHER];
                for i0 in (0..m).step_by(TOGETHER) {
                    let here = TOGETHER.min(m - i0);
                    rows.iter_mut().take(here).enumerate().for_each(|(i, r)| *r = row(i0 + i));
                    for p in panels.clone() {
                        let panel = &w.panels[p * panel_bytes..][..panel_bytes];
                        // Element (i0, 16p) is inside `out`; tasks write separate columns.
                        let out = out.wrapping_add(i0 * w.n + p * PANEL);
                        multiply(w.format, panel, k / 32, &rows[..here], out, w.n, PANEL.min(w.n - p * PANEL));
                    }
                }
            });
        });
    }
}

/// Weight and panels of each task.
fn tasks(weights: &[Interleaved], k: usize) -> Vec<(usize, std::ops::Range<usize>)> {
    let mut all = Vec::new();
    for (i, w) in weights.iter().enumerate() {
        let panels = w.n.div_ceil(PANEL);
        let each = (TASK_BYTES / Layout::of(w.format).panel_bytes(k)).clamp(1, panels.div_ceil(16).max(1));
        all.extend((0..panels).step_by(each).map(|p| (i, p..panels.min(p + each))));
    }
    all
}

#[cfg(target_arch = "x86_64")]
use super::int8_vnni::{self, TOGETHER};
#[cfg(not(target_arch = "x86_64"))]
const TOGETHER: usize = 1;

fn round(row: &Row, x: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the table that interleaves is only made for processors with these features; the row is as long as `x`.
    unsafe {
        int8_vnni::quantize(row, x)
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (row, x);
}

fn multiply(format: QuantFormat, panel: &[u8], blocks: usize, rows: &[Row], out: *mut f32, ld: usize, cols: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above; the caller's `out` has these rows and columns.
    unsafe {
        int8_vnni::multiply(&int8_vnni::Panel { format, panel, blocks, rows, out, ld, cols })
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (format, panel, blocks, rows, out, ld, cols);
}

#[derive(Clone, Copy)]
struct Apart<T>(*mut T);
// SAFETY: tasks use separate parts of what it points to.
unsafe impl<T> Sync for Apart<T> {}
impl<T> Apart<T> {
    fn get(self) -> *mut T {
        self.0
    }
}
