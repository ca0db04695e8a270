//! Products of activations with interleaved weights: any number of rows, several weights of any formats in one region.
//!
//! A row's result does not depend on the other rows or on the threads: decoding, prefill and batches give the same bits.

use super::dense_rows;
use super::int8_rows::{self, Row, TOGETHER};
use super::interleave::{self, PanelFormat};
use crate::scratch::{self, Slot};
use crate::{Cpu, Mat};

/// Weights `[n, k]` that [`Cpu::interleave`] has laid out, at a multiple of a cache line.
#[derive(Clone, Copy, Debug)]
pub struct Interleaved<'a> {
    pub format: PanelFormat,
    pub panels: &'a [u8],
    pub n: usize,
}

/// Weights that one task reads, about, in bytes: enough to pay for taking it, little enough to share evenly.
const TASK_BYTES: usize = 32 << 10;
/// Rows up to which a product takes about as long as its weights take to read.
const FEW: usize = 8;
/// Rows that a task of rounding takes.
const ROUND_ROWS: usize = 8;

impl Cpu {
    /// Whether this table multiplies interleaved weights.
    pub fn interleaves(&self) -> bool {
        self.isa.has_avx512_bf16()
    }

    /// Lays out `n` rows of `k` weights for [`Cpu::matmul_nt_interleaved`]. Parts of a multiple of
    /// [`PanelFormat::rows`] rows may be laid out one after the other.
    pub fn interleave(&self, out: &mut [u8], w: Mat, n: usize, k: usize) {
        let format = PanelFormat::of(w);
        let (rows, panel_bytes) = (format.rows(), format.panel_bytes(k));
        assert_eq!((out.len(), w.len()), (format.bytes(n, k), n * k), "sizes of [{n}, {k}]");
        let out = Apart(out.as_mut_ptr());
        self.pool.run(n.div_ceil(rows), |p, _| {
            // SAFETY: tasks write separate panels.
            let panel = unsafe { std::slice::from_raw_parts_mut(out.get().add(p * panel_bytes), panel_bytes) };
            interleave::panel(panel, w, p * rows..n.min((p + 1) * rows), k);
        });
    }

