//! Element-wise functions: activations, gated activations, sums, casts, dropout, scatter and column sums. The activations of
//! a call have one type, except in sums and casts, which take any mix.

mod activation;
mod dropout;
mod rows;

use crate::lanes::{ELEMENTS, Elem, Split, chunks_of, map1, map2, map3, simd_fn, sum1, typed};
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

simd_fn! {
    fn add_chunk[O: Elem, A: Elem, B: Elem](s, out: &mut [O], a: &[A], b: &[B]) {
        map2(s, out, a, b, #[inline(always)] |a, b| s.add(a, b));
    }
}
simd_fn! {
    fn add_scaled_chunk[O: Elem, A: Elem](s, out: &mut [O], a: &[A], scale: f32) {
        let scale = s.splat(scale);
        map3(s, out, a, a, true, #[inline(always)] |out, a, _| s.fma(scale, a, out));
    }
}
simd_fn! {
    fn scale_chunk[O: Elem, A: Elem](s, out: &mut [O], a: &[A], scale: f32) {
        let scale = s.splat(scale);
        map1(s, out, a, #[inline(always)] |a| s.mul(scale, a));
    }
}
simd_fn! {
    /// `Σ x²`, in f32 over blocks of 1024 and in f64 over their sums.
    fn squares_chunk[A: Elem](s, x: &[A]) -> f64 {
        let mut total = 0.0;
        for block in x.chunks(1024) {
            total += sum1(s, block, #[inline(always)] |acc, x| s.fma(x, x, acc)) as f64;
        }
        total
    }
}
simd_fn! {
    /// `0 · x` is zero for every finite `x` and NaN for the others.
    fn finite_chunk[A: Elem](s, x: &[A]) -> bool {
        let zero = s.splat(0.0);
        sum1(s, x, #[inline(always)] |acc, x| s.fma(x, zero, acc)) == 0.0
    }
}

impl Cpu {
    /// Calls `work` for ranges of `ELEMENTS` elements that cover `0..n`.
    pub(crate) fn each_range(&self, n: usize, work: impl Fn(std::ops::Range<usize>) + Sync) {
        self.pool.run(n.div_ceil(ELEMENTS), |chunk, _| work(chunks_of(n, ELEMENTS, chunk)));
    }

    /// `out = a + b`.
    pub fn add(&self, out: Out, a: In, b: In) {
        typed!(out out, in a, in b; {
            assert_eq!((out.len(), out.len()), (a.len(), b.len()), "add: lengths of out, a and b");
            let (n, split) = (out.len(), Split::new(out));
            self.each_range(n, |r| {
                // SAFETY: ranges of different chunks do not overlap.
                let out = unsafe { split.part(r.clone()) };
                add_chunk(self.isa, out, &a[r.clone()], &b[r]);
            });
        })
    }

    /// `out += scale · a`.
    pub fn add_scaled(&self, out: Out, a: In, scale: f32) {
        typed!(out out, in a; {
            assert_eq!(out.len(), a.len(), "add_scaled: lengths of out and a");
            let (n, split) = (out.len(), Split::new(out));
            self.each_range(n, |r| {
                // SAFETY: ranges of different chunks do not overlap.
                let out = unsafe { split.part(r.clone()) };
                add_scaled_chunk(self.isa, out, &a[r], scale);
            });
        })
    }

    /// `out = scale · x`, also between element types.
    pub fn scale(&self, out: Out, x: In, scale: f32) {
        typed!(out out, in x; {
            assert_eq!(out.len(), x.len(), "scale: lengths of out and x");
            let (n, split) = (out.len(), Split::new(out));
            self.each_range(n, |r| {
                // SAFETY: ranges of different chunks do not overlap.
                let out = unsafe { split.part(r.clone()) };
                scale_chunk(self.isa, out, &x[r], scale);
            });
        })
    }

    /// `Σ x²` in f64, the same bits for any number of threads.
    pub fn sum_squares(&self, x: In) -> f64 {
        typed!(in x; {
            let n = x.len();
            let mut parts = vec![0.0f64; n.div_ceil(ELEMENTS)];
            let split = Split::new(&mut parts);
            self.pool.run(n.div_ceil(ELEMENTS), |chunk, _| {
                // SAFETY: one element for each chunk.
                let part = unsafe { split.part(chunk..chunk + 1) };
                part[0] = squares_chunk(self.isa, &x[chunks_of(n, ELEMENTS, chunk)]);
            });
            parts.iter().sum()
        })
    }

    /// Whether every element is finite.
    pub fn all_finite(&self, x: In) -> bool {
        use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
        let finite = AtomicBool::new(true);
        typed!(in x; self.each_range(x.len(), |r| {
            if finite.load(Relaxed) && !finite_chunk(self.isa, &x[r]) {
                finite.store(false, Relaxed);
            }
        }));
        finite.into_inner()
    }
}
