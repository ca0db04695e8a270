//! Matrix products in the three layouts that training needs. The storage of the weight does not matter to the caller:
//! it is converted while it is packed.

use crate::{Cpu, In, Mat, Out};

impl Cpu {
    /// `out[m,n] = x[m,k] · w[n,k]ᵀ` (`+ out` if `accumulate`). f32 `x`: f32 products; bf16 `x`: bf16 products,
    /// f32 accumulation. `out` may have either element type.
    pub fn matmul_nt(&self, out: Out, x: In, w: Mat, accumulate: bool, m: usize, n: usize, k: usize) {
        todo!()
    }

    /// `out[m,k] = dy[m,n] · w[n,k]` (`+ out` if `accumulate`): the gradient of the input of `matmul_nt`.
    pub fn matmul_nn(&self, out: Out, dy: In, w: Mat, accumulate: bool, m: usize, n: usize, k: usize) {
        todo!()
    }

    /// `out[n,k] = dy[m,n]ᵀ · x[m,k]` (`+ out` if `accumulate`): the gradient of the weight. `dy` and `x` have the same type.
    pub fn matmul_tn(&self, out: &mut [f32], dy: In, x: In, accumulate: bool, m: usize, n: usize, k: usize) {
        todo!()
    }

    /// Like `matmul_nt` for few rows (`m` up to about 8) and a quantised `w`: `x` is rounded to blocks of int8, and the
    /// weights are read once as they are stored. Not exact (about 1e-2 relative): for decoding only.
    pub fn matmul_nt_int8(&self, out: &mut [f32], x: &[f32], w: Mat, m: usize, n: usize, k: usize) {
        todo!()
    }

    /// Bytes of scratch memory that the products keep for reuse, at most, for a problem of this size.
    pub fn matmul_workspace_bytes(&self, m: usize, n: usize, k: usize, bf16: bool) -> usize {
        0
    }

    /// `out[i, ..] = w[ids[i], ..]`, converted: the embedding look-up. `w` has rows of `k` columns.
    pub fn gather_rows(&self, out: Out, w: Mat, ids: &[u32], k: usize) {
        todo!()
    }
}
