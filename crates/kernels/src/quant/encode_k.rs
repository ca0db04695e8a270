//! Quantisation of the 256-weight formats (Q4_K, Q5_K, Q6_K) by the search that llama.cpp's reference makes: scales of
//! sub-blocks are fitted by weighted least squares over a few candidate roundings, then quantised themselves.

use super::decode::scale_and_min;
use crate::f16;

/// A sub-block whose largest magnitude is below this is taken as zero.
const TINY: f32 = 1e-15;

/// How the scale and minimum of a sub-block of 32 are searched: the candidates are `(levels + first + 0.1 i) / range`.
struct Search {
    levels: f32,
    first: f32,
    steps: usize,
}

pub(super) fn q4_k(out: &mut [u8], x: &[f32]) {
    let q = with_minimums(out, x, Search { levels: 15.0, first: -1.0, steps: 20 });
    for (i, out) in out[16..144].iter_mut().enumerate() {
        let low = i / 32 * 64 + i % 32;
        *out = q[low] | q[low + 32] << 4;
    }
}

pub(super) fn q5_k(out: &mut [u8], x: &[f32]) {
    let q = with_minimums(out, x, Search { levels: 31.0, first: -0.5, steps: 15 });
    let (high, low) = out[16..176].split_at_mut(32);
    for (i, out) in low.iter_mut().enumerate() {
        let low = i / 32 * 64 + i % 32;
        *out = q[low] & 15 | (q[low + 32] & 15) << 4;
    }
    for (l, high) in high.iter_mut().enumerate() {
        *high = (0..8).fold(0, |bits, j| bits | (q[j * 32 + l] >> 4) << j);
    }
}

pub(super) fn q6_k(out: &mut [u8], x: &[f32]) {
    let mut scales = [0f32; 16];
    for (scale, x) in scales.iter_mut().zip(x.chunks_exact(16)) {
        *scale = fit_symmetric(x);
    }
    let largest = scales.iter().fold(0.0, |best: f32, &s| if s.abs() > best.abs() { s } else { best });
    out.fill(0);
    if largest.abs() < TINY {
        return;
    }
    let inverse = -128.0 / largest;
    let d = f16::from_f32(1.0 / inverse);
    out[208..210].copy_from_slice(&d.to_le_bytes());
    let mut q = [32u8; 256];
    for (j, &scale) in scales.iter().enumerate() {
        let scale = nearest(inverse * scale).min(127.0);
        out[192 + j] = scale as i8 as u8;
        let step = d.to_f32() * scale;
        if step != 0.0 {
            for (q, &v) in q[j * 16..][..16].iter_mut().zip(&x[j * 16..]) {
                *q = (nearest(v / step).clamp(-32.0, 31.0) + 32.0) as u8;
            }
        }
    }
    for half in 0..2 {
        let q = &q[half * 128..][..128];
        for l in 0..64 {
            out[half * 64 + l] = q[l] & 15 | (q[l + 64] & 15) << 4;
        }
        for l in 0..32 {
            out[128 + half * 32 + l] = (0..4).fold(0, |bits, run| bits | (q[run * 32 + l] >> 4) << (2 * run));
        }
    }
}

