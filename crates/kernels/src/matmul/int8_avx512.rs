//! The int8 dot products of quantised rows with AVX-512 VNNI: 64 weights an instruction.

use super::int8::{HEADS_OF, Row, TOGETHER};
use crate::quant::QuantFormat;
use crate::quant::avx512::{self, levels_of_pair, levels_q6_k, levels_q45_k, scales_q6_k, scales_q45_k};
use std::arch::x86_64::*;

/// Some rows of weights (at most [`HEADS_OF`]) and the block heads of those in formats of 32.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub format: QuantFormat,
    pub blocks: &'a [u8],
    pub heads: &'a [u32],
    /// Blocks in a row.
    pub per_row: usize,
}

/// The sums of weight row `j` and activation row `i` are at `[j][i]`.
pub(super) type Dots = [[f32; TOGETHER]; HEADS_OF];

/// All rows of weights with all rows of activations.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ, VNNI and F16C; each of `rows` is as long as a row of weights, padded to 512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
pub(super) unsafe fn rows_dots(out: &mut Dots, w: Weights, rows: &[Row]) {
    let mut done = 0;
    while done < rows.len() {
        // Groups of 8, 4, 2, 1: the weights stay in the first-level cache.
        let left = rows.len() - done;
        let group = if left >= 8 { 8 } else { 1 << left.ilog2() };
        let rows = &rows[done..done + group];
        // SAFETY: as the caller promises.
        unsafe {
            match group {
                8 => by_format::<8, 2>(out, done, w, rows),
                4 => by_format::<4, 2>(out, done, w, rows),
                2 => by_format::<2, 4>(out, done, w, rows),
                _ => by_format::<1, 4>(out, done, w, rows),
            }
        }
        done += group;
    }
}

/// `M` rows of activations at `out[..][first..]`; `R` rows of weights at a time, to hide the latency of the sums.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
unsafe fn by_format<const M: usize, const R: usize>(out: &mut Dots, first: usize, w: Weights, rows: &[Row]) {
    // SAFETY: as the caller promises.
    unsafe {
        match w.format {
            QuantFormat::Q4_0 => by_32::<{ avx512::Q4_0 }, M, R>(out, first, w, rows),
            QuantFormat::Q4_1 => by_32::<{ avx512::Q4_1 }, M, R>(out, first, w, rows),
            QuantFormat::Q5_0 => by_32::<{ avx512::Q5_0 }, M, R>(out, first, w, rows),
            QuantFormat::Q5_1 => by_32::<{ avx512::Q5_1 }, M, R>(out, first, w, rows),
            QuantFormat::Q8_0 => by_32::<{ avx512::Q8_0 }, M, R>(out, first, w, rows),
            QuantFormat::Q4K => by_256::<false, M>(out, first, w, rows),
            QuantFormat::Q5K => by_256::<true, M>(out, first, w, rows),
            QuantFormat::Q6K => q6_k::<M>(out, first, w, rows),
        }
    }
}

/// `acc += (u · q) dx scale` for 64 weights.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add_64(acc: __m512, u: __m512i, scale: __m512, q: __m512i, dx: __m512) -> __m512 {
    let dots = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), u, q));
    _mm512_fmadd_ps(_mm512_mul_ps(dots, dx), scale, acc)
}

/// Values and scales of group `at` of 64.
///
/// # Safety
/// The row has that group.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_64(row: &Row, at: usize) -> (__m512i, __m512) {
    // SAFETY: as the caller promises.
    unsafe { (_mm512_loadu_si512(row.q.add(at * 64).cast()), _mm512_loadu_ps(row.scales.add(at * 16))) }
}

