//! Quantised weights laid out for int8 products: 16 rows side by side, so that a vector holds four neighbouring weights of each
//! of 16 rows, sums need no folding, and one broadcast of activations serves them all. Same levels and scales as the file's
//! blocks, reordered (the six-bit scales of Q4_K and Q5_K take eight bits). Must not know threads or instruction sets.
//!
//! A *panel* is 16 rows; missing rows are zero. It begins, for formats of 256 columns, with what their scales are multiples of.
//! Then comes a record for each block of 32 columns, so that reading is one stream:
//! - levels: 8 groups of 4 columns, 4 bytes a row; with 4 bits, group `g + 4` is in the high halves of group `g`;
//! - what 4 bits do not hold: a fifth bit (group `g` at bit `g`) or two more (group `g` at bits `2(g % 4)`, two vectors);
//! - a scale for each row, and a minimum where the format has one.

use super::int8::levels;
use crate::QuantFormat;

/// Rows of a panel.
pub(super) const PANEL: usize = 16;

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

/// Bytes of `n` rows of `k` weights.
pub(super) fn bytes(format: QuantFormat, n: usize, k: usize) -> usize {
    n.div_ceil(PANEL) * Layout::of(format).panel_bytes(k)
}

/// Lays out one panel: up to 16 rows of `k` weights as the file has them.
pub(super) fn panel(out: &mut [u8], format: QuantFormat, rows: &[u8], k: usize) {
    let layout = Layout::of(format);
    out.fill(0);
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
