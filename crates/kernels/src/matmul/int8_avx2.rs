//! The int8 dot products of quantised rows with AVX2, for processors without VNNI: 32 weights an instruction. Knows the
//! layout of every block format, and nothing of threads.
//!
//! `maddubs` adds pairs of byte products in 16 bits, where 2·63·127 fits: levels of up to six bits multiply as they are. The
//! bytes of Q8_0 are signed and have no offset: the weight gives its size and the activation takes its sign (2·128·127 fits).

use super::int8::{GROUP, Row, TOGETHER};
use crate::QuantFormat;
use std::arch::x86_64::*;

/// The formats as constants, to compile one loop for each.
const Q4_0: u8 = 0;
const Q4_1: u8 = 1;
const Q5_0: u8 = 2;
const Q5_1: u8 = 3;
const Q8_0: u8 = 4;
const Q4_K: u8 = 5;
const Q5_K: u8 = 6;
const Q6_K: u8 = 7;

/// Sub-blocks of 32 weights whose scales are made together: one block of the formats of 256.
const STRETCH: usize = 8;

/// Some rows of weights (at most [`GROUP`]) of `per_row` blocks with all `rows` of activations: the sum of weight row `j`
/// and activation row `i` goes to `[j][i]`.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; each of `rows` is as long as a row of weights, padded to 512.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn rows_dots(
    out: &mut [[f32; TOGETHER]; GROUP],
    format: QuantFormat,
    blocks: &[u8],
    per_row: usize,
    rows: &[Row],
) {
    let mut done = 0;
    while done < rows.len() {
        // Groups of 8, 4, 2, 1: as many sums as there are registers for, the weights stay in the first-level cache.
        let left = rows.len() - done;
        let group = if left >= 8 { 8 } else { 1 << left.ilog2() };
        let rows = &rows[done..done + group];
        // SAFETY: as the caller promises.
        unsafe {
            match group {
                8 => by_format::<8, 1>(out, done, format, blocks, per_row, rows),
                4 => by_format::<4, 2>(out, done, format, blocks, per_row, rows),
                2 => by_format::<2, 4>(out, done, format, blocks, per_row, rows),
                _ => by_format::<1, 4>(out, done, format, blocks, per_row, rows),
            }
        }
        done += group;
    }
}

