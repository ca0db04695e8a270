//! Levels of 64 weights at a time with AVX-512, for dot products and for dequantisation. Layouts: see `decode`.

use super::QuantFormat;
use std::arch::x86_64::*;

/// Formats of 32 weights as a constant: 0..5 in the order of [`QuantFormat`].
pub(crate) const Q4_0: u8 = 0;
pub(crate) const Q4_1: u8 = 1;
pub(crate) const Q5_0: u8 = 2;
pub(crate) const Q5_1: u8 = 3;
pub(crate) const Q8_0: u8 = 4;

/// The levels of the block at `b` and of the one `next` bytes on. Those of Q8_0 are moved up by 128.
///
/// # Safety
/// The processor has the features; both blocks are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) unsafe fn levels_of_pair<const FORMAT: u8>(b: *const u8, next: usize) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe {
        if FORMAT == Q8_0 {
            let both = _mm512_inserti64x4::<1>(
                _mm512_castsi256_si512(_mm256_loadu_si256(b.add(2).cast())),
                _mm256_loadu_si256(b.add(next + 2).cast()),
            );
            return _mm512_xor_si512(both, _mm512_set1_epi8(-128));
        }
        let (high, low) = [(0, 2), (0, 4), (2, 6), (4, 8)][FORMAT as usize];
        let both = _mm256_inserti128_si256::<1>(
            _mm256_castsi128_si256(_mm_loadu_si128(b.add(low).cast())),
            _mm_loadu_si128(b.add(next + low).cast()),
        );
        let twice = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), _mm512_castsi256_si512(both));
        let shifted = _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
        let u = _mm512_and_si512(shifted, _mm512_set1_epi8(15));
        if FORMAT == Q4_0 || FORMAT == Q4_1 {
            return u;
        }
        let fifth = |at: usize| b.add(at + high).cast::<u32>().read_unaligned() as u64;
        _mm512_mask_add_epi8(u, fifth(0) | fifth(next) << 32, u, _mm512_set1_epi8(16))
    }
}

/// Sub-blocks `2c` and `2c + 1` of a Q4_K (or, with `FIFTH`, Q5_K) block.
///
/// # Safety
/// As above; `b` is a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) unsafe fn levels_q45_k<const FIFTH: bool>(b: *const u8, c: usize) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe {
        let low = b.add(if FIFTH { 48 } else { 16 } + c * 32);
        let twice = _mm512_broadcast_i64x4(_mm256_loadu_si256(low.cast()));
        let shifted = _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4));
        let u = _mm512_and_si512(shifted, _mm512_set1_epi8(15));
        if !FIFTH {
            return u;
        }
        let fifths = _mm512_broadcast_i64x4(_mm256_loadu_si256(b.add(16).cast()));
        let bit = 1u8 << (2 * c);
        let bits = _mm512_inserti64x4::<1>(
            _mm512_castsi256_si512(_mm256_set1_epi8(bit as i8)),
            _mm256_set1_epi8((bit << 1) as i8),
        );
        _mm512_mask_add_epi8(u, _mm512_test_epi8_mask(fifths, bits), u, _mm512_set1_epi8(16))
    }
}

/// Scales and minimums of the eight sub-blocks of a Q4_K or Q5_K block, multiplied out.
///
/// # Safety
/// As above.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
pub(crate) unsafe fn scales_q45_k(b: *const u8) -> (__m256, __m256) {
    // SAFETY: as the caller promises.
    let (word, head) =
        unsafe { (|i: usize| b.add(4 + 4 * i).cast::<u32>().read_unaligned(), b.cast::<i32>().read_unaligned()) };
    let (w0, w1, w2) = (word(0), word(1), word(2));
    let high = |w: u32| (w >> 6 & 0x0303_0303) << 4;
    let scales = (w0 & 0x3f3f_3f3f) as u64 | ((w2 & 0x0f0f_0f0f | high(w0)) as u64) << 32;
    let mins = (w1 & 0x3f3f_3f3f) as u64 | ((w2 >> 4 & 0x0f0f_0f0f | high(w1)) as u64) << 32;
    let bytes_to_f32 = |v: u64| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(v as i64)));
    let head = _mm_cvtph_ps(_mm_cvtsi32_si128(head));
    let (d, dmin) = (_mm256_broadcastss_ps(head), _mm256_broadcastss_ps(_mm_movehdup_ps(head)));
    (_mm256_mul_ps(d, bytes_to_f32(scales)), _mm256_mul_ps(dmin, bytes_to_f32(mins)))
}

