//! Optimizer updates on flat f32 slices.

use crate::Cpu;

/// The constants of one AdamW step (Loshchilov & Hutter 2019).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Decoupled: `p -= lr · weight_decay · p`.
    pub weight_decay: f32,
    /// `1 - beta1^t` and `1 - beta2^t`.
    pub bias1: f32,
    pub bias2: f32,
}

impl Cpu {
    /// One step: `g` is multiplied by `grad_scale` first (clipping).
    pub fn adamw(&self, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], grad_scale: f32, c: &AdamW) {
        todo!()
    }
    /// SGD: `b = momentum·b + g`; `p -= lr·(g + momentum·b)` if `nesterov` else `lr·b`; L2 `weight_decay` is added to `g`.
    /// Without momentum `b` is empty.
    pub fn sgd(&self, p: &mut [f32], b: &mut [f32], g: &[f32], grad_scale: f32, lr: f32, momentum: f32, nesterov: bool, weight_decay: f32) {
        todo!()
    }
}