/// `M` rows of activations at `out[..][first..]`, `R` rows of weights at a time.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn by_format<const M: usize, const R: usize>(
    out: &mut [[f32; TOGETHER]],
    first: usize,
    format: QuantFormat,
    blocks: &[u8],
    per_row: usize,
    rows: &[Row],
) {
    // SAFETY: as the caller promises.
    unsafe {
        match format {
            QuantFormat::Q4_0 => all::<Q4_0, M, R>(out, first, format, blocks, per_row, rows),
            QuantFormat::Q4_1 => all::<Q4_1, M, R>(out, first, format, blocks, per_row, rows),
            QuantFormat::Q5_0 => all::<Q5_0, M, R>(out, first, format, blocks, per_row, rows),
            QuantFormat::Q5_1 => all::<Q5_1, M, R>(out, first, format, blocks, per_row, rows),
            QuantFormat::Q8_0 => all::<Q8_0, M, R>(out, first, format, blocks, per_row, rows),
            QuantFormat::Q4K => all::<Q4_K, M, R>(out, first, format, blocks, per_row, rows),
            QuantFormat::Q5K => all::<Q5_K, M, R>(out, first, format, blocks, per_row, rows),
            QuantFormat::Q6K => all::<Q6_K, M, R>(out, first, format, blocks, per_row, rows),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn all<const F: u8, const M: usize, const R: usize>(
    out: &mut [[f32; TOGETHER]],
    first: usize,
    format: QuantFormat,
    blocks: &[u8],
    per_row: usize,
    rows: &[Row],
) {
    let row_bytes = per_row * format.block_bytes();
    let count = blocks.len() / row_bytes;
    let mut j = 0;
    while j < count {
        let here = if count - j >= R { R } else { 1 };
        let (w, out) = (&blocks[j * row_bytes..][..here * row_bytes], &mut out[j..j + here]);
        // SAFETY: as the caller promises.
        unsafe {
            match here == R {
                true => some::<F, M, R>(out, first, format, w, per_row, rows),
                false => some::<F, M, 1>(out, first, format, w, per_row, rows),
            }
        }
        j += here;
    }
}

/// `R` rows of weights.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn some<const F: u8, const M: usize, const R: usize>(
    out: &mut [[f32; TOGETHER]],
    first: usize,
    format: QuantFormat,
    blocks: &[u8],
    per_row: usize,
    rows: &[Row],
) {
    let (bytes, subs) = (format.block_bytes(), per_row * format.block_len() / 32);
    let mut acc = [[_mm256_setzero_ps(); M]; R];
    for at in (0..subs).step_by(STRETCH) {
        let here = (subs - at).min(STRETCH);
        let start = |r: usize| blocks[(r * per_row + at * 32 / format.block_len()) * bytes..].as_ptr();
        let w: [*const u8; R] = std::array::from_fn(start);
        let mut scales = [[_mm256_setzero_ps(); 2]; R];
        // SAFETY: the stretch is inside its row of weights; the activations are padded to whole stretches.
        unsafe {
            for r in 0..R {
                let offsets;
                (scales[r], offsets) = scales_and_offsets::<F>(w[r], here);
                for i in 0..M {
                    acc[r][i] = match F {
                        Q8_0 => acc[r][i],
                        Q6_K => {
                            let sums = rows[i].sums16.add(at * 2);
                            let acc = _mm256_fmadd_ps(offsets[0], _mm256_loadu_ps(sums), acc[r][i]);
                            _mm256_fmadd_ps(offsets[1], _mm256_loadu_ps(sums.add(8)), acc)
                        }
                        _ => _mm256_fmadd_ps(offsets[0], _mm256_loadu_ps(rows[i].sums32.add(at)), acc[r][i]),
                    };
                }
            }
            for s in 0..here {
                for r in 0..R {
                    let u = levels::<F>(w[r], s);
                    let scale = scale_of::<F>(scales[r], s);
                    for i in 0..M {
                        let q = _mm256_loadu_si256(rows[i].q.add((at + s) * 32).cast());
                        let dx = _mm256_loadu_ps(rows[i].scales.add((at + s) * 8));
                        let dots = _mm256_cvtepi32_ps(dot::<F>(u, q));
                        acc[r][i] = _mm256_fmadd_ps(_mm256_mul_ps(scale, dx), dots, acc[r][i]);
                    }
                }
            }
        }
    }
    for r in 0..R {
        for i in 0..M {
            out[r][first + i] = sum(acc[r][i]);
        }
    }
}

/// Integer products of 32 weights: each lane has four of them, so the low half of the lanes is the first 16 weights.
#[inline]
#[target_feature(enable = "avx2")]
fn dot<const F: u8>(u: __m256i, q: __m256i) -> __m256i {
    let pairs = match F {
        Q8_0 => _mm256_maddubs_epi16(_mm256_abs_epi8(u), _mm256_sign_epi8(q, u)),
        _ => _mm256_maddubs_epi16(u, q),
    };
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// Levels of 32 weights: sub-block `s` of the stretch at `w`.
///
/// # Safety
/// The stretch has that sub-block.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn levels<const F: u8>(w: *const u8, s: usize) -> __m256i {
    let shift = |v, by: usize| _mm256_srl_epi16(v, _mm_cvtsi32_si128(by as i32));
    let low = _mm256_set1_epi8(15);
    // SAFETY: as the caller promises.
    unsafe {
        let load = |at: usize| _mm256_loadu_si256(w.add(at).cast());
        match F {
            Q4_0 => nibbles(w.add(s * 18 + 2)),
            Q4_1 => nibbles(w.add(s * 20 + 4)),
            Q5_0 => _mm256_or_si256(nibbles(w.add(s * 22 + 6)), fifths(w.add(s * 22 + 2))),
            Q5_1 => _mm256_or_si256(nibbles(w.add(s * 24 + 8)), fifths(w.add(s * 24 + 4))),
            Q8_0 => load(s * 34 + 2),
            Q4_K => _mm256_and_si256(shift(load(16 + s / 2 * 32), s % 2 * 4), low),
            Q5_K => {
                let fifth = _mm256_and_si256(shift(load(16), s), _mm256_set1_epi8(1));
                let nibble = _mm256_and_si256(shift(load(48 + s / 2 * 32), s % 2 * 4), low);
                _mm256_or_si256(nibble, _mm256_slli_epi16::<4>(fifth))
            }
            _ => {
                let (half, run) = (s / 4, s % 4);
                let high = _mm256_and_si256(shift(load(128 + half * 32), run * 2), _mm256_set1_epi8(3));
                let nibble = _mm256_and_si256(shift(load(half * 64 + run % 2 * 32), run / 2 * 4), low);
                _mm256_or_si256(nibble, _mm256_slli_epi16::<4>(high))
            }
        }
    }
}

/// 16 bytes: the low nibbles, then the high ones.
///
/// # Safety
/// `from` is valid for 16 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibbles(from: *const u8) -> __m256i {
    // SAFETY: as the caller promises.
    let bytes = unsafe { _mm_loadu_si128(from.cast()) };
    _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes), _mm256_set1_epi8(15))
}

/// 32 bits as 0 or 16, a byte each.
///
/// # Safety
/// `from` is valid for 4 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn fifths(from: *const u8) -> __m256i {
    // SAFETY: as the caller promises.
    let bits = _mm256_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() });
    // Byte `j` gets the byte that has its bit, and keeps that bit.
    let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let own = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, spread), own), own);
    _mm256_and_si256(set, _mm256_set1_epi8(16))
}

