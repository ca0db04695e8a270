//! The dynamic 8-bit map (Dettmers 2016; Dettmers et al. 2022, arXiv 2110.02861): 256 values in -1..=1, or in 0..=1, that are
//! dense near zero: seven decades, each with twice as many values as the one below. Block-wise, a block of numbers is stored
//! as the largest magnitude and, for each, the code of the nearest value of number / largest.
//!
//! Knows no optimizer.

use std::sync::LazyLock;

use crate::lanes::{Elem, L, Simd};

/// Which numbers a map is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map8 {
    /// First moments. Code 127 is zero; codes below are negative. 1 has a code, -1 has not.
    Signed,
    /// Second moments. Code 0 is zero, and only zero gets it: a second moment that became zero while its first moment did not
    /// would make a step of m / ε.
    Unsigned,
}

/// Buckets of the encoder: the exponent and the first seven bits of the fraction of 2^-23..=1.
const BUCKETS: usize = 23 * 128 + 1;
const FIRST_BUCKET: u32 = (127 - 23) << 7;

struct Tables {
    /// The value of each code, rising.
    values: [f32; 256],
    /// For magnitudes: the number of halfway points at or below the start of each bucket, and the halfway points. No bucket
    /// has two of them inside.
    below: [u8; BUCKETS],
    halfway: [f32; 256],
}

static SIGNED: LazyLock<Tables> = LazyLock::new(|| Tables::new(true));
static UNSIGNED: LazyLock<Tables> = LazyLock::new(|| Tables::new(false));

/// The values at and above zero, rising.
fn magnitudes(signed: bool) -> Vec<f32> {
    let mut all = vec![0.0f32];
    for decade in 0..7 {
        // The top one has 64 values, or 128 where no code is spent on signs.
        let count = 1u32 << if signed { decade } else { decade + 1 };
        let top = 10f64.powi(decade - 6);
        // The middles of `count` equal parts of 0.1..1.
        all.extend((0..count).map(|i| (top * (0.1 + 0.9 * (f64::from(i) + 0.5) / f64::from(count))) as f32));
    }
    all.push(1.0);
    all
}

impl Tables {
    fn new(signed: bool) -> Tables {
        let magnitudes = magnitudes(signed);
        let mut values = [0.0; 256];
        let zero = 256 - magnitudes.len();
        for (k, &x) in magnitudes.iter().enumerate() {
            values[zero + k] = x;
            if signed && k < 128 {
                values[zero - k] = -x;
            }
        }
        let mut halfway = [f32::INFINITY; 256];
        for (half, pair) in halfway.iter_mut().zip(magnitudes.windows(2)) {
            *half = ((f64::from(pair[0]) + f64::from(pair[1])) / 2.0) as f32;
        }
        let below = std::array::from_fn(|bucket| {
            let start = f32::from_bits((bucket as u32 + FIRST_BUCKET) << 16);
            halfway.iter().take_while(|&&h| h <= start).count() as u8
        });
        Tables { values, below, halfway }
    }

    /// The place of the magnitude nearest to `a`, which is in 0..=1, counted from zero.
    #[inline(always)]
    fn nearest(&self, a: f32) -> u8 {
        let bucket = (a.to_bits() >> 16).saturating_sub(FIRST_BUCKET) as usize;
        let k = self.below[bucket.min(BUCKETS - 1)];
        k + u8::from(a >= self.halfway[k as usize])
    }
}

