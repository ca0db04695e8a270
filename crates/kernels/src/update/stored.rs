//! Parameters and optimizer moments as they are stored between steps, and a block of them as the f32 that a rule works on:
//! narrow storage is widened into a block in the first-level cache and rounded back, so that a step stays one pass over
//! memory. Knows no rule.

use std::ops::Range;

use super::Map8;
use crate::lanes::{Simd, Split};
use crate::random::{number, row_keys};
use crate::{Out, bf16};

/// Elements that share one largest magnitude in 8-bit storage, and that are worked on at a time. The paper has 2048; bitsandbytes
/// went to 256 later: an outlier spoils fewer neighbours, for 1/64 of a byte more per element.
pub const BLOCK: usize = 256;

/// What a step reads and writes.
#[derive(Debug)]
pub enum Stored<'a> {
    F32(&'a mut [f32]),
    /// Rounded stochastically (Gupta et al. 2015): up with a probability that is the distance from the value below, so that
    /// changes too small for bf16 still arrive on the average.
    Bf16(&'a mut [bf16]),
    /// A code of `map` for each element, and the largest magnitude of each [`BLOCK`] of them. Rounded to nearest.
    Block8 {
        map: Map8,
        codes: &'a mut [u8],
        absmax: &'a mut [f32],
    },
}

/// Where the random bits of stochastic rounding come from: they are a function of `key`, the array and the place of the
/// element, repeating after 2^32 elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rounding {
    /// Of (seed, step, parameter).
    pub key: u64,
    /// Place in the parameter of the first element that the step is given.
    pub first: u64,
}

impl Rounding {
    /// For one of a step's arrays, from element `at` on.
    #[inline(always)]
    pub(super) fn bits(&self, array: u64, at: usize) -> Bits {
        Bits { keys: row_keys(self.key, array), first: self.first as u32 }.after(at)
    }
}

/// Random bits for the elements of one array from a place on.
#[derive(Clone, Copy)]
pub(super) struct Bits {
    keys: (u32, u32),
    first: u32,
}

impl Bits {
    #[inline(always)]
    pub fn after(self, elements: usize) -> Bits {
        Bits { first: self.first.wrapping_add(elements as u32), ..self }
    }
}

/// Rounds to one of the two neighbours in bf16. NaN stays NaN and infinity infinity.
#[inline(always)]
fn narrow(out: &mut [bf16], x: &[f32], bits: Bits) {
    for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
        let random = number(bits.keys, bits.first.wrapping_add(i as u32)) >> 16;
        let up = x.to_bits().wrapping_add(random);
        let quiet = x.to_bits() | 0x40_0000;
        *out = bf16::from_bits((if x.is_nan() { quiet } else { up } >> 16) as u16);
    }
}

impl Stored<'_> {
    pub fn len(&self) -> usize {
        match self {
            Stored::F32(x) => x.len(),
            Stored::Bf16(x) => x.len(),
            Stored::Block8 { codes, .. } => codes.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements `range` of one block as f32: themselves, or in `wide`.
    #[inline(always)]
    pub(super) fn open<'b, S: Simd>(
        &'b mut self,
        s: S,
        range: Range<usize>,
        wide: &'b mut [f32; BLOCK],
    ) -> &'b mut [f32] {
        let wide = &mut wide[..range.len()];
        match self {
            Stored::F32(x) => return &mut x[range],
            Stored::Bf16(x) => {
                for (wide, x) in wide.iter_mut().zip(&x[range]) {
                    *wide = f32::from_bits((x.to_bits() as u32) << 16);
                }
            }
            Stored::Block8 { map, codes, absmax } => {
                let absmax = absmax[range.start / BLOCK];
                map.decode(s, wide, &codes[range], absmax);
            }
        }
        wide
    }

    /// Stores what `open` gave, if that was a copy. `bits` are those of the array's first element.
    #[inline(always)]
    pub(super) fn close<S: Simd>(&mut self, s: S, range: Range<usize>, wide: &[f32; BLOCK], bits: Bits) {
        let wide = &wide[..range.len()];
        match self {
            Stored::F32(_) => {}
            Stored::Bf16(x) => narrow(&mut x[range.clone()], wide, bits.after(range.start)),
            Stored::Block8 { map, codes, absmax } => {
                let block = range.start / BLOCK;
                absmax[block] = map.encode(s, &mut codes[range], wide);
            }
        }
    }
}

