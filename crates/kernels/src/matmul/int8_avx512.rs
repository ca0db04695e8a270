//! The int8 dot products of quantised rows with AVX-512 VNNI: 64 weights an instruction.

use super::int8::Row;
use crate::quant::QuantFormat;
use std::arch::x86_64::*;

/// One row of weights with up to eight rows of activations.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ and VNNI; each row is as long as the blocks' weights, padded to 512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
pub(super) unsafe fn row_dots(out: &mut [f32], format: QuantFormat, blocks: &[u8], heads: &[u32], mut rows: &[Row]) {
    let mut done = 0;
    while !rows.is_empty() {
        // Groups of 8, 4, 2, 1: the weights of one row stay in the first-level cache.
        let group = if rows.len() >= 8 { 8 } else { 1 << rows.len().ilog2() };
        let out = &mut out[done..done + group];
        // SAFETY: as the caller promises.
        unsafe {
            match group {
                8 => by_format::<8>(out, format, blocks, heads, rows),
                4 => by_format::<4>(out, format, blocks, heads, rows),
                2 => by_format::<2>(out, format, blocks, heads, rows),
                _ => by_format::<1>(out, format, blocks, heads, rows),
            }
        }
        done += group;
        rows = &rows[group..];
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
unsafe fn by_format<const M: usize>(out: &mut [f32], format: QuantFormat, blocks: &[u8], heads: &[u32], rows: &[Row]) {
    // SAFETY: as the caller promises.
    unsafe {
        match format {
            QuantFormat::Q4_0 => by_32::<0, M>(out, format, blocks, heads, rows),
            QuantFormat::Q4_1 => by_32::<1, M>(out, format, blocks, heads, rows),
            QuantFormat::Q5_0 => by_32::<2, M>(out, format, blocks, heads, rows),
            QuantFormat::Q5_1 => by_32::<3, M>(out, format, blocks, heads, rows),
            QuantFormat::Q8_0 => by_32::<4, M>(out, format, blocks, heads, rows),
            QuantFormat::Q4K => by_256::<false, M>(out, blocks, rows),
            QuantFormat::Q5K => by_256::<true, M>(out, blocks, rows),
            QuantFormat::Q6K => q6_k::<M>(out, blocks, rows),
        }
    }
}

/// `acc += (u · q) dx scale` for 64 weights; `at` counts groups of 64.
///
/// # Safety
/// The row has that group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn add_64(acc: __m512, u: __m512i, scale: __m512, row: &Row, at: usize) -> __m512 {
    // SAFETY: as the caller promises.
    let (q, dx) = unsafe { (_mm512_loadu_si512(row.q.add(at * 64).cast()), _mm512_loadu_ps(row.scales.add(at * 16))) };
    let dots = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), u, q));
    _mm512_fmadd_ps(_mm512_mul_ps(dots, dx), scale, acc)
}

/// Formats of 32 weights. `FORMAT` is 0..5 in the order of [`QuantFormat`].
///
/// # Safety
/// As [`row_dots`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
unsafe fn by_32<const FORMAT: u8, const M: usize>(
    out: &mut [f32],
    format: QuantFormat,
    blocks: &[u8],
    heads: &[u32],
    rows: &[Row],
) {
    let bytes = format.block_bytes();
    let count = blocks.len() / bytes;
    let start = blocks.as_ptr();
    let mut acc = [_mm512_setzero_ps(); M];
    let halves = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    for first in (0..count).step_by(16) {
        let here = (count - first).min(16);
        let mask = if here == 16 { 0xffff } else { (1u16 << here) - 1 };
        // SAFETY: there is a head for each block.
        let heads = unsafe { _mm512_maskz_loadu_epi32(mask, heads.as_ptr().add(first).cast()) };
        let scales = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(heads));
        let offsets = match FORMAT {
            0 => _mm512_mul_ps(scales, _mm512_set1_ps(-8.0)),
            2 => _mm512_mul_ps(scales, _mm512_set1_ps(-16.0)),
            4 => _mm512_mul_ps(scales, _mm512_set1_ps(-128.0)),
            _ => _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(heads))),
        };
        for i in 0..M {
            // SAFETY: the sums are padded to a multiple of 16.
            acc[i] = _mm512_fmadd_ps(offsets, unsafe { _mm512_loadu_ps(rows[i].sums32.add(first)) }, acc[i]);
        }
        for pair in 0..here.div_ceil(2) {
            let at = first + 2 * pair;
            // An odd last block is paired with itself; the scale of the missing one is zero.
            let next = if at + 1 < count { bytes } else { 0 };
            // SAFETY: both blocks are inside; the rows are padded to 512.
            unsafe {
                let u = pair_levels::<FORMAT>(start.add(at * bytes), next);
                let index = _mm512_add_epi32(halves, _mm512_set1_epi32(2 * pair as i32));
                let scale = _mm512_permutexvar_ps(index, scales);
                for i in 0..M {
                    acc[i] = add_64(acc[i], u, scale, &rows[i], at / 2);
                }
            }
        }
    }
    for i in 0..M {
        out[i] = _mm512_reduce_add_ps(acc[i]);
    }
}

/// The levels of the block at `b` and of the one `next` bytes on.
///
/// # Safety
/// Both blocks are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn pair_levels<const FORMAT: u8>(b: *const u8, next: usize) -> __m512i {
    // SAFETY: the layouts of the formats (see `quant::decode`).
    unsafe {
        if FORMAT == 4 {
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
        if FORMAT < 2 {
            return u;
        }
        let fifth = |at: usize| b.add(at + high).cast::<u32>().read_unaligned() as u64;
        _mm512_mask_add_epi8(u, fifth(0) | fifth(next) << 32, u, _mm512_set1_epi8(16))
    }
}

