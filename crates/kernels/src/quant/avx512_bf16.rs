//! Dequantisation to bf16 in one step with AVX-512 BF16: the same bits as through f32. A block of 4 or 5 bits has 16 or 32 values;
//! they are computed once as a table, and each weight is looked up by its level.

use super::QuantFormat;
use super::avx512::scales_q45_k;
use super::avx512::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, levels_of_pair, levels_q6_k, levels_q45_k, quarters, scales_q6_k};
use crate::bf16;
use std::arch::x86_64::*;

/// `out.len()` weights from whole blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c")]
pub(crate) fn dequantize(out: &mut [bf16], format: QuantFormat, blocks: &[u8]) {
    assert_eq!(blocks.len(), format.row_bytes(out.len()));
    // SAFETY: the sizes agree.
    unsafe {
        match format {
            QuantFormat::Q4_0 => of_32::<Q4_0>(out, 18, blocks),
            QuantFormat::Q4_1 => of_32::<Q4_1>(out, 20, blocks),
            QuantFormat::Q5_0 => of_32::<Q5_0>(out, 22, blocks),
            QuantFormat::Q5_1 => of_32::<Q5_1>(out, 24, blocks),
            QuantFormat::Q8_0 => of_32::<Q8_0>(out, 34, blocks),
            QuantFormat::Q4K => of_256::<false>(out, blocks),
            QuantFormat::Q5K => of_256::<true>(out, blocks),
            QuantFormat::Q6K => of_q6_k(out, blocks),
        }
    }
}

/// 32 bf16 of two vectors of f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn round(low: __m512, high: __m512) -> __m512i {
    // SAFETY: the types differ in name only.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// 0, 1, … 15.
#[inline]
#[target_feature(enable = "avx512f")]
fn counting() -> __m512 {
    _mm512_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0)
}

/// The table's entries for 32 levels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn look_up(levels: __m256i, table: __m512i) -> __m512i {
    _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(levels), table)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c")]
unsafe fn of_32<const FORMAT: u8>(out: &mut [bf16], bytes: usize, blocks: &[u8]) {
    let count = blocks.len() / bytes;
    let zero = [8.0, 0.0, 16.0, 0.0, 0.0][FORMAT as usize];
    let low = _mm512_sub_ps(counting(), _mm512_set1_ps(zero));
    let high = _mm512_add_ps(low, _mm512_set1_ps(16.0));
    for at in (0..count).step_by(2) {
        // SAFETY: an odd last block is paired with itself, and only its own half is written.
        unsafe {
            let b = blocks.as_ptr().add(at * bytes);
            let next = if at + 1 < count { bytes } else { 0 };
            let u = levels_of_pair::<FORMAT>(b, next);
            let halves = [_mm512_castsi512_si256(u), _mm512_extracti64x4_epi64::<1>(u)];
            for (i, u) in halves.into_iter().enumerate().take(if next > 0 { 2 } else { 1 }) {
                let head = b.add(i * next).cast::<i32>().read_unaligned();
                let head = _mm_cvtph_ps(_mm_cvtsi32_si128(head));
                let (d, min) = (_mm512_broadcastss_ps(head), _mm512_broadcastss_ps(_mm_movehdup_ps(head)));
                // A product is rounded before the minimum is added, as everywhere.
                let value = |level: __m512| match FORMAT {
                    Q4_1 | Q5_1 => _mm512_add_ps(_mm512_mul_ps(level, d), min),
                    _ => _mm512_mul_ps(level, d),
                };
                let v = match FORMAT {
                    Q8_0 => {
                        let q = _mm256_xor_si256(u, _mm256_set1_epi8(-128));
                        let wide = |q: __m128i| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q));
                        let (q0, q1) = (_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q));
                        round(value(wide(q0)), value(wide(q1)))
                    }
                    Q4_0 | Q4_1 => {
                        let table = value(low);
                        look_up(u, round(table, table))
                    }
                    _ => look_up(u, round(value(low), value(high))),
                };
                _mm512_storeu_si512(out.as_mut_ptr().add((at + i) * 32).cast(), v);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c")]
unsafe fn of_256<const FIFTH: bool>(out: &mut [bf16], blocks: &[u8]) {
    let low = counting();
    let high = _mm512_add_ps(low, _mm512_set1_ps(16.0));
    for (out, b) in out.chunks_exact_mut(256).zip(blocks.chunks_exact(if FIFTH { 176 } else { 144 })) {
        // SAFETY: `b` is a block, `out` has its 256 weights.
        unsafe {
            let (scales, mins) = scales_q45_k(b.as_ptr());
            let (scales, mins) = (_mm512_castps256_ps512(scales), _mm512_castps256_ps512(mins));
            for c in 0..4 {
                let u = levels_q45_k::<FIFTH>(b.as_ptr(), c);
                for (i, u) in [_mm512_castsi512_si256(u), _mm512_extracti64x4_epi64::<1>(u)].into_iter().enumerate() {
                    let sub = _mm512_set1_epi32((2 * c + i) as i32);
                    let (scale, min) = (_mm512_permutexvar_ps(sub, scales), _mm512_permutexvar_ps(sub, mins));
                    let value = |level: __m512| _mm512_sub_ps(_mm512_mul_ps(scale, level), min);
                    let table = if FIFTH { round(value(low), value(high)) } else { round(value(low), value(low)) };
                    _mm512_storeu_si512(out.as_mut_ptr().add(c * 64 + i * 32).cast(), look_up(u, table));
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c")]
unsafe fn of_q6_k(out: &mut [bf16], blocks: &[u8]) {
    for (out, b) in out.chunks_exact_mut(256).zip(blocks.chunks_exact(210)) {
        // SAFETY: `b` is a block, `out` has its 256 weights.
        unsafe {
            let scales = scales_q6_k(b.as_ptr());
            for c in 0..4 {
                let q = quarters(levels_q6_k(b.as_ptr(), c), 32);
                let value = |i: usize| {
                    let scale = _mm512_permutexvar_ps(_mm512_set1_epi32((4 * c + i) as i32), scales);
                    _mm512_mul_ps(scale, q[i])
                };
                for i in [0, 2] {
                    let to = out.as_mut_ptr().add(c * 64 + i * 16);
                    _mm512_storeu_si512(to.cast(), round(value(i), value(i + 1)));
                }
            }
        }
    }
}
