//! Weights laid out for products: rows side by side, so that a vector holds neighbouring weights of each of 16 rows, sums need
//! no folding, and one broadcast of activations serves them all. Quantised ones have the levels and scales of the file's
//! blocks, reordered (the six-bit scales of Q4_K and Q5_K take eight bits). Must not know threads or instruction sets.
//!
//! A *panel* is 16 rows of quantised weights, or 32 others; missing rows are zero. One that is not quantised has, for each
//! column, an element of each row; bf16 for each pair of columns, a pair of each row.
//!
//! A quantised one: a vector has four columns of each of 16 rows. It begins, for formats of 256 columns, with what their scales are multiples of.
//! Then comes a record for each block of 32 columns, so that reading is one stream:
//! - levels: 8 groups of 4 columns, 4 bytes a row; with 4 bits, group `g + 4` is in the high halves of group `g`;
//! - what 4 bits do not hold: a fifth bit (group `g` at bit `g`) or two more (group `g` at bits `2(g % 4)`, two vectors);
//! - a scale for each row, and a minimum where the format has one.

use super::int8::levels;
use crate::{Mat, QuantFormat, bf16};
use std::ops::Range;

/// Rows of a panel of quantised weights.
pub(super) const PANEL: usize = 16;
/// Rows of a panel of others.
pub(super) const DENSE: usize = 32;

/// What interleaved weights are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanelFormat {
    F32,
    Bf16,
    F16,
    Quant(QuantFormat),
}

impl PanelFormat {
    /// As these weights are stored.
    pub fn of(w: Mat) -> PanelFormat {
        match w {
            Mat::F32(_) => PanelFormat::F32,
            Mat::Bf16(_) => PanelFormat::Bf16,
            Mat::F16(_) => PanelFormat::F16,
            Mat::Quant(format, _) => PanelFormat::Quant(format),
        }
    }

    /// Rows of a panel.
    pub const fn rows(self) -> usize {
        if let PanelFormat::Quant(_) = self { PANEL } else { DENSE }
    }

    /// Bytes of `n` rows of `k` weights.
    pub const fn bytes(self, n: usize, k: usize) -> usize {
        n.div_ceil(self.rows()) * self.panel_bytes(k)
    }

    pub(super) const fn panel_bytes(self, k: usize) -> usize {
        match self {
            PanelFormat::F32 => DENSE * 4 * k,
            PanelFormat::Bf16 => DENSE * 4 * k.div_ceil(2),
            PanelFormat::F16 => DENSE * 2 * k,
            PanelFormat::Quant(format) => Layout::of(format).panel_bytes(k),
        }
    }
}

/// Bytes that a panel spends on each block of 32 columns, and on each 256.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub levels: usize,
    pub high: usize,
    pub head: usize,
    pub outer: usize,
}

impl Layout {
    pub const fn of(format: QuantFormat) -> Layout {
        let (levels, high, head, outer) = match format {
            QuantFormat::Q4_0 => (256, 0, 32, 0),
            QuantFormat::Q4_1 => (256, 0, 64, 0),
            QuantFormat::Q5_0 => (256, 64, 32, 0),
            QuantFormat::Q5_1 => (256, 64, 64, 0),
            QuantFormat::Q8_0 => (512, 0, 32, 0),
            QuantFormat::Q4K => (256, 0, 32, 64),
            QuantFormat::Q5K => (256, 64, 32, 64),
            QuantFormat::Q6K => (256, 128, 32, 32),
        };
        Layout { levels, high, head, outer }
    }
    /// Where the first record is.
    pub const fn records(self, blocks: usize) -> usize {
        (blocks / 8 * self.outer).next_multiple_of(64)
    }
    pub const fn record(self) -> usize {
        self.levels + self.high + self.head
    }
    pub const fn panel_bytes(self, k: usize) -> usize {
        let blocks = k / 32;
        (self.records(blocks) + blocks * self.record()).next_multiple_of(64)
    }
}

/// Lays out one panel: some rows of the weights `w`, which are `k` long.
pub(super) fn panel(out: &mut [u8], w: Mat, rows: Range<usize>, k: usize) {
    out.fill(0);
    let range = rows.start * k..rows.end * k;
    match w {
        Mat::F32(w) => units(bytemuck::cast_slice_mut(out), &w[range], k),
        Mat::F16(w) => units(bytemuck::cast_slice_mut(out), &w[range], k),
        Mat::Bf16(w) => {
            // Two columns of a row are one unit.
            for (r, row) in w[range].chunks_exact(k).enumerate() {
                for (pair, out) in row.chunks(2).zip(out.chunks_exact_mut(4 * DENSE)) {
                    let pair = [pair[0], pair.get(1).copied().unwrap_or(bf16::ZERO)];
                    out[4 * r..][..4].copy_from_slice(bytemuck::cast_slice(&pair));
                }
            }
        }
        Mat::Quant(format, blocks) => {
            let row_bytes = format.row_bytes(k);
            quantised(out, format, &blocks[rows.start * row_bytes..rows.end * row_bytes], k);
        }
    }
}