    /// `outs[i][m, n_i] = x[m, k] · w_i[n_i, k]ᵀ`. With quantised weights `x` is rounded to blocks of int8 (not exact: about
    /// 1e-2 relative), with bf16 ones to bf16 (about 1e-3); f16 and f32 ones are multiplied in f32. Panics where this table
    /// does not [interleave](Cpu::interleaves). `then` are the panels that the next product will read, as far as that is known:
    /// threads that wait between the two fetch them.
    pub fn matmul_nt_interleaved(
        &self,
        outs: &mut [&mut [f32]],
        x: &[f32],
        weights: &[Interleaved],
        m: usize,
        k: usize,
        then: &[u8],
    ) {
        assert!(self.interleaves() && outs.len() == weights.len() && x.len() == m * k);
        for (out, w) in outs.iter().zip(weights) {
            assert!(out.len() == m * w.n && w.panels.len() == w.format.bytes(w.n, k));
        }
        if m * k == 0 {
            return outs.iter_mut().for_each(|out| out.fill(0.0));
        }
        let kernels = [self.kernel(true), self.kernel(false)];
        let any = |which: fn(PanelFormat) -> bool| weights.iter().any(|w| which(w.format));
        let (int8, pairs) = (any(|f| matches!(f, PanelFormat::Quant(_))), any(|f| f == PanelFormat::Bf16));
        let wide = any(|f| matches!(f, PanelFormat::F16 | PanelFormat::F32));
        let row_bytes = Row::bytes(k).next_multiple_of(64);
        let lines = |wanted: bool, kernel| if wanted { dense_rows::lines_bytes(kernel, m, k) } else { 0 };
        let sizes = [if int8 { m * row_bytes } else { 0 }, lines(pairs, kernels[0]), lines(wide, kernels[1])];
        scratch::with(Slot::Shared, sizes.iter().sum(), |buffer| {
            let buffer = Apart(buffer);
            // SAFETY: the buffer holds `m` rows; their types allow any bits.
            let row = |i: usize| unsafe { Row::at(buffer.get().wrapping_add(i * row_bytes), k) };
            let lines = [0, 1].map(|i| Apart(buffer.get().wrapping_add(sizes[..=i].iter().sum())));
            self.pool.run(m.div_ceil(ROUND_ROWS), |task, _| {
                for i in task * ROUND_ROWS..m.min((task + 1) * ROUND_ROWS) {
                    let x = &x[i * k..][..k];
                    if int8 {
                        int8_rows::round(&row(i), x);
                    }
                    for which in [0, 1] {
                        if [pairs, wide][which] {
                            // SAFETY: the lines have room for `m` rows; a task writes those of its own.
                            unsafe { dense_rows::put_row(self.isa, kernels[which], lines[which].get(), i, x) };
                        }
                    }
                }
            });
            let outs: Vec<Apart<f32>> = outs.iter_mut().map(|out| Apart(out.as_mut_ptr())).collect();
            let tasks = Tasks::new(weights, k);
            // With many rows it is not memory that a product waits for.
            if m <= FEW {
                self.pool.announce(then);
            }
            self.pool.run(tasks.count, |task, _| {
                let (which, panels) = tasks.of(task);
                let (w, out) = (&weights[which], outs[which].get());
                let (panel_bytes, width) = (w.format.panel_bytes(k), w.format.rows());
                let panel = |p: usize| &w.panels[p * panel_bytes..][..panel_bytes];
                // Tasks write separate columns, from `p * width` on.
                let cols = |p: usize| width.min(w.n - p * width);
                let PanelFormat::Quant(format) = w.format else {
                    let which = (w.format != PanelFormat::Bf16) as usize;
                    let _ready = kernels[which].ready();
                    for p in panels.clone() {
                        let (out, ld) = (out.wrapping_add(p * width), w.n);
                        let rows = dense_rows::Rows { lines: lines[which].get(), m, k, out, ld, cols: cols(p) };
                        // SAFETY: the lines hold `m` rows of `k`; the result has these rows and columns.
                        unsafe { dense_rows::multiply(self.isa, kernels[which], w.format, panel(p), &rows) };
                    }
                    return;
                };
                let mut rows = [row(0); TOGETHER];
                for i0 in (0..m).step_by(TOGETHER) {
                    let here = TOGETHER.min(m - i0);
                    rows.iter_mut().take(here).enumerate().for_each(|(i, r)| *r = row(i0 + i));
                    for p in panels.clone() {
                        let out = out.wrapping_add(i0 * w.n + p * width);
                        int8_rows::multiply(format, panel(p), k / 32, &rows[..here], out, w.n, cols(p));
                    }
                }
            });
        });
    }
}

/// How the panels of several weights are shared out to tasks, one weight after the other.
struct Tasks {
    /// Of each weight: its first task, its panels, and how many of them a task has.
    weights: Vec<(usize, usize, usize)>,
    count: usize,
}

impl Tasks {
    fn new(weights: &[Interleaved], k: usize) -> Tasks {
        let mut count = 0;
        let cut = |w: &Interleaved| {
            let panels = w.n.div_ceil(w.format.rows());
            let each = (TASK_BYTES / w.format.panel_bytes(k)).clamp(1, panels.div_ceil(16).max(1));
            let first = count;
            count += panels.div_ceil(each);
            (first, panels, each)
        };
        let weights = weights.iter().map(cut).collect();
        Tasks { weights, count }
    }

    /// Weight and panels of a task.
    fn of(&self, task: usize) -> (usize, std::ops::Range<usize>) {
        // One without panels begins where the next one does.
        let which = self.weights.partition_point(|(first, ..)| *first <= task) - 1;
        let (first, panels, each) = self.weights[which];
        let start = (task - first) * each;
        (which, start..panels.min(start + each))
    }
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