impl Map8 {
    fn tables(self) -> &'static Tables {
        match self {
            Map8::Signed => &SIGNED,
            Map8::Unsigned => &UNSIGNED,
        }
    }

    /// The code of zero.
    pub fn zero(self) -> u8 {
        match self {
            Map8::Signed => 127,
            Map8::Unsigned => 0,
        }
    }

    /// The numbers of a block.
    #[inline(always)]
    pub(super) fn decode(self, out: &mut [f32], codes: &[u8], absmax: f32) {
        let values = &self.tables().values;
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = values[code as usize] * absmax;
        }
    }

    /// The codes of a block; returns its largest magnitude.
    #[inline(always)]
    pub(super) fn encode<S: Simd>(self, s: S, codes: &mut [u8], x: &[f32]) -> f32 {
        let mut largest = s.splat(0.0);
        for x in x.chunks(L) {
            largest = s.max(s.abs(f32::load_part(s, x)), largest);
        }
        let largest = s.max_lane(largest);
        if largest == 0.0 {
            codes.fill(self.zero());
            return largest;
        }
        let (tables, divisor) = (self.tables(), s.splat(largest));
        for (codes, x) in codes.chunks_mut(L).zip(x.chunks(L)) {
            let mut share = [0.0; L];
            s.store(&mut share, s.div(f32::load_part(s, x), divisor));
            for (code, &x) in codes.iter_mut().zip(&share) {
                let k = tables.nearest(x.abs());
                *code = match self {
                    Map8::Signed if x < 0.0 => 127 - k.min(127),
                    Map8::Signed => 127 + k.min(128),
                    Map8::Unsigned => k.max(u8::from(x > 0.0)),
                };
            }
        }
        largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::lanes::simd_fn;

    simd_fn! { fn encode(s, map: Map8, codes: &mut [u8], x: &[f32]) -> f32 { map.encode(s, codes, x) } }

    /// The extremes as Dettmers et al. publish them: the smallest step of the signed map is 5.5e-7, its largest below 1 is
    /// 0.9929687; half of that, and 0.99648, without signs.
    #[test]
    fn the_maps_have_their_published_values() {
        let (signed, unsigned) = (&SIGNED.values, &UNSIGNED.values);
        for values in [signed, unsigned] {
            assert!(values.windows(2).all(|w| w[0] < w[1]), "{values:?}");
        }
        let near = |a: f32, b: f64| (f64::from(a) / b - 1.0).abs() < 1e-6;
        assert!(near(signed[128], 5.5e-7) && near(signed[254], 0.992_968_75) && near(signed[0], -0.992_968_75));
        assert!(near(unsigned[1], 3.25e-7) && near(unsigned[254], 0.996_484_375));
        assert_eq!((signed[127], signed[255], unsigned[0], unsigned[255]), (0.0, 1.0, 0.0, 1.0));
    }

    /// Against a search over all values in f64, on a grid over all decades and on each halfway point's neighbours.
    #[test]
    fn every_number_gets_the_nearest_value() {
        for map in [Map8::Signed, Map8::Unsigned] {
            let mut x: Vec<f32> = (0..40_000).map(|i| 10f32.powf(-8.0 * i as f32 / 40_000.0)).collect();
            for half in map.tables().halfway.iter().filter(|h| h.is_finite()) {
                x.extend([f32::from_bits(half.to_bits() - 1), *half, f32::from_bits(half.to_bits() + 1)]);
            }
            if map == Map8::Signed {
                x.extend(x.clone().iter().map(|x| -x));
            }
            x.extend([0.0, 1.0]);
            for isa in Isa::available() {
                let mut codes = vec![0; x.len()];
                assert_eq!(encode(isa, map, &mut codes, &x), 1.0);
                let values = &map.tables().values;
                for (&x, &code) in x.iter().zip(&codes) {
                    let error = |v: f32| (f64::from(v) - f64::from(x)).abs();
                    let best = values.iter().map(|&v| error(v)).fold(f64::INFINITY, f64::min);
                    let found = error(values[code as usize]);
                    // A halfway point is rounded to f32: beside it, either may be taken.
                    let kept = map == Map8::Unsigned && x > 0.0 && code == 1;
                    assert!(kept || found <= best + 3e-7 * f64::from(x.abs()), "{map:?} {isa:?}: {x} got {code}");
                    assert_eq!(code == map.zero(), x == 0.0 || values[code as usize] == 0.0);
                    assert!(map == Map8::Signed || x == 0.0 || code > 0, "{x} became zero");
                }
            }
        }
    }

    #[test]
    fn blocks_of_nothing_and_of_the_unexpected_do_no_harm() {
        for map in [Map8::Signed, Map8::Unsigned] {
            let (mut codes, mut back) = ([9; 20], [1.0; 20]);
            assert_eq!(encode(Isa::Portable, map, &mut codes, &[0.0; 20]), 0.0);
            map.decode(&mut back, &codes, 0.0);
            assert_eq!((codes, back), ([map.zero(); 20], [0.0; 20]));
            for odd in [f32::NAN, f32::INFINITY, 1e-42] {
                let largest = encode(Isa::Portable, map, &mut codes, &[odd, 0.0, 0.5]);
                map.decode(&mut back, &codes, largest);
            }
        }
    }
}