fn units<T: Copy>(out: &mut [T], w: &[T], k: usize) {
    for (r, row) in w.chunks_exact(k).enumerate() {
        for (v, out) in row.iter().zip(out.chunks_exact_mut(DENSE)) {
            out[r] = *v;
        }
    }
}

/// Up to 16 rows as the file has them, into a panel of zeros.
fn quantised(out: &mut [u8], format: QuantFormat, rows: &[u8], k: usize) {
    let layout = Layout::of(format);
    let (outer, records) = out.split_at_mut(layout.records(k / 32));
    let (row_bytes, subs) = (format.row_bytes(k), format.block_len() / 32);
    for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
        for (at, block) in row.chunks_exact(format.block_bytes()).enumerate() {
            for sub in 0..subs {
                let record = &mut records[(at * subs + sub) * layout.record()..][..layout.record()];
                let (low, rest) = record.split_at_mut(layout.levels);
                let (high, head) = rest.split_at_mut(layout.high);
                put_levels(low, format, block, sub, r);
                if layout.high > 0 {
                    let (u, ..) = levels(format, block, sub);
                    put_high(high, &u, r);
                }
                put_head(head, format, block, sub, r);
            }
            if layout.outer > 0 {
                put_outer(&mut outer[at * layout.outer..][..layout.outer], format, block, r);
            }
        }
    }
}

fn put_levels(out: &mut [u8], format: QuantFormat, block: &[u8], sub: usize, r: usize) {
    let mut put = |words: &[u8], flip: u8| {
        for (g, word) in words.chunks_exact(4).enumerate() {
            let to = &mut out[g * 64 + r * 4..][..4];
            to.copy_from_slice(word);
            to.iter_mut().for_each(|b| *b ^= flip);
        }
    };
    // Files with blocks of 32 keep weights `j` and `j + 16` in one byte too.
    match format {
        QuantFormat::Q4_0 => put(&block[2..18], 0),
        QuantFormat::Q4_1 => put(&block[4..20], 0),
        QuantFormat::Q5_0 => put(&block[6..22], 0),
        QuantFormat::Q5_1 => put(&block[8..24], 0),
        QuantFormat::Q8_0 => put(&block[2..34], 0x80),
        QuantFormat::Q4K | QuantFormat::Q5K | QuantFormat::Q6K => {
            let (u, ..) = levels(format, block, sub);
            let both: [u8; 16] = std::array::from_fn(|j| (u[j] & 15) | u[j + 16] << 4);
            put(&both, 0);
        }
    }
}

fn put_high(out: &mut [u8], u: &[u8; 32], r: usize) {
    for (j, u) in u.iter().enumerate() {
        let (g, i) = (j / 4, j % 4);
        match out.len() {
            64 => out[r * 4 + i] |= (u >> 4 & 1) << g,
            _ => out[g / 4 * 64 + r * 4 + i] |= (u >> 4 & 3) << (2 * (g % 4)),
        }
    }
}

fn put_head(out: &mut [u8], format: QuantFormat, block: &[u8], sub: usize, r: usize) {
    let mut half = |part: usize, from: usize| {
        out[part * 32 + r * 2..][..2].copy_from_slice(&block[from..from + 2]);
    };
    match format {
        QuantFormat::Q4_0 | QuantFormat::Q5_0 | QuantFormat::Q8_0 => half(0, 0),
        QuantFormat::Q4_1 | QuantFormat::Q5_1 => {
            half(0, 0);
            half(1, 2);
        }
        QuantFormat::Q4K | QuantFormat::Q5K => {
            let (scale, min) = crate::quant::scale_and_min(&block[4..16], sub);
            (out[r], out[16 + r]) = (scale, min);
        }
        QuantFormat::Q6K => (out[r], out[16 + r]) = (block[192 + sub * 2], block[193 + sub * 2]),
    }
}

fn put_outer(out: &mut [u8], format: QuantFormat, block: &[u8], r: usize) {
    let from: &[usize] = if format == QuantFormat::Q6K { &[208] } else { &[0, 2] };
    for (part, &from) in from.iter().enumerate() {
        out[part * 32 + r * 2..][..2].copy_from_slice(&block[from..from + 2]);
    }
}
