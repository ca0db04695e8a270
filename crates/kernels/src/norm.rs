//! RMSNorm (Zhang & Sennrich 2019) and LayerNorm (Ba et al. 2016). `rows` rows of `c` columns; statistics are f32.
//! `add` in RMSNorm is added to the weight: 1 for Gemma, else 0.

use crate::{Cpu, In, Out};

impl Cpu {
    /// `out = x · rstd · (w + add)`, `rstd[rows] = (mean(x²) + eps)^-1/2`.
    pub fn rmsnorm(&self, out: Out, rstd: &mut [f32], x: In, w: &[f32], add: f32, eps: f32, rows: usize, c: usize) {
        todo!()
    }

    /// `dx` (`+=` if `accumulate`) from `dy`, the input `x` and the forward's `rstd`. `dw_rows`, if given, receives
    /// `dy · x · rstd` for each row (`[rows, c]`): what the gradient of `w` is the column sum of.
    pub fn rmsnorm_bwd(
        &self, dx: Out, dw_rows: Option<Out>, dy: In, x: In, w: &[f32], add: f32, rstd: &[f32], accumulate: bool, rows: usize,
        c: usize,
    ) {
        todo!()
    }

    /// `sum = a + b`; `out = rmsnorm(sum)`: the residual connection and the norm that follows it, in one pass.
    pub fn add_rmsnorm(
        &self, sum: Out, out: Out, rstd: &mut [f32], a: In, b: In, w: &[f32], add: f32, eps: f32, rows: usize, c: usize,
    ) {
        todo!()
    }

    /// `out = (x - mean) · rstd · w + b`.
    pub fn layernorm(&self, out: Out, mean: &mut [f32], rstd: &mut [f32], x: In, w: &[f32], b: &[f32], eps: f32, rows: usize, c: usize) {
        todo!()
    }

    /// As `rmsnorm_bwd`; `dw_rows` receives `dy · (x - mean) · rstd`. The gradient of `b` is the column sum of `dy`.
    pub fn layernorm_bwd(
        &self, dx: Out, dw_rows: Option<Out>, dy: In, x: In, w: &[f32], mean: &[f32], rstd: &[f32], accumulate: bool, rows: usize,
        c: usize,
    ) {
        todo!()
    }
}
