//! Rotary position embedding (Su et al. 2021) in the half-split layout of Hugging Face: column `i` turns with `i + d/2`.

use crate::{Cpu, In, Out};

impl Cpu {
    /// Rotates each head of `x[rows, heads*d]` by the angles of its position: `cos`, `sin` are `[max_pos, rot/2]`, of which the
    /// first `rot` columns of a head are turned and the rest copied. `inverse` turns back: the backward pass.
    pub fn rope(&self, out: Out, x: In, cos: &[f32], sin: &[f32], positions: &[u32], heads: usize, d: usize, rot: usize, inverse: bool) {
        todo!()
    }
    /// The same on `x` itself.
    pub fn rope_inplace(&self, x: Out, cos: &[f32], sin: &[f32], positions: &[u32], heads: usize, d: usize, rot: usize, inverse: bool) {
        todo!()
    }
}
