//! Quantised weights times activations rounded to int8, for decoding: the weights are read once, as they are stored. Where they
//! have been laid out for it, `int8_rows` is faster.
//!
//! Every format is a set of unsigned levels `u` with a scale and an offset for each 16 or 32 weights, so a dot product
//! is `Σ scale·dx·(u · q) + Σ offset·dx·Σq`: the first sum is integer products, the second one number a sub-block.

use crate::quant::{QuantFormat, scale_and_min};
use crate::scratch::{self, Slot};
use crate::{Isa, Pool, f16};

/// Activations that share one reading of the weights.
pub(super) const TOGETHER: usize = 8;
/// Weights that one task reads, about, in bytes: enough to pay for taking it, little enough to share evenly.
const TASK_BYTES: usize = 48 << 10;
/// Rows of weights whose sums are made before they are stored.
pub(super) const GROUP: usize = 8;

/// One row of activations in int8. All lengths are for `k` rounded up to a multiple of 512, the rest zero.
#[derive(Clone, Copy)]
pub(super) struct Row {
    /// Rounded values.
    pub q: *const i8,
    /// Scales `dx`, each eight times: as the lanes of 64 products lie.
    pub scales: *const f32,
    /// `dx Σq` over 32.
    pub sums32: *const f32,
    /// `dx Σq` over 16.
    pub sums16: *const f32,
}
// SAFETY: the rows are only read once they are made.
unsafe impl Sync for Row {}

/// Bytes of a [`Row`]'s arrays for `k` padded.
fn row_bytes(padded: usize) -> usize {
    padded + padded / 4 * 4 + padded / 32 * 4 + padded / 16 * 4
}

/// `out[m, n] = x[m, k] · w[n, k]ᵀ`.
pub(super) fn nt(
    pool: &Pool,
    isa: Isa,
    out: &mut [f32],
    x: &[f32],
    format: QuantFormat,
    blocks: &[u8],
    m: usize,
    n: usize,
    k: usize,
) {
    let padded = k.next_multiple_of(512);
    let w_row = format.row_bytes(k);
    assert!(out.len() == m * n && x.len() == m * k && blocks.len() == n * w_row);
    let rows_per_task = (TASK_BYTES / w_row).clamp(1, n.div_ceil(16)).next_multiple_of(4);
    let out = Apart(out.as_mut_ptr());
    scratch::with(Slot::Shared, m * row_bytes(padded), |buffer| {
        // SAFETY: the buffer holds `m` rows of arrays; all their types allow any bits.
        let rows: Vec<Row> = (x.chunks_exact(k).enumerate())
            .map(|(i, x)| unsafe { quantize_row(isa, buffer.add(i * row_bytes(padded)), x, padded) })
            .collect();
        let rows = &rows;
        pool.run(n.div_ceil(rows_per_task), |task, _| {
            let per_row = k / format.block_len();
            let end = n.min((task + 1) * rows_per_task);
            for (m0, rows) in rows.chunks(TOGETHER).enumerate().map(|(i, rows)| (i * TOGETHER, rows)) {
                for j0 in (task * rows_per_task..end).step_by(GROUP) {
                    let count = GROUP.min(end - j0);
                    let blocks = &blocks[j0 * w_row..][..count * w_row];
                    let mut dots = [[0f32; TOGETHER]; GROUP];
                    rows_dots(isa, &mut dots, format, blocks, per_row, rows);
                    for (j, dots) in dots.iter().enumerate().take(count) {
                        for (i, dot) in dots.iter().enumerate().take(rows.len()) {
                            // SAFETY: element (m0 + i, j0 + j) is inside `out`; each task writes its own columns.
                            unsafe { *out.get().add((m0 + i) * n + j0 + j) = *dot };
                        }
                    }
                }
            }
        });
    });
}

#[derive(Clone, Copy)]
struct Apart(*mut f32);
// SAFETY: tasks write separate columns.
unsafe impl Sync for Apart {}
impl Apart {
    fn get(self) -> *mut f32 {
        self.0
    }
}

