//! The int8 dot products of quantised rows with NEON: levels of at most six bits, and the signed bytes of Q8_0, are both
//! int8, so one signed product serves every format. Knows the layout of every block format, and nothing of threads.

use super::int8::{GROUP, Row, TOGETHER};
use crate::QuantFormat;
use crate::quant::scale_and_min;
use std::arch::aarch64::*;
use std::arch::asm;

/// The formats as constants, to compile one loop for each.
const Q4_0: u8 = 0;
const Q4_1: u8 = 1;
const Q5_0: u8 = 2;
const Q5_1: u8 = 3;
const Q8_0: u8 = 4;
const Q4_K: u8 = 5;
const Q5_K: u8 = 6;
const Q6_K: u8 = 7;

/// How sixteen products of bytes are added to four sums.
trait Dot: Copy {
    fn dot(self, sums: int32x4_t, u: int8x16_t, q: int8x16_t) -> int32x4_t;
}

/// With what every processor has: pairs of products in 16 bits, where 2·128·127 fits.
#[derive(Clone, Copy)]
struct Pairs;

impl Dot for Pairs {
    #[inline(always)]
    fn dot(self, sums: int32x4_t, u: int8x16_t, q: int8x16_t) -> int32x4_t {
        // SAFETY: NEON is part of the target.
        unsafe {
            let low = vmull_s8(vget_low_s8(u), vget_low_s8(q));
            vpadalq_s16(sums, vmlal_s8(low, vget_high_s8(u), vget_high_s8(q)))
        }
    }
}

/// With `sdot`. Exists only inside functions that enable it.
#[derive(Clone, Copy)]
struct Fours(());

impl Fours {
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    fn enabled() -> Fours {
        Fours(())
    }
}

impl Dot for Fours {
    #[inline(always)]
    fn dot(self, sums: int32x4_t, u: int8x16_t, q: int8x16_t) -> int32x4_t {
        // SAFETY: `self` proves the instruction.
        unsafe { sdot(sums, u, q) }
    }
}

/// Four products of bytes to each lane. The intrinsic is not stable in Rust 1.89.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn sdot(mut sums: int32x4_t, u: int8x16_t, q: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction is enabled and touches nothing but its registers.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {u:v}.16b, {q:v}.16b",
            sums = inout(vreg) sums, u = in(vreg) u, q = in(vreg) q,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Some rows of weights (at most [`GROUP`]) of `per_row` blocks with all `rows` of activations: the sum of weight row `j`
/// and activation row `i` goes to `[j][i]`.
///
/// # Safety
/// Each of `rows` is as long as a row of weights.
pub(super) unsafe fn rows_dots(
    out: &mut [[f32; TOGETHER]; GROUP],
    format: QuantFormat,
    blocks: &[u8],
    per_row: usize,
    rows: &[Row],
) {
    // SAFETY: as the caller promises.
    unsafe { by_format(Pairs, out, format, blocks, per_row, rows) }
}

/// [`rows_dots`] with `sdot`.
///
/// # Safety
/// The processor has `dotprod`; each of `rows` is as long as a row of weights.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn rows_dots_dotprod(
    out: &mut [[f32; TOGETHER]; GROUP],
    format: QuantFormat,
    blocks: &[u8],
    per_row: usize,
    rows: &[Row],
) {
    // SAFETY: as the caller promises.
    unsafe { by_format(Fours::enabled(), out, format, blocks, per_row, rows) }
}

#[inline(always)]
unsafe fn by_format<D: Dot>(
    d: D,
    out: &mut [[f32; TOGETHER]; GROUP],
    format: QuantFormat,
    blocks: &[u8],
    per_row: usize,
    rows: &[Row],
) {
    for (out, w) in out.iter_mut().zip(blocks.chunks_exact(per_row * format.block_bytes())) {
        // SAFETY: as the caller promises.
        unsafe {
            match format {
                QuantFormat::Q4_0 => row::<Q4_0, D>(d, out, format, w, rows),
                QuantFormat::Q4_1 => row::<Q4_1, D>(d, out, format, w, rows),
                QuantFormat::Q5_0 => row::<Q5_0, D>(d, out, format, w, rows),
                QuantFormat::Q5_1 => row::<Q5_1, D>(d, out, format, w, rows),
                QuantFormat::Q8_0 => row::<Q8_0, D>(d, out, format, w, rows),
                QuantFormat::Q4K => row::<Q4_K, D>(d, out, format, w, rows),
                QuantFormat::Q5K => row::<Q5_K, D>(d, out, format, w, rows),
                QuantFormat::Q6K => row::<Q6_K, D>(d, out, format, w, rows),
            }
        }
    }
}

