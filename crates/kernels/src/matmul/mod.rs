//! Matrix products in the three layouts that training needs. The storage of the weight does not matter to the caller:
//! it is converted while it is packed.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dense_rows;
mod dots;
#[cfg(target_arch = "x86_64")]
mod dots_avx512;
mod gemm;
mod int8;
#[cfg(target_arch = "x86_64")]
mod int8_avx2;
#[cfg(target_arch = "aarch64")]
mod int8_neon;
#[cfg(target_arch = "x86_64")]
mod int8_round;
mod int8_rows;
#[cfg(target_arch = "x86_64")]
mod int8_vnni;
mod interleave;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod panels;
mod portable;
mod tile;

use crate::scratch::{self, Slot};
use crate::{Cpu, In, Isa, Mat, Out, convert};
use dots::{Few, Places};
use pack::Operand;
pub(crate) use pack::prefetch;
use tile::Kernel;

#[cfg(target_arch = "aarch64")]
pub(crate) use int8_neon::sdot;
pub use interleave::PanelFormat;
pub use panels::Interleaved;

/// Up to so many rows of activations, weights are read once and not packed.
const FEW_ROWS: usize = 8;
/// Sums at least twice as long as this, of results up to so many elements, are made a slice at a time.
const SLICE: usize = 4096;
const SLICED_RESULT: usize = 1 << 20;
/// Up to so many columns of a result, the activations are read once and not packed.
const FEW_COLUMNS: usize = 16;

impl Cpu {
    /// `out[m,n] = x[m,k] · w[n,k]ᵀ` (`+ out` if `accumulate`). f32 and f16 `x`: f32 products; bf16 `x`: bf16 products,
    /// f32 accumulation. `out` may have any element type.
    pub fn matmul_nt(&self, out: Out, x: In, w: Mat, accumulate: bool, m: usize, n: usize, k: usize) {
        check("out", out.len(), m * n);
        check("x", x.len(), m * k);
        check("w", w.len(), n * k);
        if m * n * k > 0 && m <= FEW_ROWS {
            let places = Places { few_ld: n, stream_ld: 1 };
            return self.dots(out, places, x.into(), w, accumulate, (m, n), k, matches!(x, In::Bf16(_)));
        }
        if m * n * k > 0 && n <= FEW_COLUMNS {
            let places = Places { few_ld: 1, stream_ld: n };
            return self.dots(out, places, w, x.into(), accumulate, (n, m), k, true);
        }
        let a = Operand::new(x.into(), false, m, k);
        let b = Operand::new(w, false, n, k);
        self.gemm(out, a, b, matches!(x, In::Bf16(_)), accumulate);
    }

    /// `matmul_nt` as dot products of f32, however many rows there are: a row's bits do not depend on the rows beside it. Nothing
    /// is packed; of many rows it is somewhat slower.
    pub fn matmul_nt_by_rows(&self, out: Out, x: In, w: Mat, accumulate: bool, m: usize, n: usize, k: usize) {
        if m * n * k == 0 {
            return self.matmul_nt(out, x, w, accumulate, m, n, k);
        }
        check("out", out.len(), m * n);
        check("x", x.len(), m * k);
        check("w", w.len(), n * k);
        // Whichever side has fewer rows stays in the cache; a dot product is the same from either.
        match m <= n {
            true => {
                let places = Places { few_ld: n, stream_ld: 1 };
                self.dots(out, places, x.into(), w, accumulate, (m, n), k, false);
            }
            false => {
                let places = Places { few_ld: 1, stream_ld: n };
                self.dots(out, places, w, x.into(), accumulate, (n, m), k, false);
            }
        }
    }

    /// `out[m,k] = dy[m,n] · w[n,k]` (`+ out` if `accumulate`): the gradient of the input of `matmul_nt`.
    pub fn matmul_nn(&self, out: Out, dy: In, w: Mat, accumulate: bool, m: usize, n: usize, k: usize) {
        check("out", out.len(), m * k);
        check("dy", dy.len(), m * n);
        check("w", w.len(), n * k);
        if m * n * k > 0 && k <= FEW_COLUMNS && !matches!(w, Mat::Quant(..)) {
            return self.nn_narrow(out, dy, w, accumulate, m, n, k);
        }
        let a = Operand::new(dy.into(), false, m, n);
        let b = Operand::new(w, true, k, n);
        self.gemm(out, a, b, matches!(dy, In::Bf16(_)), accumulate);
    }

