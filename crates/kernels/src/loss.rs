//! Softmax and cross-entropy over a chunk of logits.

use crate::Cpu;

impl Cpu {
    /// For each row of `logits[rows, v]`: `loss[row] = lse - logits[target]`, `lse[row] = log Σ exp(logits)`.
    pub fn cross_entropy(&self, loss: &mut [f32], lse: &mut [f32], logits: &[f32], targets: &[u32], rows: usize, v: usize) {
        todo!()
    }
    /// In place: `logits := weight[row] · (softmax(logits) - onehot(target))`, with the forward's `lse`.
    pub fn cross_entropy_bwd(&self, logits: &mut [f32], lse: &[f32], targets: &[u32], weights: &[f32], rows: usize, v: usize) {
        todo!()
    }
    /// In place: `x := cap · tanh(x / cap)`.
    pub fn softcap(&self, x: &mut [f32], cap: f32) {
        todo!()
    }
}