impl<'a> From<Out<'a>> for Stored<'a> {
    fn from(out: Out<'a>) -> Stored<'a> {
        match out {
            Out::F32(x) => Stored::F32(x),
            Out::Bf16(x) => Stored::Bf16(x),
            Out::F16(_) => panic!("what is trained is stored as f32 or bf16"),
        }
    }
}

/// As [`Split`]: threads take disjoint parts.
pub(super) enum SplitStored<'a> {
    F32(Split<'a, f32>),
    Bf16(Split<'a, bf16>),
    Block8 { map: Map8, codes: Split<'a, u8>, absmax: Split<'a, f32> },
}

impl<'a> SplitStored<'a> {
    pub fn new(all: Stored<'a>) -> SplitStored<'a> {
        match all {
            Stored::F32(x) => SplitStored::F32(Split::new(x)),
            Stored::Bf16(x) => SplitStored::Bf16(Split::new(x)),
            Stored::Block8 { map, codes, absmax } => {
                let (elements, blocks) = (codes.len(), absmax.len());
                assert_eq!(blocks, elements.div_ceil(BLOCK), "8-bit blocks for {elements} elements");
                SplitStored::Block8 { map, codes: Split::new(codes), absmax: Split::new(absmax) }
            }
        }
    }

    /// # Safety
    /// No two parts that live at the same time overlap, and each begins at a multiple of [`BLOCK`].
    pub unsafe fn part(&self, range: Range<usize>) -> Stored<'_> {
        let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
        // SAFETY: disjoint by this function's contract; blocks belong to one range, since ranges begin at their bounds.
        unsafe {
            match self {
                SplitStored::F32(x) => Stored::F32(x.part(range)),
                SplitStored::Bf16(x) => Stored::Bf16(x.part(range)),
                SplitStored::Block8 { map, codes, absmax } => {
                    Stored::Block8 { map: *map, codes: codes.part(range), absmax: absmax.part(blocks) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean over many elements is the number itself, within five standard deviations, and only its neighbours occur.
    #[test]
    fn stochastic_rounding_is_right_on_the_average() {
        let n = 1 << 18;
        for x in [1.001f32, -0.337, 1e-20, 3e38, 123.456] {
            let mut out = vec![bf16::ZERO; n];
            narrow(&mut out, &vec![x; n], Rounding { key: 7, first: 3 }.bits(1, 0));
            let low = bf16::from_bits((x.to_bits() >> 16) as u16);
            let high = bf16::from_bits(low.to_bits() + 1);
            assert!(out.iter().all(|y| *y == low || *y == high));
            let step = high.to_f64() - low.to_f64();
            let ups = out.iter().filter(|y| **y == high).count() as f64 / n as f64;
            let share = (f64::from(x) - low.to_f64()) / step;
            assert!((ups - share).abs() < 5.0 * 0.5 / (n as f64).sqrt(), "{x}: {ups} instead of {share}");
        }
    }

    #[test]
    fn what_bf16_can_hold_stays_as_it_is() {
        let mut out = [bf16::ZERO; 6];
        let x = [0.0, -0.0, 1.5, f32::INFINITY, f32::NEG_INFINITY, -f32::from_bits(0x7f7f_0000)];
        for key in 0..100 {
            narrow(&mut out, &x, Rounding { key, first: 0 }.bits(0, 0));
            assert!(out.iter().zip(x).all(|(a, b)| a.to_f32().to_bits() == b.to_bits()), "{out:?}");
            narrow(&mut out[..1], &[f32::from_bits(0x7f80_0001)], Rounding { key, first: 0 }.bits(0, 0));
            assert!(out[0].is_nan());
        }
    }
}