/// Scales and offsets of the `here` sub-blocks of a stretch, a lane each; of Q6_K for each 16 weights, in two vectors.
///
/// # Safety
/// The stretch has so many sub-blocks.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn scales_and_offsets<const F: u8>(w: *const u8, here: usize) -> ([__m256; 2], [__m256; 2]) {
    let zero = _mm256_setzero_ps();
    // SAFETY: as the caller promises.
    unsafe {
        match F {
            Q4_K | Q5_K => {
                let (scales, mins) = scales_q45_k(w);
                ([scales, zero], [mins, zero])
            }
            Q6_K => {
                let d = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_loadu_si16(w.add(208))));
                let bytes = _mm_loadu_si128(w.add(192).cast());
                let eight = |b| _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)));
                let scales = [eight(bytes), eight(_mm_srli_si128::<8>(bytes))];
                (scales, scales.map(|s| _mm256_mul_ps(s, _mm256_set1_ps(-32.0))))
            }
            _ => {
                let bytes = match F {
                    Q4_0 => 18,
                    Q4_1 => 20,
                    Q5_0 => 22,
                    Q5_1 => 24,
                    _ => 34,
                };
                let heads = heads(w, bytes, here);
                let scales = halves(_mm256_and_si256(heads, _mm256_set1_epi32(0xffff)));
                let offsets = match F {
                    Q4_0 => _mm256_mul_ps(scales, _mm256_set1_ps(-8.0)),
                    Q5_0 => _mm256_mul_ps(scales, _mm256_set1_ps(-16.0)),
                    Q8_0 => zero,
                    _ => halves(_mm256_srli_epi32::<16>(heads)),
                };
                ([scales, zero], [offsets, zero])
            }
        }
    }
}

/// The scale of sub-block `s` in the lanes of its products.
#[inline]
#[target_feature(enable = "avx2")]
fn scale_of<const F: u8>(scales: [__m256; 2], s: usize) -> __m256 {
    let s = s as i32;
    match F {
        Q6_K => {
            let (a, b) = (s % 4 * 2, s % 4 * 2 + 1);
            _mm256_permutevar8x32_ps(scales[s as usize / 4], _mm256_setr_epi32(a, a, a, a, b, b, b, b))
        }
        _ => _mm256_permutevar8x32_ps(scales[0], _mm256_set1_epi32(s)),
    }
}

/// The first four bytes of up to eight blocks, zero beyond. Read one by one into registers: collected in memory first, the
/// wide load would wait for the narrow stores.
///
/// # Safety
/// There are `here` blocks of so many `bytes`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn heads(w: *const u8, bytes: usize, here: usize) -> __m256i {
    let head = |b: usize| {
        // SAFETY: as the caller promises; a block has more than four bytes.
        if b < here { unsafe { w.add(b * bytes).cast::<i32>().read_unaligned() } } else { 0 }
    };
    match here == STRETCH {
        true => {
            // SAFETY: as the caller promises.
            let head = |b: usize| unsafe { w.add(b * bytes).cast::<i32>().read_unaligned() };
            _mm256_setr_epi32(head(0), head(1), head(2), head(3), head(4), head(5), head(6), head(7))
        }
        false => _mm256_setr_epi32(head(0), head(1), head(2), head(3), head(4), head(5), head(6), 0),
    }
}

/// Eight f16 in the low halves of 32-bit lanes whose high halves are zero.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn halves(v: __m256i) -> __m256 {
    _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v)))
}

/// The eight scales and (negative) offsets of a block of Q4_K or Q5_K, six bits each in twelve bytes.
///
/// # Safety
/// `w` is valid for 16 bytes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn scales_q45_k(w: *const u8) -> (__m256, __m256) {
    // SAFETY: as the caller promises.
    let [head, a, b, c] = unsafe { w.cast::<[u32; 4]>().read_unaligned() };
    let eight = |first: u32, last: u32| {
        let bytes = _mm_cvtsi64_si128((first as u64 | (last as u64) << 32) as i64);
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
    };
    let scales = eight(a & 0x3f3f_3f3f, c & 0x0f0f_0f0f | a >> 2 & 0x3030_3030);
    let mins = eight(b & 0x3f3f_3f3f, c >> 4 & 0x0f0f_0f0f | b >> 2 & 0x3030_3030);
    let both = _mm_cvtph_ps(_mm_cvtsi32_si128(head as i32));
    let d = _mm256_broadcastss_ps(both);
    let d_min = _mm256_broadcastss_ps(_mm_movehdup_ps(both));
    (_mm256_mul_ps(d, scales), _mm256_mul_ps(_mm256_sub_ps(_mm256_setzero_ps(), d_min), mins))
}