/// Q4_K and Q5_K.
///
/// # Safety
/// As [`row_dots`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
unsafe fn by_256<const FIFTH: bool, const M: usize>(out: &mut [f32], blocks: &[u8], rows: &[Row]) {
    let (bytes, low) = if FIFTH { (176, 48) } else { (144, 16) };
    let mut acc = [_mm512_setzero_ps(); M];
    let halves = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    for (block, b) in blocks.chunks_exact(bytes).enumerate() {
        // SAFETY: all offsets are inside the block; the rows have 256 values for it.
        unsafe {
            let b = b.as_ptr();
            let word = |i: usize| b.add(4 + 4 * i).cast::<u32>().read_unaligned();
            let (w0, w1, w2) = (word(0), word(1), word(2));
            let high = |w: u32| (w >> 6 & 0x0303_0303) << 4;
            let scales = (w0 & 0x3f3f_3f3f) as u64 | ((w2 & 0x0f0f_0f0f | high(w0)) as u64) << 32;
            let mins = (w1 & 0x3f3f_3f3f) as u64 | ((w2 >> 4 & 0x0f0f_0f0f | high(w1)) as u64) << 32;
            let bytes_to_f32 = |v: u64| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(v as i64)));
            let head = _mm_cvtph_ps(_mm_cvtsi32_si128(b.cast::<i32>().read_unaligned()));
            let d = _mm256_broadcastss_ps(head);
            let dmin = _mm256_broadcastss_ps(_mm_movehdup_ps(head));
            let scales = _mm512_castps256_ps512(_mm256_mul_ps(d, bytes_to_f32(scales)));
            let offsets = _mm256_mul_ps(dmin, bytes_to_f32(mins));
            for i in 0..M {
                let sums = _mm256_loadu_ps(rows[i].sums32.add(block * 8));
                let wide = _mm512_zextps256_ps512(_mm256_mul_ps(offsets, sums));
                acc[i] = _mm512_sub_ps(acc[i], wide);
            }
            let fifths = if FIFTH {
                _mm512_broadcast_i64x4(_mm256_loadu_si256(b.add(16).cast()))
            } else {
                _mm512_setzero_si512()
            };
            for c in 0..4 {
                let twice = _mm512_broadcast_i64x4(_mm256_loadu_si256(b.add(low + c * 32).cast()));
                let shifted = _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4));
                let mut u = _mm512_and_si512(shifted, _mm512_set1_epi8(15));
                if FIFTH {
                    let bit = 1u8 << (2 * c);
                    let bits = _mm512_inserti64x4::<1>(
                        _mm512_castsi256_si512(_mm256_set1_epi8(bit as i8)),
                        _mm256_set1_epi8((bit << 1) as i8),
                    );
                    u = _mm512_mask_add_epi8(u, _mm512_test_epi8_mask(fifths, bits), u, _mm512_set1_epi8(16));
                }
                let index = _mm512_add_epi32(halves, _mm512_set1_epi32(2 * c as i32));
                let scale = _mm512_permutexvar_ps(index, scales);
                for i in 0..M {
                    acc[i] = add_64(acc[i], u, scale, &rows[i], block * 4 + c);
                }
            }
        }
    }
    for i in 0..M {
        out[i] = _mm512_reduce_add_ps(acc[i]);
    }
}

/// # Safety
/// As [`row_dots`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
unsafe fn q6_k<const M: usize>(out: &mut [f32], blocks: &[u8], rows: &[Row]) {
    let mut acc = [_mm512_setzero_ps(); M];
    let quarters = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    for (block, b) in blocks.chunks_exact(210).enumerate() {
        // SAFETY: all offsets are inside the block; the rows have 256 values for it.
        unsafe {
            let b = b.as_ptr();
            let d = _mm_cvtph_ps(_mm_cvtsi32_si128(b.add(208).cast::<u16>().read_unaligned() as i32));
            let scales = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(b.add(192).cast())));
            let scales = _mm512_mul_ps(scales, _mm512_broadcastss_ps(d));
            let offsets = _mm512_mul_ps(scales, _mm512_set1_ps(-32.0));
            for i in 0..M {
                acc[i] = _mm512_fmadd_ps(offsets, _mm512_loadu_ps(rows[i].sums16.add(block * 16)), acc[i]);
            }
            for c in 0..4 {
                let (half, part) = (c / 2, c % 2);
                let low = _mm512_loadu_si512(b.add(half * 64).cast());
                let low = if part == 0 { low } else { _mm512_srli_epi64::<4>(low) };
                let high = _mm512_broadcast_i64x4(_mm256_loadu_si256(b.add(128 + half * 32).cast()));
                let p = 4 * part as i64;
                let pairs = _mm512_srlv_epi64(high, _mm512_setr_epi64(p, p, p, p, p + 2, p + 2, p + 2, p + 2));
                let pairs = _mm512_slli_epi64::<4>(_mm512_and_si512(pairs, _mm512_set1_epi8(3)));
                let u = _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi8(15)), pairs);
                let index = _mm512_add_epi32(quarters, _mm512_set1_epi32(4 * c as i32));
                let scale = _mm512_permutexvar_ps(index, scales);
                for i in 0..M {
                    acc[i] = add_64(acc[i], u, scale, &rows[i], block * 4 + c);
                }
            }
        }
    }
    for i in 0..M {
        out[i] = _mm512_reduce_add_ps(acc[i]);
    }
}
