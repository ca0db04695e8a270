//! The order in which a bf16 cache keeps keys and values for processors that multiply pairs of bf16: products of sixteen positions then
//! read them as they lie. A unit is two bf16, the first in the low half. Must not know scores.
//!
//! A head's sixteen positions are units `[d / 2, 16]` of keys, each two neighbours of one position, and units `[8, d]` of values, each
//! one value of two neighbouring positions (`d` rounded up to even).

use super::cache::Half;
use crate::bf16;
use crate::lanes::{Elem, L, simd_fn};

/// Bytes of a unit.
const UNIT: usize = 4;

simd_fn! {
    /// One head `x[d]` of position `i` of the sixteen.
    pub(super) fn write_pairs(s, half: Half, out: &mut [u8], x: &[f32], i: usize) {
        for (j, x) in x.chunks(L).enumerate() {
            let mut rounded = [bf16::ZERO; L];
            s.store_bf16(&mut rounded, f32::load_part(s, x));
            let bits = rounded.map(bf16::to_bits);
            match half {
                Half::Keys => {
                    for (c, pair) in bits[..x.len().next_multiple_of(2)].chunks_exact(2).enumerate() {
                        let unit = u32::from(pair[0]) | u32::from(pair[1]) << 16;
                        let at = UNIT * ((j * L / 2 + c) * L + i);
                        out[at..at + UNIT].copy_from_slice(&unit.to_le_bytes());
                    }
                }
                Half::Values => {
                    // The other half of each unit stays as it is.
                    let (width, shift) = (out.len() / (UNIT * L / 2), 16 * (i % 2));
                    let units = &mut out[UNIT * (i / 2 * width + j * L)..][..UNIT * x.len()];
                    for (unit, bits) in units.chunks_exact_mut(UNIT).zip(bits) {
                        let old = u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]);
                        let new = old & (0xffff_0000 >> shift) | u32::from(bits) << shift;
                        unit.copy_from_slice(&new.to_le_bytes());
                    }
                }
            }
        }
    }
}