/// Formats of 32 weights.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
unsafe fn by_32<const FORMAT: u8, const M: usize, const R: usize>(
    out: &mut Dots,
    first: usize,
    w: Weights,
    rows: &[Row],
) {
    let row_bytes = w.per_row * w.format.block_bytes();
    let count = w.blocks.len() / row_bytes;
    let mut j = 0;
    // SAFETY: as the caller promises; rows `j..j + R` exist.
    unsafe {
        while j + R <= count {
            some_by_32::<FORMAT, M, R>(&mut out[j..j + R], first, w, j, rows);
            j += R;
        }
        while j < count {
            some_by_32::<FORMAT, M, 1>(&mut out[j..j + 1], first, w, j, rows);
            j += 1;
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
unsafe fn some_by_32<const FORMAT: u8, const M: usize, const R: usize>(
    out: &mut [[f32; TOGETHER]],
    first: usize,
    w: Weights,
    j: usize,
    rows: &[Row],
) {
    let bytes = w.format.block_bytes();
    let count = w.per_row;
    let start = w.blocks[j * count * bytes..].as_ptr();
    let heads = w.heads[j * count..].as_ptr();
    let mut acc = [[_mm512_setzero_ps(); M]; R];
    let halves = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    for b0 in (0..count).step_by(16) {
        let here = (count - b0).min(16);
        let mask = if here == 16 { 0xffff } else { (1u16 << here) - 1 };
        let mut scales = [_mm512_setzero_ps(); R];
        for r in 0..R {
            // SAFETY: there is a head for each block; the sums of x are padded to a multiple of 16.
            unsafe {
                let heads = _mm512_maskz_loadu_epi32(mask, heads.add(r * count + b0).cast());
                scales[r] = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(heads));
                let offsets = match FORMAT {
                    avx512::Q4_0 => _mm512_mul_ps(scales[r], _mm512_set1_ps(-8.0)),
                    avx512::Q5_0 => _mm512_mul_ps(scales[r], _mm512_set1_ps(-16.0)),
                    avx512::Q8_0 => _mm512_mul_ps(scales[r], _mm512_set1_ps(-128.0)),
                    _ => _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(heads))),
                };
                for i in 0..M {
                    acc[r][i] = _mm512_fmadd_ps(offsets, _mm512_loadu_ps(rows[i].sums32.add(b0)), acc[r][i]);
                }
            }
        }
        let mut index = halves;
        for pair in 0..here.div_ceil(2) {
            let at = b0 + 2 * pair;
            // An odd last block is paired with itself; the scale of the missing one is zero.
            let next = if at + 1 < count { bytes } else { 0 };
            let (mut u, mut scale) = ([_mm512_setzero_si512(); R], [_mm512_setzero_ps(); R]);
            // SAFETY: both blocks are inside; the rows are padded to 512.
            unsafe {
                for r in 0..R {
                    u[r] = levels_of_pair::<FORMAT>(start.add((r * count + at) * bytes), next);
                    scale[r] = _mm512_permutexvar_ps(index, scales[r]);
                }
                for i in 0..M {
                    let (q, dx) = load_64(&rows[i], at / 2);
                    for r in 0..R {
                        acc[r][i] = add_64(acc[r][i], u[r], scale[r], q, dx);
                    }
                }
            }
            index = _mm512_add_epi32(index, _mm512_set1_epi32(2));
        }
    }
    for r in 0..R {
        for i in 0..M {
            out[r][first + i] = _mm512_reduce_add_ps(acc[r][i]);
        }
    }
}

/// Q4_K and Q5_K.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
unsafe fn by_256<const FIFTH: bool, const M: usize>(out: &mut Dots, first: usize, w: Weights, rows: &[Row]) {
    let bytes = if FIFTH { 176 } else { 144 };
    let halves = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    for (out, blocks) in out.iter_mut().zip(w.blocks.chunks_exact(w.per_row * bytes)) {
        let mut acc = [_mm512_setzero_ps(); M];
        for (block, b) in blocks.chunks_exact(bytes).enumerate() {
            // SAFETY: `b` is a block; the rows have 256 values for it.
            unsafe {
                let (scales, mins) = scales_q45_k(b.as_ptr());
                let scales = _mm512_castps256_ps512(scales);
                for i in 0..M {
                    let mins = _mm256_mul_ps(mins, _mm256_loadu_ps(rows[i].sums32.add(block * 8)));
                    acc[i] = _mm512_sub_ps(acc[i], _mm512_zextps256_ps512(mins));
                }
                for c in 0..4 {
                    let u = levels_q45_k::<FIFTH>(b.as_ptr(), c);
                    let index = _mm512_add_epi32(halves, _mm512_set1_epi32(2 * c as i32));
                    let scale = _mm512_permutexvar_ps(index, scales);
                    for i in 0..M {
                        let (q, dx) = load_64(&rows[i], block * 4 + c);
                        acc[i] = add_64(acc[i], u, scale, q, dx);
                    }
                }
            }
        }
        for i in 0..M {
            out[first + i] = _mm512_reduce_add_ps(acc[i]);
        }
    }
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
unsafe fn q6_k<const M: usize>(out: &mut Dots, first: usize, w: Weights, rows: &[Row]) {
    let quarters = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    for (out, blocks) in out.iter_mut().zip(w.blocks.chunks_exact(w.per_row * 210)) {
        let mut acc = [_mm512_setzero_ps(); M];
        for (block, b) in blocks.chunks_exact(210).enumerate() {
            // SAFETY: `b` is a block; the rows have 256 values for it.
            unsafe {
                let scales = scales_q6_k(b.as_ptr());
                let offsets = _mm512_mul_ps(scales, _mm512_set1_ps(-32.0));
                for i in 0..M {
                    acc[i] = _mm512_fmadd_ps(offsets, _mm512_loadu_ps(rows[i].sums16.add(block * 16)), acc[i]);
                }
                for c in 0..4 {
                    let u = levels_q6_k(b.as_ptr(), c);
                    let index = _mm512_add_epi32(quarters, _mm512_set1_epi32(4 * c as i32));
                    let scale = _mm512_permutexvar_ps(index, scales);
                    for i in 0..M {
                        let (q, dx) = load_64(&rows[i], block * 4 + c);
                        acc[i] = add_64(acc[i], u, scale, q, dx);
                    }
                }
            }
        }
        for i in 0..M {
            out[first + i] = _mm512_reduce_add_ps(acc[i]);
        }
    }
}