/// Weights `64c..64c + 64` of a Q6_K block.
///
/// # Safety
/// As above.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) unsafe fn levels_q6_k(b: *const u8, c: usize) -> __m512i {
    let (half, part) = (c / 2, c % 2);
    // SAFETY: as the caller promises.
    unsafe {
        let low = _mm512_loadu_si512(b.add(half * 64).cast());
        let low = if part == 0 { low } else { _mm512_srli_epi64::<4>(low) };
        let high = _mm512_broadcast_i64x4(_mm256_loadu_si256(b.add(128 + half * 32).cast()));
        let p = 4 * part as i64;
        let pairs = _mm512_srlv_epi64(high, _mm512_setr_epi64(p, p, p, p, p + 2, p + 2, p + 2, p + 2));
        let pairs = _mm512_slli_epi64::<4>(_mm512_and_si512(pairs, _mm512_set1_epi8(3)));
        _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi8(15)), pairs)
    }
}

/// The sixteen scales of a Q6_K block, multiplied out.
///
/// # Safety
/// As above.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
pub(crate) unsafe fn scales_q6_k(b: *const u8) -> __m512 {
    // SAFETY: as the caller promises.
    unsafe {
        let d = _mm_cvtph_ps(_mm_cvtsi32_si128(b.add(208).cast::<u16>().read_unaligned() as i32));
        let scales = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(b.add(192).cast())));
        _mm512_mul_ps(scales, _mm512_broadcastss_ps(d))
    }
}

/// Exact dequantisation, the same bits as `decode`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
pub(crate) fn dequantize(out: &mut [f32], format: QuantFormat, blocks: &[u8]) {
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

/// Quarter `i` of 64 levels, less `zero`, as f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) fn quarters(u: __m512i, zero: i32) -> [__m512; 4] {
    let zero = _mm512_set1_epi32(zero);
    let one = |v: __m128i| _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(v), zero));
    [
        one(_mm512_castsi512_si128(u)),
        one(_mm512_extracti32x4_epi32::<1>(u)),
        one(_mm512_extracti32x4_epi32::<2>(u)),
        one(_mm512_extracti32x4_epi32::<3>(u)),
    ]
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
unsafe fn of_32<const FORMAT: u8>(out: &mut [f32], bytes: usize, blocks: &[u8]) {
    let count = blocks.len() / bytes;
    let zero = [8, 0, 16, 0, 128][FORMAT as usize];
    for at in (0..count).step_by(2) {
        let both = at + 1 < count;
        // SAFETY: an odd last block is paired with itself, and only its own half is written.
        unsafe {
            let b = blocks.as_ptr().add(at * bytes);
            let next = if both { bytes } else { 0 };
            let q = quarters(levels_of_pair::<FORMAT>(b, next), zero);
            let head = |at: usize| _mm_cvtph_ps(_mm_cvtsi32_si128(b.add(at).cast::<i32>().read_unaligned()));
            let heads = [head(0), head(next)];
            for i in 0..if both { 4 } else { 2 } {
                let mut v = _mm512_mul_ps(q[i], _mm512_broadcastss_ps(heads[i / 2]));
                if FORMAT == Q4_1 || FORMAT == Q5_1 {
                    v = _mm512_add_ps(v, _mm512_broadcastss_ps(_mm_movehdup_ps(heads[i / 2])));
                }
                _mm512_storeu_ps(out.as_mut_ptr().add(at * 32 + i * 16), v);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
unsafe fn of_256<const FIFTH: bool>(out: &mut [f32], blocks: &[u8]) {
    for (out, b) in out.chunks_exact_mut(256).zip(blocks.chunks_exact(if FIFTH { 176 } else { 144 })) {
        // SAFETY: `b` is a block, `out` has its 256 weights.
        unsafe {
            let (scales, mins) = scales_q45_k(b.as_ptr());
            let (scales, mins) = (_mm512_castps256_ps512(scales), _mm512_castps256_ps512(mins));
            for c in 0..4 {
                let q = quarters(levels_q45_k::<FIFTH>(b.as_ptr(), c), 0);
                for (i, q) in q.iter().enumerate() {
                    let sub = _mm512_set1_epi32((2 * c + i / 2) as i32);
                    let v = _mm512_mul_ps(_mm512_permutexvar_ps(sub, scales), *q);
                    let v = _mm512_sub_ps(v, _mm512_permutexvar_ps(sub, mins));
                    _mm512_storeu_ps(out.as_mut_ptr().add(c * 64 + i * 16), v);
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
unsafe fn of_q6_k(out: &mut [f32], blocks: &[u8]) {
    for (out, b) in out.chunks_exact_mut(256).zip(blocks.chunks_exact(210)) {
        // SAFETY: `b` is a block, `out` has its 256 weights.
        unsafe {
            let scales = scales_q6_k(b.as_ptr());
            for c in 0..4 {
                let q = quarters(levels_q6_k(b.as_ptr(), c), 32);
                for (i, q) in q.iter().enumerate() {
                    let scale = _mm512_permutexvar_ps(_mm512_set1_epi32((4 * c + i) as i32), scales);
                    _mm512_storeu_ps(out.as_mut_ptr().add(c * 64 + i * 16), _mm512_mul_ps(scale, *q));
                }
            }
        }
    }
}
