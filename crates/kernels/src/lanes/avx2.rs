//! Sixteen lanes in two AVX registers.

use core::arch::x86_64::*;

use super::{L, Simd};
use crate::{bf16, f16};

/// Exists only inside functions that enable AVX2, FMA and F16C: what makes the calls below sound.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub fn enabled() -> Avx2 {
        Avx2(())
    }
}

type V = (__m256, __m256);

/// Applies a two-operand instruction to both halves.
macro_rules! both {
    ($f:ident, $a:expr, $b:expr) => {{
        let (a, b) = ($a, $b);
        // SAFETY: a value of type `Avx2` is in scope: the instruction set is there.
        unsafe { ($f(a.0, b.0), $f(a.1, b.1)) }
    }};
}

/// Eight rounded bf16 in the low halves of eight 32-bit lanes.
#[inline(always)]
fn round_bf16(v: __m256) -> __m256i {
    // SAFETY: called from methods of `Avx2` only.
    unsafe {
        let bits = _mm256_castps_si256(v);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
        _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
    }
}

/// `v · 2^n` in two steps, so that neither factor leaves the normal range.
#[inline(always)]
fn scale2(v: __m256, n: __m256) -> __m256 {
    // SAFETY: called from methods of `Avx2` only.
    unsafe {
        let n = _mm256_cvtps_epi32(n);
        let half = _mm256_srai_epi32::<1>(n);
        let bias = _mm256_set1_epi32(127);
        let low = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
        let high = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias));
        _mm256_mul_ps(_mm256_mul_ps(v, _mm256_castsi256_ps(low)), _mm256_castsi256_ps(high))
    }
}

/// The sums of four vectors of `v` from `i` on, in each half of the result for one half of the lanes.
#[inline(always)]
fn sum_four(v: &[V; L], i: usize) -> __m256 {
    // SAFETY: called from methods of `Avx2` only.
    unsafe {
        let a = _mm256_hadd_ps(_mm256_add_ps(v[i].0, v[i].1), _mm256_add_ps(v[i + 1].0, v[i + 1].1));
        let b = _mm256_hadd_ps(_mm256_add_ps(v[i + 2].0, v[i + 2].1), _mm256_add_ps(v[i + 3].0, v[i + 3].1));
        _mm256_hadd_ps(a, b)
    }
}

/// The halves of `a` added, then those of `b`.
#[inline(always)]
fn sum_halves(a: __m256, b: __m256) -> __m256 {
    // SAFETY: called from methods of `Avx2` only.
    unsafe { _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b)) }
}

impl Simd for Avx2 {
    type V = V;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        // SAFETY (here and below): `self` proves the instruction set; addresses come from arrays of sixteen elements.
        unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; L]) -> V {
        // SAFETY: see `splat`.
        unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; L], v: V) {
        // SAFETY: see `splat`.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), v.0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v.1);
        }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; L]) -> V {
        // SAFETY: see `splat`.
        unsafe {
            let widen = |p: *const bf16| {
                let half = _mm_loadu_si128(p.cast());
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)))
            };
            (widen(x.as_ptr()), widen(x.as_ptr().add(8)))
        }
    }
    #[inline(always)]
    fn store_bf16(self, out: &mut [bf16; L], v: V) {
        // SAFETY: see `splat`.
        unsafe {
            // Packing works within 128-bit halves; the permutation puts the four quarters back in order.
            let packed = _mm256_packus_epi32(round_bf16(v.0), round_bf16(v.1));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; L]) -> V {
        // SAFETY: see `splat`.
        unsafe {
            let widen = |p: *const f16| _mm256_cvtph_ps(_mm_loadu_si128(p.cast()));
            (widen(x.as_ptr()), widen(x.as_ptr().add(8)))
        }
    }
    #[inline(always)]
    fn store_f16(self, out: &mut [f16; L], v: V) {
        // SAFETY: see `splat`.
        unsafe {
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.0));
            _mm_storeu_si128(out.as_mut_ptr().add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.1));
        }
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        // SAFETY: see `splat`.
        unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        both!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn sqrt(self, a: V) -> V {
        // SAFETY: see `splat`.
        unsafe { (_mm256_sqrt_ps(a.0), _mm256_sqrt_ps(a.1)) }
    }
    #[inline(always)]
    fn abs(self, a: V) -> V {
        // SAFETY: see `splat`.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            (_mm256_andnot_ps(sign, a.0), _mm256_andnot_ps(sign, a.1))
        }
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: see `splat`.
        unsafe { (_mm256_round_ps::<NEAREST>(a.0), _mm256_round_ps::<NEAREST>(a.1)) }
    }
    #[inline(always)]
    fn scale2(self, v: V, n: V) -> V {
        (scale2(v.0, n.0), scale2(v.1, n.1))
    }
    #[inline(always)]
    fn select_lt(self, a: V, b: V, x: V, y: V) -> V {
        // SAFETY: see `splat`.
        unsafe {
            (
                _mm256_blendv_ps(y.0, x.0, _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0)),
                _mm256_blendv_ps(y.1, x.1, _mm256_cmp_ps::<_CMP_LT_OQ>(a.1, b.1)),
            )
        }
    }
    #[inline(always)]
    fn sum_each(self, v: [V; L]) -> V {
        let [a, b, c, d] = [sum_four(&v, 0), sum_four(&v, 4), sum_four(&v, 8), sum_four(&v, 12)];
        (sum_halves(a, b), sum_halves(c, d))
    }
}