    /// `out[n,k] = dy[m,n]ᵀ · x[m,k]` (`+ out` if `accumulate`): the gradient of the weight. `dy` and `x` have the same type.
    pub fn matmul_tn(&self, out: &mut [f32], dy: In, x: In, accumulate: bool, m: usize, n: usize, k: usize) {
        check("out", out.len(), n * k);
        check("dy", dy.len(), m * n);
        check("x", x.len(), m * k);
        let a = Operand::new(dy.into(), true, n, m);
        let b = Operand::new(x.into(), true, k, m);
        let bf16 = matches!(x, In::Bf16(_));
        if k > FEW_COLUMNS || n <= k {
            return self.gemm(Out::F32(out), a, b, bf16, accumulate);
        }
        // Tiles are wide and can be low: a narrow result is computed lying down and turned.
        scratch::with(Slot::Turned, n * k * 4, |buffer| {
            // SAFETY: the buffer holds `n * k` f32, which allow any bits.
            let turned = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<f32>(), n * k) };
            self.gemm(Out::F32(turned), b, a, bf16, false);
            for (i, row) in out.chunks_exact_mut(k.max(1)).enumerate() {
                for (j, v) in row.iter_mut().enumerate() {
                    *v = if accumulate { *v + turned[j * n + i] } else { turned[j * n + i] };
                }
            }
        });
    }

    /// Like `matmul_nt` for a quantised `w`: `x` is rounded to blocks of int8, and the weights are read as they are stored. Not exact
    /// (about 1e-2 relative): for inference only. The bits of a row do not depend on the others.
    pub fn matmul_nt_int8(&self, out: &mut [f32], x: &[f32], w: Mat, m: usize, n: usize, k: usize) {
        check("out", out.len(), m * n);
        check("x", x.len(), m * k);
        check("w", w.len(), n * k);
        match w {
            Mat::Quant(format, blocks) if m * n * k > 0 => {
                int8::nt(&self.pool, self.isa, out, x, format, blocks, m, n, k);
            }
            // Weights that are not quantised are multiplied as they are.
            _ => self.matmul_nt_by_rows(Out::F32(out), In::F32(x), w, false, m, n, k),
        }
    }

    /// Bytes of scratch memory that the products keep for reuse, at most, for a problem of this size with activations of the
    /// type of `like`.
    pub fn matmul_workspace_bytes(&self, m: usize, n: usize, k: usize, like: In) -> usize {
        let kernel = self.kernel(matches!(like, In::Bf16(_)));
        let waits = matches!(like, In::F16(_));
        let layouts = [(false, m, n, k), (true, m, k, n), (false, n, k, m)];
        let bytes = |&(across, m, n, k): &(bool, usize, usize, usize)| match k < 2 * SLICE || m * n > SLICED_RESULT {
            true => gemm::scratch_bytes(kernel, self.threads(), across, waits, m, n, k),
            false => gemm::scratch_bytes(kernel, self.threads(), across, waits, m, n, SLICE) + 4 * m * n,
        };
        layouts.iter().map(bytes).max().unwrap_or(0)
    }

    /// `out[i, ..] = w[ids[i], ..]`, converted: the embedding look-up. `w` has rows of `k` columns.
    pub fn gather_rows(&self, mut out: Out, w: Mat, ids: &[u32], k: usize) {
        check("out", out.len(), ids.len() * k);
        let rows = w.len().checked_div(k).unwrap_or(0);
        for (i, &id) in ids.iter().enumerate() {
            assert!((id as usize) < rows, "gather_rows: id {id} of {rows} rows");
            match &mut out {
                Out::F32(out) => convert::to_f32(self.isa, &mut out[i * k..][..k], w, id as usize * k),
                Out::Bf16(out) => convert::to_bf16(self.isa, &mut out[i * k..][..k], w, id as usize * k),
                Out::F16(out) => convert::to_f16(self.isa, &mut out[i * k..][..k], w, id as usize * k),
            }
        }
    }

    /// `few · streamᵀ`. bf16 products if `pairs` (the stream is bf16), both sides are meant as bf16 and the table has
    /// them; otherwise f32 products.
    fn dots(
        &self,
        out: Out,
        places: Places,
        few: Mat,
        stream: Mat,
        accumulate: bool,
        count: (usize, usize),
        k: usize,
        pairs: bool,
    ) {
        let pairs = pairs && self.isa.has_avx512_bf16() && matches!(stream, Mat::Bf16(_));
        let len = count.0 * k;
        scratch::with(Slot::Shared, len * 4, |buffer| {
            let few = match few {
                Mat::F32(few) if !pairs => Few::F32(few),
                Mat::Bf16(few) if pairs => Few::Bf16(few),
                // SAFETY: the buffer holds `len` elements of either type; both allow any bits.
                _ => unsafe {
                    if pairs {
                        let half = std::slice::from_raw_parts_mut(buffer.cast(), len);
                        convert::to_bf16(self.isa, half, few, 0);
                        Few::Bf16(half)
                    } else {
                        let wide = std::slice::from_raw_parts_mut(buffer.cast(), len);
                        convert::to_f32(self.isa, wide, few, 0);
                        Few::F32(wide)
                    }
                },
            };
            dots::dots(&self.pool, self.isa, out, places, few, stream, accumulate, count, k);
        });
    }

    /// `matmul_nn` with few columns `k`: the small weight is transposed, then it is dot products.
    fn nn_narrow(&self, out: Out, dy: In, w: Mat, accumulate: bool, m: usize, n: usize, k: usize) {
        let places = Places { few_ld: 1, stream_ld: k };
        scratch::with(Slot::Turned, 2 * n * k * 4, |buffer| {
            // SAFETY: the buffer holds twice `n * k` f32, which allow any bits.
            let both = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<f32>(), 2 * n * k) };
            let (wide, turned) = both.split_at_mut(n * k);
            convert::to_f32(self.isa, wide, w, 0);
            for (i, row) in wide.chunks_exact(k).enumerate() {
                for (j, v) in row.iter().enumerate() {
                    turned[j * n + i] = *v;
                }
            }
            self.dots(out, places, Mat::F32(turned), dy.into(), accumulate, (k, m), n, true);
        });
    }

    /// The general product on the micro-kernels of this table.
    fn gemm(&self, mut out: Out, a: Operand, b: Operand, bf16: bool, accumulate: bool) {
        let (m, n, k) = (a.len, b.len, a.k);
        if m * n == 0 {
            return;
        }
        if k == 0 {
            if !accumulate {
                match &mut out {
                    Out::F32(out) => out.fill(0.0),
                    Out::Bf16(out) => out.fill(crate::bf16::ZERO),
                    Out::F16(out) => out.fill(crate::f16::ZERO),
                }
            }
            return;
        }
        if let Mat::Quant(format, _) = b.data {
            let row = if b.across { n } else { k };
            assert!(row.is_multiple_of(format.block_len()), "{format:?}: rows of {row} are not whole blocks");
        }
        let kernel = self.kernel(bf16);
        if k < 2 * SLICE || m * n > SLICED_RESULT {
            return gemm::gemm(&self.pool, self.isa, kernel, out, a, b, accumulate, m, n, k);
        }
        // A long sum for a small result: a slice of the sum at a time is packed and read in order, and kept in the cache.
        scratch::with(Slot::Turned, m * n * 4, |buffer| {
            // SAFETY: the buffer holds `m * n` f32, which allow any bits.
            let sums = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<f32>(), m * n) };
            for start in (0..k).step_by(SLICE) {
                let (here, sums) = (SLICE.min(k - start), Out::F32(sums));
                let (a, b) = (a.slice(start, here), b.slice(start, here));
                gemm::gemm(&self.pool, self.isa, kernel, sums, a, b, start > 0, m, n, here);
            }
            match accumulate {
                true => self.add_scaled(out, In::F32(sums), 1.0),
                false => self.scale(out, In::F32(sums), 1.0),
            }
        });
    }

    fn kernel(&self, bf16: bool) -> &'static Kernel {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx if bf16 => &amx::BF16,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 if bf16 => &avx512::BF16,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => &avx512::F32,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2::F32,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot => &neon::F32,
            _ => {
                let _ = bf16;
                &portable::F32
            }
        }
    }
}

impl<'a> From<In<'a>> for Mat<'a> {
    fn from(x: In<'a>) -> Mat<'a> {
        match x {
            In::F32(x) => Mat::F32(x),
            In::Bf16(x) => Mat::Bf16(x),
            In::F16(x) => Mat::F16(x),
        }
    }
}

#[track_caller]
fn check(name: &str, len: usize, wanted: usize) {
    assert_eq!(len, wanted, "matrix product: elements of {name}");
}

#[cfg(test)]
pub(crate) mod tests;
