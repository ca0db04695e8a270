//! Quantisation of the 32-weight formats with the rounding of llama.cpp's reference.

use super::QuantFormat;
use crate::f16;

pub(super) fn quantize(out: &mut [u8], format: QuantFormat, x: &[f32]) {
    let block = match format {
        QuantFormat::Q4_0 => q4_0,
        QuantFormat::Q4_1 => q4_1,
        QuantFormat::Q5_0 => q5_0,
        QuantFormat::Q5_1 => q5_1,
        QuantFormat::Q8_0 => q8_0,
        QuantFormat::Q4K => super::encode_k::q4_k,
        QuantFormat::Q5K => super::encode_k::q5_k,
        QuantFormat::Q6K => super::encode_k::q6_k,
    };
    for (out, x) in out.chunks_exact_mut(format.block_bytes()).zip(x.chunks_exact(format.block_len())) {
        block(out, x);
    }
}

fn put_half(out: &mut [u8], at: usize, v: f32) {
    out[at..at + 2].copy_from_slice(&f16::from_f32(v).to_le_bytes());
}

fn inverse(d: f32) -> f32 {
    if d != 0.0 { 1.0 / d } else { 0.0 }
}

/// The value with the largest magnitude, with its sign; the first of equals.
fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |best: f32, &v| if v.abs() > best.abs() { v } else { best })
}

fn range(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::MAX, f32::MIN), |(lo, hi), &v| (if v < lo { v } else { lo }, if v > hi { v } else { hi }))
}

/// The extreme becomes -8, so that the asymmetric range -8..8 is used whole.
fn q4_0(out: &mut [u8], x: &[f32]) {
    let d = extreme(x) / -8.0;
    let id = inverse(d);
    put_half(out, 0, d);
    let q = |v: f32| ((v * id + 8.5) as i8).min(15) as u8;
    for j in 0..16 {
        out[2 + j] = q(x[j]) | q(x[j + 16]) << 4;
    }
}

fn q4_1(out: &mut [u8], x: &[f32]) {
    let (lo, hi) = range(x);
    let d = (hi - lo) / 15.0;
    let id = inverse(d);
    put_half(out, 0, d);
    put_half(out, 2, lo);
    let q = |v: f32| (((v - lo) * id + 0.5) as i8).min(15) as u8;
    for j in 0..16 {
        out[4 + j] = q(x[j]) | q(x[j + 16]) << 4;
    }
}

fn q5_0(out: &mut [u8], x: &[f32]) {
    let d = extreme(x) / -16.0;
    let id = inverse(d);
    put_half(out, 0, d);
    put_five_bits(&mut out[2..], x, |v| ((v * id + 16.5) as i8).min(31) as u8);
}

fn q5_1(out: &mut [u8], x: &[f32]) {
    let (lo, hi) = range(x);
    let d = (hi - lo) / 31.0;
    let id = inverse(d);
    put_half(out, 0, d);
    put_half(out, 2, lo);
    put_five_bits(&mut out[4..], x, |v| ((v - lo) * id + 0.5) as u8);
}

fn put_five_bits(out: &mut [u8], x: &[f32], q: impl Fn(f32) -> u8) {
    let mut high = 0u32;
    for j in 0..16 {
        let (a, b) = (q(x[j]), q(x[j + 16]));
        out[4 + j] = a & 15 | (b & 15) << 4;
        high |= ((a >> 4 & 1) as u32) << j | ((b >> 4 & 1) as u32) << (j + 16);
    }
    out[..4].copy_from_slice(&high.to_le_bytes());
}

fn q8_0(out: &mut [u8], x: &[f32]) {
    let d = extreme(x).abs() / 127.0;
    let id = inverse(d);
    put_half(out, 0, d);
    for (out, &v) in out[2..].iter_mut().zip(x) {
        *out = (v * id).round() as i8 as u8;
    }
}
