//! Dequantisation in plain Rust: the specification of each block's layout. A product is rounded before its offset is
//! added (no fused multiply-add), as in gguf-py.

use super::QuantFormat;
use crate::f16;

#[inline(always)]
pub(super) fn dequantize(out: &mut [f32], format: QuantFormat, blocks: &[u8]) {
    match format {
        QuantFormat::Q4_0 => each(out, format, blocks, q4_0),
        QuantFormat::Q4_1 => each(out, format, blocks, q4_1),
        QuantFormat::Q5_0 => each(out, format, blocks, q5_0),
        QuantFormat::Q5_1 => each(out, format, blocks, q5_1),
        QuantFormat::Q8_0 => each(out, format, blocks, q8_0),
        QuantFormat::Q4K => each(out, format, blocks, q4_k),
        QuantFormat::Q5K => each(out, format, blocks, q5_k),
        QuantFormat::Q6K => each(out, format, blocks, q6_k),
    }
}

#[inline(always)]
fn each(out: &mut [f32], format: QuantFormat, blocks: &[u8], block: impl Fn(&mut [f32], &[u8])) {
    for (out, bytes) in out.chunks_exact_mut(format.block_len()).zip(blocks.chunks_exact(format.block_bytes())) {
        block(out, bytes);
    }
}

#[inline(always)]
fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

#[inline(always)]
fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// `d`, 16 bytes of nibbles: low ones are weights 0..16, high ones 16..32; zero is 8.
#[inline(always)]
fn q4_0(out: &mut [f32], b: &[u8]) {
    let d = half_at(b, 0);
    for (j, &q) in b[2..18].iter().enumerate() {
        out[j] = ((q & 15) as i32 - 8) as f32 * d;
        out[j + 16] = ((q >> 4) as i32 - 8) as f32 * d;
    }
}

/// `d`, `min`, nibbles.
#[inline(always)]
fn q4_1(out: &mut [f32], b: &[u8]) {
    let (d, min) = (half_at(b, 0), half_at(b, 2));
    for (j, &q) in b[4..20].iter().enumerate() {
        out[j] = (q & 15) as f32 * d + min;
        out[j + 16] = (q >> 4) as f32 * d + min;
    }
}

/// `d`, 32 fifth bits, nibbles; zero is 16.
#[inline(always)]
fn q5_0(out: &mut [f32], b: &[u8]) {
    let (d, high) = (half_at(b, 0), u32_at(b, 2));
    for (j, &q) in b[6..22].iter().enumerate() {
        out[j] = (fifth(q & 15, high, j) - 16) as f32 * d;
        out[j + 16] = (fifth(q >> 4, high, j + 16) - 16) as f32 * d;
    }
}

/// `d`, `min`, 32 fifth bits, nibbles.
#[inline(always)]
fn q5_1(out: &mut [f32], b: &[u8]) {
    let (d, min, high) = (half_at(b, 0), half_at(b, 2), u32_at(b, 4));
    for (j, &q) in b[8..24].iter().enumerate() {
        out[j] = fifth(q & 15, high, j) as f32 * d + min;
        out[j + 16] = fifth(q >> 4, high, j + 16) as f32 * d + min;
    }
}

#[inline(always)]
fn fifth(nibble: u8, high: u32, j: usize) -> i32 {
    nibble as i32 | ((high >> j & 1) << 4) as i32
}

/// `d`, 32 signed bytes.
#[inline(always)]
fn q8_0(out: &mut [f32], b: &[u8]) {
    let d = half_at(b, 0);
    for (out, &q) in out.iter_mut().zip(&b[2..34]) {
        *out = q as i8 as f32 * d;
    }
}

/// The six-bit scale and minimum of sub-block `j` of 8, from the 12 packed bytes of Q4_K and Q5_K: the first four of
/// each are the low six bits of bytes 0..8; the others have four bits in bytes 8..12 and two at the top of bytes 0..8.
#[inline(always)]
pub(crate) fn scale_and_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    }
}

/// `d`, `dmin`, 12 bytes of scales and minimums, 4 × 32 bytes: low nibbles are sub-block 2j, high ones 2j + 1.
#[inline(always)]
fn q4_k(out: &mut [f32], b: &[u8]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&b[4..16], j);
        let (scale, min) = (d * scale as f32, dmin * min as f32);
        for (out, q) in out.iter_mut().zip(&b[16 + j / 2 * 32..]) {
            *out = scale * (q >> (j % 2 * 4) & 15) as f32 - min;
        }
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the nibbles: bit `j` of byte `l` belongs to weight `l` of sub-block `j`.
#[inline(always)]
fn q5_k(out: &mut [f32], b: &[u8]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&b[4..16], j);
        let (scale, min) = (d * scale as f32, dmin * min as f32);
        for ((out, q), high) in out.iter_mut().zip(&b[48 + j / 2 * 32..]).zip(&b[16..48]) {
            *out = scale * ((q >> (j % 2 * 4) & 15) | (high >> j & 1) << 4) as f32 - min;
        }
    }
}

/// 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales (one for 16 weights), `d`; zero is 32.
/// Each half of the block is four runs of 32: run `r` takes nibble `r / 2` of bytes `r % 2 * 32 ..` and bit pair `r`.
#[inline(always)]
fn q6_k(out: &mut [f32], b: &[u8]) {
    let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], half_at(b, 208));
    for (half, out) in out.chunks_exact_mut(128).enumerate() {
        for (run, out) in out.chunks_exact_mut(32).enumerate() {
            for (l, out) in out.iter_mut().enumerate() {
                let nibble = low[half * 64 + run % 2 * 32 + l] >> (run / 2 * 4) & 15;
                let pair = high[half * 32 + l] >> (run * 2) & 3;
                let scale = d * (scales[half * 8 + run * 2 + l / 16] as i8) as f32;
                *out = scale * ((nibble | pair << 4) as i32 - 32) as f32;
            }
        }
    }
}
