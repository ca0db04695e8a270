//! Matrix products in the three layouts that training needs. The storage of the weight does not matter to the caller:
//! it is converted while it is packed.

mod plain;

use crate::{Cpu, In, Mat, Out};

impl Cpu {
    /// `out[m,n] = x[m,k] · w[n,k]ᵀ` (`+ out` if `accumulate`). f32 `x`: f32 products; bf16 `x`: bf16 products,
    /// f32 accumulation. `out` may have either element type.
    pub fn matmul_nt(&self, out: Out, x: In, w: Mat, accumulate: bool, m: usize, n: usize, k: usize) {
        check("out", out.len(), m * n);
        check("x", x.len(), m * k);
        check("w", w.len(), n * k);
        plain::nt(&self.pool, out, x, w, accumulate, m, n, k);
    }

    /// `out[m,k] = dy[m,n] · w[n,k]` (`+ out` if `accumulate`): the gradient of the input of `matmul_nt`.
    pub fn matmul_nn(&self, out: Out, dy: In, w: Mat, accumulate: bool, m: usize, n: usize, k: usize) {
        check("out", out.len(), m * k);
        check("dy", dy.len(), m * n);
        check("w", w.len(), n * k);
        plain::nn(&self.pool, out, dy, w, accumulate, m, n, k);
    }

    /// `out[n,k] = dy[m,n]ᵀ · x[m,k]` (`+ out` if `accumulate`): the gradient of the weight. `dy` and `x` have the same type.
    pub fn matmul_tn(&self, out: &mut [f32], dy: In, x: In, accumulate: bool, m: usize, n: usize, k: usize) {
        check("out", out.len(), n * k);
        check("dy", dy.len(), m * n);
        check("x", x.len(), m * k);
        plain::tn(&self.pool, out, dy, x, accumulate, m, n, k);
    }

    /// Like `matmul_nt` for few rows (`m` up to about 8) and a quantised `w`: `x` is rounded to blocks of int8, and the
    /// weights are read once as they are stored. Not exact (about 1e-2 relative): for decoding only.
    pub fn matmul_nt_int8(&self, out: &mut [f32], x: &[f32], w: Mat, m: usize, n: usize, k: usize) {
        self.matmul_nt(Out::F32(out), In::F32(x), w, false, m, n, k);
    }

    /// Bytes of scratch memory that the products keep for reuse, at most, for a problem of this size.
    pub fn matmul_workspace_bytes(&self, m: usize, n: usize, k: usize, bf16: bool) -> usize {
        let _ = bf16;
        4 * (m * k + n * k)
    }

    /// `out[i, ..] = w[ids[i], ..]`, converted: the embedding look-up. `w` has rows of `k` columns.
    pub fn gather_rows(&self, mut out: Out, w: Mat, ids: &[u32], k: usize) {
        check("out", out.len(), ids.len() * k);
        let rows = if k == 0 { 0 } else { w.len() / k };
        let mut row = vec![0f32; k];
        for (i, &id) in ids.iter().enumerate() {
            assert!((id as usize) < rows, "gather_rows: id {id} of {rows} rows");
            w.read(&mut row, id as usize * k);
            match &mut out {
                Out::F32(out) => out[i * k..][..k].copy_from_slice(&row),
                Out::Bf16(out) => {
                    out[i * k..][..k].iter_mut().zip(&row).for_each(|(o, &v)| *o = crate::bf16::from_f32(v))
                }
            }
        }
    }
}

#[track_caller]
fn check(name: &str, len: usize, wanted: usize) {
    assert_eq!(len, wanted, "matrix product: elements of {name}");
}

#[cfg(test)]
pub(crate) mod tests;
