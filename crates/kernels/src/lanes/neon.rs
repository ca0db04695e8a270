//! Sixteen lanes in four NEON registers.

use core::arch::aarch64::*;

use super::{L, Simd};
use crate::bf16;

/// Needs no proof: every aarch64 target that has the standard library has NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

type V = [float32x4_t; 4];

/// Applies an instruction to each quarter.
macro_rules! each {
    ($f:ident, $a:expr $(, $more:expr)*) => {{
        // SAFETY: NEON is part of the target.
        [0, 1, 2, 3].map(#[inline(always)] |i| unsafe { $f($a[i] $(, $more[i])*) })
    }};
}

/// `v · 2^n` in two steps, so that neither factor leaves the normal range.
#[inline]
#[target_feature(enable = "neon")]
fn scale2(v: float32x4_t, n: float32x4_t) -> float32x4_t {
    let n = vcvtq_s32_f32(n);
    let half = vshrq_n_s32::<1>(n);
    let power = |n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127))));
    vmulq_f32(vmulq_f32(v, power(half)), power(vsubq_s32(n, half)))
}

/// Four rounded bf16.
#[inline]
#[target_feature(enable = "neon")]
fn round_bf16(v: float32x4_t) -> uint16x4_t {
    let bits = vreinterpretq_u32_f32(v);
    let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
    let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    let quiet = vorrq_u32(bits, vdupq_n_u32(0x40_0000));
    vshrn_n_u32::<16>(vbslq_u32(vceqq_f32(v, v), rounded, quiet))
}

/// The instruction for a maximum would return a NaN of either side.
#[inline]
#[target_feature(enable = "neon")]
fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcgtq_f32(a, b), a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn smaller(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcltq_f32(a, b), a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn choose(a: float32x4_t, b: float32x4_t, x: float32x4_t, y: float32x4_t) -> float32x4_t {
    vbslq_f32(vcltq_f32(a, b), x, y)
}

/// Lane `i` is the sum of `v[i]`, in the order of [`Simd::sum`]: quarters first, then the lanes of a transposed square.
#[inline]
#[target_feature(enable = "neon")]
fn sum_four(v: &[V]) -> float32x4_t {
    let quarter = |i: usize| vaddq_f32(vaddq_f32(v[i][0], v[i][2]), vaddq_f32(v[i][1], v[i][3]));
    let (a, b, c, d) = (quarter(0), quarter(1), quarter(2), quarter(3));
    let halves = |low, high| {
        let (low, high) = (vreinterpretq_f64_f32(low), vreinterpretq_f64_f32(high));
        vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(low, high)), vreinterpretq_f32_f64(vzip2q_f64(low, high)))
    };
    let even = halves(vtrn1q_f32(a, b), vtrn1q_f32(c, d));
    let odd = halves(vtrn2q_f32(a, b), vtrn2q_f32(c, d));
    vaddq_f32(even, odd)
}

impl Simd for Neon {
    type V = V;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        // SAFETY (here and below): NEON is part of the target; addresses come from arrays of sixteen elements.
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    fn load(self, x: &[f32; L]) -> V {
        // SAFETY: see `splat`.
        [0, 4, 8, 12].map(|at| unsafe { vld1q_f32(x.as_ptr().add(at)) })
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; L], v: V) {
        for i in 0..4 {
            // SAFETY: see `splat`.
            unsafe { vst1q_f32(out.as_mut_ptr().add(4 * i), v[i]) }
        }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; L]) -> V {
        [0, 4, 8, 12].map(
            // SAFETY: see `splat`.
            |at| unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(x.as_ptr().add(at).cast()))) },
        )
    }
    #[inline(always)]
    fn store_bf16(self, out: &mut [bf16; L], v: V) {
        for i in 0..4 {
            // SAFETY: see `splat`.
            unsafe { vst1_u16(out.as_mut_ptr().add(4 * i).cast(), round_bf16(v[i])) }
        }
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        each!(vaddq_f32, a, b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        each!(vsubq_f32, a, b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        each!(vmulq_f32, a, b)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        each!(vdivq_f32, a, b)
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        each!(vfmaq_f32, c, a, b)
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        each!(larger, a, b)
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        each!(smaller, a, b)
    }
    #[inline(always)]
    fn sqrt(self, a: V) -> V {
        each!(vsqrtq_f32, a)
    }
    #[inline(always)]
    fn abs(self, a: V) -> V {
        each!(vabsq_f32, a)
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        each!(vrndnq_f32, a)
    }
    #[inline(always)]
    fn scale2(self, v: V, n: V) -> V {
        each!(scale2, v, n)
    }
    #[inline(always)]
    fn select_lt(self, a: V, b: V, x: V, y: V) -> V {
        each!(choose, a, b, x, y)
    }
    #[inline(always)]
    fn sum_each(self, v: [V; L]) -> V {
        // SAFETY: see `splat`.
        unsafe { [sum_four(&v[..4]), sum_four(&v[4..8]), sum_four(&v[8..12]), sum_four(&v[12..])] }
    }
}