/// Some rows of weights with all rows of activations: `out[weight row][activation row]`.
fn rows_dots(
    isa: Isa,
    out: &mut [[f32; TOGETHER]; GROUP],
    format: QuantFormat,
    blocks: &[u8],
    per_row: usize,
    rows: &[Row],
) {
    #[cfg(target_arch = "x86_64")]
    if matches!(isa, Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx) {
        // SAFETY: `isa` is only made for what the processor has; the rows are as long as the weights', padded.
        return unsafe { super::int8_avx2::rows_dots(out, format, blocks, per_row, rows) };
    }
    #[cfg(target_arch = "aarch64")]
    match isa {
        // SAFETY: the rows are as long as the weights'.
        Isa::Neon => return unsafe { super::int8_neon::rows_dots(out, format, blocks, per_row, rows) },
        // SAFETY: as above; `isa` is only made for what the processor has.
        Isa::NeonDot => return unsafe { super::int8_neon::rows_dots_dotprod(out, format, blocks, per_row, rows) },
        _ => {}
    }
    let _ = isa;
    for (out, blocks) in out.iter_mut().zip(blocks.chunks_exact(per_row * format.block_bytes())) {
        // SAFETY: the rows are as long as the blocks need.
        unsafe { row_dots_lanes(&mut out[..rows.len()], format, blocks, rows) }
    }
}

/// Integer products of 32 levels: the sums of both halves.
#[inline(always)]
fn dot16(u: &[u8; 32], q: *const i8) -> [i32; 2] {
    // SAFETY: the row holds whole sub-blocks.
    let q = unsafe { &*q.cast::<[i8; 32]>() };
    let sum = |r: std::ops::Range<usize>| u[r.clone()].iter().zip(&q[r]).map(|(&u, &q)| u as i32 * q as i32).sum();
    [sum(0..16), sum(16..32)]
}

/// # Safety
/// Each of `rows` is as long as the blocks' weights.
unsafe fn row_dots_lanes(out: &mut [f32], format: QuantFormat, blocks: &[u8], rows: &[Row]) {
    out.fill(0.0);
    let subs = format.block_len() / 32;
    for (b, block) in blocks.chunks_exact(format.block_bytes()).enumerate() {
        for sub in 0..subs {
            let (u, scale, offset) = levels(format, block, sub);
            let at = b * subs + sub;
            for (out, row) in out.iter_mut().zip(rows) {
                let dots = dot16(&u, row.q.wrapping_add(at * 32));
                // SAFETY: `at` is a sub-block of the row.
                unsafe {
                    let dx = *row.scales.add(at * 8);
                    *out += dx * (scale[0] * dots[0] as f32 + scale[1] * dots[1] as f32);
                    *out += offset[0] * *row.sums16.add(at * 2) + offset[1] * *row.sums16.add(at * 2 + 1);
                }
            }
        }
    }
}

/// Levels, scales and offsets of 32 weights; scales and offsets for each half.
#[inline(always)]
pub(super) fn levels(format: QuantFormat, b: &[u8], sub: usize) -> ([u8; 32], [f32; 2], [f32; 2]) {
    let half_at = |at: usize| f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
    let d = half_at(if format == QuantFormat::Q6K { 208 } else { 0 });
    let mut u = [0u8; 32];
    let nibbles = |u: &mut [u8; 32], from: &[u8]| {
        for j in 0..16 {
            u[j] = from[j] & 15;
            u[j + 16] = from[j] >> 4;
        }
    };
    let fifths = |u: &mut [u8; 32], from: &[u8]| {
        let high = u32::from_le_bytes([from[0], from[1], from[2], from[3]]);
        for (j, u) in u.iter_mut().enumerate() {
            *u |= ((high >> j & 1) << 4) as u8;
        }
    };
    let (scale, offset) = match format {
        QuantFormat::Q4_0 => {
            nibbles(&mut u, &b[2..18]);
            (d, -8.0 * d)
        }
        QuantFormat::Q4_1 => {
            nibbles(&mut u, &b[4..20]);
            (d, half_at(2))
        }
        QuantFormat::Q5_0 => {
            nibbles(&mut u, &b[6..22]);
            fifths(&mut u, &b[2..6]);
            (d, -16.0 * d)
        }
        QuantFormat::Q5_1 => {
            nibbles(&mut u, &b[8..24]);
            fifths(&mut u, &b[4..8]);
            (d, half_at(2))
        }
        QuantFormat::Q8_0 => {
            for (u, &q) in u.iter_mut().zip(&b[2..34]) {
                *u = q ^ 0x80;
            }
            (d, -128.0 * d)
        }
        QuantFormat::Q4K | QuantFormat::Q5K => {
            let (s, m) = scale_and_min(&b[4..16], sub);
            let low = if format == QuantFormat::Q4K { 16 } else { 48 };
            for (u, &q) in u.iter_mut().zip(&b[low + sub / 2 * 32..]) {
                *u = q >> (sub % 2 * 4) & 15;
            }
            if format == QuantFormat::Q5K {
                for (u, &high) in u.iter_mut().zip(&b[16..48]) {
                    *u |= (high >> sub & 1) << 4;
                }
            }
            (d * s as f32, -(half_at(2) * m as f32))
        }
        QuantFormat::Q6K => {
            let (half, run) = (sub / 4, sub % 4);
            for (l, u) in u.iter_mut().enumerate() {
                let nibble = b[half * 64 + run % 2 * 32 + l] >> (run / 2 * 4) & 15;
                *u = nibble | (b[128 + half * 32 + l] >> (run * 2) & 3) << 4;
            }
            let s = [0, 1].map(|i| d * (b[192 + sub * 2 + i] as i8) as f32);
            return (u, s, s.map(|s| -32.0 * s));
        }
    };
    (u, [scale; 2], [offset; 2])
}