/// One row of weights, with groups of 8, 4, 2 or 1 rows of activations.
#[inline(always)]
unsafe fn row<const F: u8, D: Dot>(d: D, out: &mut [f32; TOGETHER], format: QuantFormat, w: &[u8], rows: &[Row]) {
    let mut done = 0;
    while done < rows.len() {
        let (left, out, rows) = (rows.len() - done, &mut out[done..], &rows[done..]);
        // SAFETY: as the caller promises.
        done += unsafe {
            match left {
                8.. => some::<F, 8, D>(d, out, format, w, rows),
                4.. => some::<F, 4, D>(d, out, format, w, rows),
                2.. => some::<F, 2, D>(d, out, format, w, rows),
                _ => some::<F, 1, D>(d, out, format, w, rows),
            }
        };
    }
}

/// `M` rows of activations; returns `M`.
#[inline(always)]
unsafe fn some<const F: u8, const M: usize, D: Dot>(
    d: D,
    out: &mut [f32],
    format: QuantFormat,
    w: &[u8],
    rows: &[Row],
) -> usize {
    let subs = format.block_len() / 32;
    // SAFETY: as the caller promises; NEON is part of the target.
    unsafe {
        let zero = vdupq_n_s32(0);
        let (mut acc, mut offsets) = ([vdupq_n_f32(0.0); M], [0f32; M]);
        for (b, block) in w.chunks_exact(format.block_bytes()).enumerate() {
            for sub in 0..subs {
                let at = b * subs + sub;
                let [low, high] = levels::<F>(block.as_ptr(), sub);
                let (scale, offset) = scale_and_offset::<F>(block, sub);
                for i in 0..M {
                    let q = rows[i].q.add(at * 32);
                    let dx = *rows[i].scales.add(at * 8);
                    let first = d.dot(zero, low, vld1q_s8(q));
                    if F == Q6_K {
                        let second = d.dot(zero, high, vld1q_s8(q.add(16)));
                        acc[i] = vfmaq_n_f32(acc[i], vcvtq_f32_s32(first), scale[0] * dx);
                        acc[i] = vfmaq_n_f32(acc[i], vcvtq_f32_s32(second), scale[1] * dx);
                        let sums = rows[i].sums16.add(at * 2);
                        offsets[i] = (*sums).mul_add(offset[0], offsets[i]);
                        offsets[i] = (*sums.add(1)).mul_add(offset[1], offsets[i]);
                    } else {
                        let both = d.dot(first, high, vld1q_s8(q.add(16)));
                        acc[i] = vfmaq_n_f32(acc[i], vcvtq_f32_s32(both), scale[0] * dx);
                        if F != Q8_0 {
                            offsets[i] = (*rows[i].sums32.add(at)).mul_add(offset[0], offsets[i]);
                        }
                    }
                }
            }
        }
        for i in 0..M {
            out[i] = vaddvq_f32(acc[i]) + offsets[i];
        }
    }
    M
}