/// Writes `d`, `dmin` and the 12 packed bytes of Q4_K and Q5_K, and returns the quantised weights.
fn with_minimums(out: &mut [u8], x: &[f32], search: Search) -> [u8; 256] {
    let (mut scales, mut mins) = ([0f32; 8], [0f32; 8]);
    for (j, x) in x.chunks_exact(32).enumerate() {
        (scales[j], mins[j]) = fit_with_minimum(x, &search);
    }
    let largest = |v: &[f32; 8]| v.iter().fold(0f32, |a, &b| if b > a { b } else { a });
    let (max_scale, max_min) = (largest(&scales), largest(&mins));
    let six_bits = |v: f32, max: f32| nearest(if max > 0.0 { 63.0 / max * v } else { 0.0 }).min(63.0) as u8;
    let packed = &mut out[4..16];
    packed.fill(0);
    for j in 0..8 {
        let (s, m) = (six_bits(scales[j], max_scale), six_bits(mins[j], max_min));
        if j < 4 {
            packed[j] = s;
            packed[j + 4] = m;
        } else {
            packed[j + 4] = s & 15 | (m & 15) << 4;
            packed[j - 4] |= s >> 4 << 6;
            packed[j] |= m >> 4 << 6;
        }
    }
    let (d, dmin) = (f16::from_f32(max_scale / 63.0), f16::from_f32(max_min / 63.0));
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&dmin.to_le_bytes());
    let mut q = [0u8; 256];
    for (j, (q, x)) in q.chunks_exact_mut(32).zip(x.chunks_exact(32)).enumerate() {
        let (s, m) = scale_and_min(&out[4..16], j);
        let (step, min) = (d.to_f32() * s as f32, dmin.to_f32() * m as f32);
        if step != 0.0 {
            for (q, &v) in q.iter_mut().zip(x) {
                *q = nearest((v + min) / step).clamp(0.0, search.levels) as u8;
            }
        }
    }
    q
}

/// The scale and the (non-negative) minimum of one sub-block, so that `x ≈ scale q - min`.
fn fit_with_minimum(x: &[f32], search: &Search) -> (f32, f32) {
    let rms = (x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32).sqrt();
    let weight = |v: f32| rms + v.abs();
    let (mut min, mut max, mut sum_w, mut sum_x) = (x[0], x[0], 0f32, 0f32);
    for &v in x {
        min = if v < min { v } else { min };
        max = if v > max { v } else { max };
        sum_w += weight(v);
        sum_x += weight(v) * v;
    }
    min = min.min(0.0);
    if max == min {
        return (0.0, -min);
    }
    let round = |inverse: f32, v: f32| nearest(inverse * (v - min)).clamp(0.0, search.levels);
    let error = |inverse: f32, scale: f32, low: f32| -> f32 {
        x.iter().map(|&v| (scale * round(inverse, v) + low - v).powi(2) * weight(v)).sum()
    };
    let inverse = search.levels / (max - min);
    let (mut best_scale, mut best_min) = (1.0 / inverse, min);
    let mut best = error(inverse, best_scale, best_min);
    for step in 0..=search.steps {
        let inverse = (search.first + 0.1 * step as f32 + search.levels) / (max - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0f32, 0f32, 0f32);
        for &v in x {
            let (l, w) = (round(inverse, v), weight(v));
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * v;
        }
        let det = sum_w * sum_l2 - sum_l * sum_l;
        if det <= 0.0 || det.is_nan() {
            continue;
        }
        let (mut scale, mut low) = ((sum_w * sum_xl - sum_x * sum_l) / det, (sum_l2 * sum_x - sum_l * sum_xl) / det);
        if low > 0.0 {
            low = 0.0;
            scale = sum_xl / sum_l2;
        }
        let err = error(inverse, scale, low);
        if err < best {
            (best, best_scale, best_min) = (err, scale, low);
        }
    }
    (best_scale, -best_min)
}

/// The scale of a symmetric sub-block of 16 with levels -32..32, weighted by x².
fn fit_symmetric(x: &[f32]) -> f32 {
    let extreme = x.iter().fold(0.0, |best: f32, &v| if v.abs() > best.abs() { v } else { best });
    if extreme.abs() < TINY {
        return 0.0;
    }
    let sums = |inverse: f32| {
        x.iter().fold((0f32, 0f32), |(lx, l2), &v| {
            let (l, w) = (nearest(inverse * v).clamp(-32.0, 31.0), v * v);
            (lx + w * v * l, l2 + w * l * l)
        })
    };
    let (lx, l2) = sums(-32.0 / extreme);
    let mut scale = if l2 != 0.0 { lx / l2 } else { 0.0 };
    let mut best = scale * lx;
    for step in (-9..=9).filter(|&s| s != 0) {
        let (lx, l2) = sums(-(32.0 + 0.1 * step as f32) / extreme);
        if l2 > 0.0 && lx * lx > best * l2 {
            scale = lx / l2;
            best = scale * lx;
        }
    }
    scale
}

fn nearest(v: f32) -> f32 {
    v.round_ties_even()
}