/// Rounds a row to int8 in blocks of 32 with scale `max |x| / 127`. A block with a NaN or infinity gets a NaN scale.
///
/// # Safety
/// `buffer` is valid for `row_bytes(padded)` bytes and aligned to 4.
unsafe fn quantize_row(isa: Isa, buffer: *mut u8, x: &[f32], padded: usize) -> Row {
    // SAFETY: as the caller promises; the arrays follow each other and `padded` is a multiple of 512.
    let (q, scales, sums32, sums16) = unsafe {
        let floats = buffer.add(padded).cast::<f32>();
        (
            std::slice::from_raw_parts_mut(buffer.cast::<i8>(), padded),
            std::slice::from_raw_parts_mut(floats, padded / 4),
            std::slice::from_raw_parts_mut(floats.add(padded / 4), padded / 32),
            std::slice::from_raw_parts_mut(floats.add(padded / 4 + padded / 32), padded / 16),
        )
    };
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` is only made for what the processor has.
        Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => unsafe { quantize_avx2(q, scales, sums32, sums16, x) },
        _ => quantize_lanes(q, scales, sums32, sums16, x),
    }
    Row { q: q.as_ptr(), scales: scales.as_ptr(), sums32: sums32.as_ptr(), sums16: sums16.as_ptr() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn quantize_avx2(q: &mut [i8], scales: &mut [f32], sums32: &mut [f32], sums16: &mut [f32], x: &[f32]) {
    quantize_lanes(q, scales, sums32, sums16, x);
}

#[inline(always)]
fn quantize_lanes(q: &mut [i8], scales: &mut [f32], sums32: &mut [f32], sums16: &mut [f32], x: &[f32]) {
    let blocks = x.len() / 32;
    for b in 0..blocks {
        let x: &[f32; 32] = x[b * 32..][..32].try_into().expect("32 of them");
        let mut lanes = [0f32; 8];
        let mut odd = [0f32; 8];
        for i in 0..32 {
            let v = x[i].abs();
            lanes[i % 8] = if v > lanes[i % 8] { v } else { lanes[i % 8] };
            odd[i % 8] += x[i] * 0.0;
        }
        let largest = lanes.iter().fold(0f32, |a, &b| if b > a { b } else { a });
        let d = largest / 127.0 + odd.iter().sum::<f32>();
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        let mut sums = [0i32; 2];
        for i in 0..32 {
            // Adding 1.5 · 2^23 leaves the nearest integer in the low bits.
            let bits = (x[i] * inverse + 12_582_912.0).to_bits();
            let v = (bits & 0xff) as u8 as i8;
            q[b * 32 + i] = v;
            sums[i / 16] += v as i32;
        }
        scales[b * 8..][..8].fill(d);
        sums16[b * 2] = d * sums[0] as f32;
        sums16[b * 2 + 1] = d * sums[1] as f32;
        sums32[b] = d * (sums[0] + sums[1]) as f32;
    }
    q[blocks * 32..].fill(0);
    scales[blocks * 8..].fill(0.0);
    sums32[blocks..].fill(0.0);
    sums16[blocks * 2..].fill(0.0);
}