/// Levels of 32 weights: sub-block `sub` of the block at `w`.
///
/// # Safety
/// The block has that sub-block.
#[inline(always)]
unsafe fn levels<const F: u8>(w: *const u8, sub: usize) -> [int8x16_t; 2] {
    // SAFETY: as the caller promises; NEON is part of the target.
    unsafe {
        let right = |v, by: usize| vshlq_u8(v, vdupq_n_s8(-(by as i8)));
        let low = vdupq_n_u8(15);
        let pair = |at: usize| [vld1q_u8(w.add(at)), vld1q_u8(w.add(at + 16))];
        let signed = |u: [uint8x16_t; 2]| u.map(|u| vreinterpretq_s8_u8(u));
        let or = |a: [uint8x16_t; 2], b: [uint8x16_t; 2]| [vorrq_u8(a[0], b[0]), vorrq_u8(a[1], b[1])];
        signed(match F {
            Q4_0 => nibbles(w.add(2)),
            Q4_1 => nibbles(w.add(4)),
            Q5_0 => or(nibbles(w.add(6)), fifths(w.add(2))),
            Q5_1 => or(nibbles(w.add(8)), fifths(w.add(4))),
            Q8_0 => pair(2),
            Q4_K => pair(16 + sub / 2 * 32).map(|v| vandq_u8(right(v, sub % 2 * 4), low)),
            Q5_K => {
                let nibble = pair(48 + sub / 2 * 32).map(|v| vandq_u8(right(v, sub % 2 * 4), low));
                or(nibble, pair(16).map(|v| vshlq_n_u8::<4>(vandq_u8(right(v, sub), vdupq_n_u8(1)))))
            }
            _ => {
                let (half, run) = (sub / 4, sub % 4);
                let nibble = pair(half * 64 + run % 2 * 32).map(|v| vandq_u8(right(v, run / 2 * 4), low));
                let top = pair(128 + half * 32).map(|v| vandq_u8(right(v, run * 2), vdupq_n_u8(3)));
                or(nibble, top.map(|v| vshlq_n_u8::<4>(v)))
            }
        })
    }
}

/// 16 bytes: the low nibbles, then the high ones.
///
/// # Safety
/// `from` is valid for 16 bytes.
#[inline(always)]
unsafe fn nibbles(from: *const u8) -> [uint8x16_t; 2] {
    // SAFETY: as the caller promises; NEON is part of the target.
    unsafe {
        let bytes = vld1q_u8(from);
        [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)]
    }
}

/// 32 bits as 0 or 16, a byte each.
///
/// # Safety
/// `from` is valid for 4 bytes.
#[inline(always)]
unsafe fn fifths(from: *const u8) -> [uint8x16_t; 2] {
    // SAFETY: as the caller promises; NEON is part of the target.
    unsafe {
        let own = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
        // Byte `j` of a vector gets the byte that has its bit, and keeps that bit.
        [0, 2].map(|at| {
            let bits = vcombine_u8(vdup_n_u8(*from.add(at)), vdup_n_u8(*from.add(at + 1)));
            vandq_u8(vtstq_u8(bits, own), vdupq_n_u8(16))
        })
    }
}

/// Scales and offsets of sub-block `sub`; of Q6_K for each half, otherwise the first counts.
#[inline(always)]
fn scale_and_offset<const F: u8>(block: &[u8], sub: usize) -> ([f32; 2], [f32; 2]) {
    let half_at = |at: usize| half(u16::from_le_bytes([block[at], block[at + 1]]));
    let (scale, offset) = match F {
        Q4_0 => (half_at(0), -8.0 * half_at(0)),
        Q5_0 => (half_at(0), -16.0 * half_at(0)),
        Q4_1 | Q5_1 => (half_at(0), half_at(2)),
        Q8_0 => (half_at(0), 0.0),
        Q4_K | Q5_K => {
            let (scale, min) = scale_and_min(&block[4..16], sub);
            (half_at(0) * scale as f32, -(half_at(2) * min as f32))
        }
        _ => {
            let scales = [0, 1].map(|i| half_at(208) * (block[192 + sub * 2 + i] as i8) as f32);
            return (scales, scales.map(|s| -32.0 * s));
        }
    };
    ([scale; 2], [offset; 2])
}

/// The value of an f16. One instruction that every processor has, where the library asks for a feature at each call.
#[inline(always)]
fn half(bits: u16) -> f32 {
    let value: f32;
    // SAFETY: the instruction touches nothing but its registers.
    unsafe {
        asm!(
            "fcvt {value:s}, {bits:h}",
            value = lateout(vreg) value, bits = in(vreg) f32::from_bits(bits as u32),
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    value
}
