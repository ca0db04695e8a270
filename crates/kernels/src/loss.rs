//! Softmax and cross-entropy over a chunk of logits.

use crate::Cpu;
use crate::lanes::{L, Simd, Split, map1, math, simd_fn, sum1};

/// Logits that are read twice in a row (for their maximum and for their exponentials): a part of the first-level cache.
const BLOCK: usize = 2048;

/// The largest of `x` and `floor`.
#[inline(always)]
pub(crate) fn largest<S: Simd>(s: S, x: &[f32], floor: f32) -> f32 {
    // Four maxima in registers, so that they do not wait for each other.
    let (fours, rest) = x.as_chunks::<{ 4 * L }>();
    let (blocks, tail) = rest.as_chunks::<L>();
    let mut top = [s.splat(floor); 4];
    for four in fours {
        let (four, _) = four.as_chunks::<L>();
        for i in 0..4 {
            top[i] = s.max(s.load(&four[i]), top[i]);
        }
    }
    for block in blocks {
        top[0] = s.max(s.load(block), top[0]);
    }
    let top = s.max_lane(s.max(s.max(top[0], top[1]), s.max(top[2], top[3])));
    tail.iter().fold(top, |top, x| if *x > top { *x } else { top })
}

simd_fn! {
    /// `log Σ exp(x)` in one pass over memory: the sum is rescaled when a block raises the maximum (Milakov &
    /// Gimelshein 2018).
    fn log_sum_exp(s, x: &[f32]) -> f32 {
        let (mut top, mut total) = (f32::NEG_INFINITY, 0.0f64);
        for block in x.chunks(BLOCK) {
            let new = largest(s, block, top);
            if new > top {
                total *= ((top - new) as f64).exp();
                top = new;
            }
            // Minus infinity everywhere so far: there is nothing to add, and -inf - -inf would be NaN.
            let shift = s.splat(if top == f32::NEG_INFINITY { 0.0 } else { top });
            let (body, tail) = block.split_at(block.len() / L * L);
            total += sum1(s, body, #[inline(always)] |acc, x| s.add(acc, math::exp(s, s.sub(x, shift)))) as f64;
            let shift = if top == f32::NEG_INFINITY { 0.0 } else { top };
            total += tail.iter().map(|x| ((x - shift) as f64).exp()).sum::<f64>();
        }
        (top as f64 + total.ln()) as f32
    }
}
simd_fn! {
    /// `x := weight · exp(x - lse)`.
    fn softmax_row(s, x: &mut [f32], lse: f32, weight: f32) {
        let (shift, weight) = (s.splat(lse), s.splat(weight));
        inplace(s, x, #[inline(always)] |x| s.mul(weight, math::exp(s, s.sub(x, shift))));
    }
}
simd_fn! {
    fn softcap_chunk(s, x: &mut [f32], cap: f32) {
        let (cap, inverse) = (s.splat(cap), s.splat(1.0 / cap));
        inplace(s, x, #[inline(always)] |x| s.mul(cap, math::tanh(s, s.mul(x, inverse))));
    }
}

/// `x := f(x)`.
#[inline(always)]
fn inplace<S: Simd>(s: S, x: &mut [f32], f: impl Fn(S::V) -> S::V) {
    let (blocks, tail) = x.as_chunks_mut::<L>();
    for block in blocks {
        s.store(block, f(s.load(block)));
    }
    if !tail.is_empty() {
        let mut copy = [0.0; L];
        copy[..tail.len()].copy_from_slice(tail);
        map1(s, tail, &copy[..tail.len()], f);
    }
}

impl Cpu {
    /// For each row of `logits[rows, v]`: `loss[row] = lse - logits[target]`, `lse[row] = log Σ exp(logits)`.
    pub fn cross_entropy(
        &self,
        loss: &mut [f32],
        lse: &mut [f32],
        logits: &[f32],
        targets: &[u32],
        rows: usize,
        v: usize,
    ) {
        check("cross_entropy", logits.len(), &[loss.len(), lse.len(), targets.len()], targets, rows, v);
        let (loss, lse) = (Split::new(loss), Split::new(lse));
        self.pool.run(rows, |row, _| {
            let x = &logits[row * v..(row + 1) * v];
            // SAFETY: every row belongs to one chunk.
            let (loss, lse) = unsafe { (loss.part(row..row + 1), lse.part(row..row + 1)) };
            lse[0] = log_sum_exp(self.isa, x);
            loss[0] = lse[0] - x[targets[row] as usize];
        });
    }

    /// In place: `logits := weight[row] · (softmax(logits) - onehot(target))`, with the forward's `lse`. A row of weight 0
    /// becomes 0 whatever it holds.
    pub fn cross_entropy_bwd(
        &self,
        logits: &mut [f32],
        lse: &[f32],
        targets: &[u32],
        weights: &[f32],
        rows: usize,
        v: usize,
    ) {
        let per_row = [lse.len(), targets.len(), weights.len()];
        check("cross_entropy_bwd", logits.len(), &per_row, targets, rows, v);
        let logits = Split::new(logits);
        self.pool.run(rows, |row, _| {
            // SAFETY: every row belongs to one chunk.
            let x = unsafe { logits.part(row * v..(row + 1) * v) };
            if weights[row] == 0.0 {
                return x.fill(0.0);
            }
            softmax_row(self.isa, x, lse[row], weights[row]);
            x[targets[row] as usize] -= weights[row];
        });
    }

    /// In place: `x := cap · tanh(x / cap)`.
    pub fn softcap(&self, x: &mut [f32], cap: f32) {
        let (n, x) = (x.len(), Split::new(x));
        self.each_range(n, |r| {
            // SAFETY: ranges of different chunks do not overlap.
            let x = unsafe { x.part(r) };
            softcap_chunk(self.isa, x, cap);
        });
    }
}

fn check(kernel: &str, logits: usize, per_row: &[usize], targets: &[u32], rows: usize, v: usize) {
    assert_eq!(logits, rows * v, "{kernel}: length of logits for {rows} x {v}");
    assert!(per_row.iter().all(|n| *n == rows), "{kernel}: per-row lengths {per_row:?} for {rows} rows");
    let bad = targets.iter().find(|t| **t as usize >= v);
    assert!(bad.is_none(), "{kernel}: target {} of {v} classes", bad.unwrap_or(&0));
}
