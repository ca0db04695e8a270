//! Element-wise functions: activations, gated activations, sums, casts, dropout, scatter and column sums.

use crate::{Cpu, In, Out};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU in its tanh form (Hendrycks & Gimpel 2016): `gelu_new`, `gelu_pytorch_tanh`.
    GeluTanh,
    /// GELU with the error function.
    Gelu,
    /// `max(x, 0)`.
    Relu,
}

impl Cpu {
    /// `out = act(gate) · up`: SwiGLU, GeGLU (Shazeer 2020).
    pub fn glu(&self, out: Out, gate: In, up: In, act: Act) {
        todo!()
    }
    /// `dgate = dy · up · act'(gate)`, `dup = dy · act(gate)`.
    pub fn glu_bwd(&self, dgate: Out, dup: Out, dy: In, gate: In, up: In, act: Act) {
        todo!()
    }
    /// `out = act(x)`.
    pub fn act(&self, out: Out, x: In, act: Act) {
        todo!()
    }
    /// `dx = dy · act'(x)`.
    pub fn act_bwd(&self, dx: Out, dy: In, x: In, act: Act) {
        todo!()
    }
    /// `out = a + b`.
    pub fn add(&self, out: Out, a: In, b: In) {
        todo!()
    }
    /// `out += scale · a`.
    pub fn add_scaled(&self, out: Out, a: In, scale: f32) {
        todo!()
    }
    /// `out[i, ..] = x[i, ..] + b` for rows of `c` columns; `out` may be filled with `x` beforehand by passing `None`.
    pub fn add_bias(&self, out: Out, x: Option<In>, b: &[f32], c: usize) {
        todo!()
    }
    /// `out = scale · x`, also between element types.
    pub fn scale(&self, out: Out, x: In, scale: f32) {
        todo!()
    }
    /// Inverted dropout: `out = x / (1-p)` where kept, else 0. The element at (`row`, `col`) is kept by a counter-based
    /// random number of (`key`, `row0 + row`, `col`), so that a recomputed or re-sharded row has the same mask. The backward
    /// pass is the same call on the gradient. Rows have `c` columns.
    pub fn dropout(&self, out: Out, x: In, p: f32, key: u64, row0: u64, c: usize) {
        todo!()
    }
    /// `out[c] = Σ_rows x[rows, c]` (`+ out` if `accumulate`).
    pub fn sum_rows(&self, out: &mut [f32], x: In, accumulate: bool, rows: usize, c: usize) {
        todo!()
    }
    /// `out[ids[i], ..] += x[i, ..]` for rows of `c` columns, in the order of `i`.
    pub fn scatter_add_rows(&self, out: &mut [f32], ids: &[u32], x: In, c: usize) {
        todo!()
    }
    /// `Σ x²` in f64, the same bits for any number of threads.
    pub fn sum_squares(&self, x: In) -> f64 {
        todo!()
    }
    /// Whether every element is finite.
    pub fn all_finite(&self, x: In) -> bool {
        todo!()
    }
}
