//! The dynamic 8-bit map (Dettmers 2016; Dettmers et al. 2022, arXiv 2110.02861): 256 values in -1..=1, or in 0..=1, that are
//! dense near zero: seven decades, each with twice as many values as the one below. Block-wise, a block of numbers is stored
//! as the largest magnitude and, for each, the code of the nearest value of number / largest.
//!
//! Knows no optimizer.

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

const DECADES: usize = 7;

/// The magnitudes of a map by arithmetic, so that a processor does many at once. They are counted from zero, which is place 0.
/// Of decade `d`, `10^(d-6) · 0.1..1`, the values are the middles of equal parts. After the last decade comes 1.
struct Magnitudes {
    /// The first place of each decade, and the place of 1.
    first: [f32; DECADES + 1],
    /// The first value of each decade, and the width of its parts.
    value: [f32; DECADES],
    width: [f32; DECADES],
    /// Halfway to the first value of each decade from the one before it, and to 1.
    start: [f32; DECADES + 1],
    /// The place nearest to `a` of decade `d` is `slope[d] · a + offset[d]`, rounded.
    slope: [f32; DECADES],
    offset: [f32; DECADES],
}

static SIGNED: Magnitudes = Magnitudes::new(1);
static UNSIGNED: Magnitudes = Magnitudes::new(2);

impl Magnitudes {
    /// With `least` values in the first decade.
    const fn new(least: u32) -> Magnitudes {
        let mut m = Magnitudes {
            first: [0.0; DECADES + 1],
            value: [0.0; DECADES],
            width: [0.0; DECADES],
            start: [0.0; DECADES + 1],
            slope: [0.0; DECADES],
            offset: [0.0; DECADES],
        };
        let tops = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
        let (mut d, mut first, mut below) = (0, 1.0, 0.0);
        while d < DECADES {
            let count = (least << d) as f64;
            let width = 0.9 * tops[d] / count;
            let value = 0.1 * tops[d] + width / 2.0;
            (m.first[d], m.value[d], m.width[d]) = (first as f32, value as f32, width as f32);
            m.start[d] = ((below + value) / 2.0) as f32;
            (m.slope[d], m.offset[d]) = ((1.0 / width) as f32, (first - value / width) as f32);
            below = value + (count - 1.0) * width;
            first += count;
            d += 1;
        }
        (m.first[DECADES], m.start[DECADES]) = (first as f32, ((below + 1.0) / 2.0) as f32);
        m
    }

    /// The values at whole numbers as places.
    #[inline(always)]
    fn values<S: Simd>(&self, s: S, place: S::V) -> S::V {
        let [mut first, mut value, mut width] = [self.first[0], self.value[0], self.width[0]].map(|x| s.splat(x));
        for d in 1..DECADES {
            let bound = s.splat(self.first[d]);
            first = s.select_lt(place, bound, first, bound);
            value = s.select_lt(place, bound, value, s.splat(self.value[d]));
            width = s.select_lt(place, bound, width, s.splat(self.width[d]));
        }
        let value = s.fma(width, s.sub(place, first), value);
        let value = s.select_lt(place, s.splat(self.first[0]), s.splat(0.0), value);
        s.select_lt(place, s.splat(self.first[DECADES]), value, s.splat(1.0))
    }

    /// The places, whole numbers, of the values nearest to `a`, which is in 0..=1.
    #[inline(always)]
    fn nearest<S: Simd>(&self, s: S, a: S::V) -> S::V {
        let [mut slope, mut offset] = [self.slope[0], self.offset[0]].map(|x| s.splat(x));
        let [mut least, mut most] = [self.first[0], self.first[1] - 1.0].map(|x| s.splat(x));
        for d in 1..DECADES {
            let start = s.splat(self.start[d]);
            slope = s.select_lt(a, start, slope, s.splat(self.slope[d]));
            offset = s.select_lt(a, start, offset, s.splat(self.offset[d]));
            least = s.select_lt(a, start, least, s.splat(self.first[d]));
            most = s.select_lt(a, start, most, s.splat(self.first[d + 1] - 1.0));
        }
        let place = s.max(s.min(s.round(s.fma(slope, a, offset)), most), least);
        let place = s.select_lt(a, s.splat(self.start[0]), s.splat(0.0), place);
        s.select_lt(a, s.splat(self.start[DECADES]), place, s.splat(self.first[DECADES]))
    }
}

impl Map8 {
    fn magnitudes(self) -> &'static Magnitudes {
        match self {
            Map8::Signed => &SIGNED,
            Map8::Unsigned => &UNSIGNED,
        }
    }

    /// The code of zero.
    pub const fn zero(self) -> u8 {
        match self {
            Map8::Signed => 127,
            Map8::Unsigned => 0,
        }
    }

    /// The numbers of a block.
    #[inline(always)]
    pub(super) fn decode<S: Simd>(self, s: S, out: &mut [f32], codes: &[u8], absmax: f32) {
        let magnitudes = self.magnitudes();
        let (zero, nothing, absmax) = (s.splat(f32::from(self.zero())), s.splat(0.0), s.splat(absmax));
        for (out, codes) in out.chunks_mut(L).zip(codes.chunks(L)) {
            let mut wide = [f32::from(self.zero()); L];
            for (wide, &code) in wide.iter_mut().zip(codes) {
                *wide = f32::from(code);
            }
            let place = s.sub(s.load(&wide), zero);
            let value = s.mul(magnitudes.values(s, s.abs(place)), absmax);
            f32::store_part(s, out, s.select_lt(place, nothing, s.sub(nothing, value), value));
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
        let (magnitudes, divisor) = (self.magnitudes(), s.splat(largest));
        let (zero, nothing, one) = (s.splat(f32::from(self.zero())), s.splat(0.0), s.splat(1.0));
        // Beyond 2^23 the last bits of a number are its whole part.
        let whole = s.splat(8_388_608.0);
        for (codes, x) in codes.chunks_mut(L).zip(x.chunks(L)) {
            let share = s.div(f32::load_part(s, x), divisor);
            let place = magnitudes.nearest(s, s.abs(share));
            let code = match self {
                // -1 has no code.
                Map8::Signed => {
                    let below = s.max(s.sub(zero, place), nothing);
                    s.select_lt(share, nothing, below, s.add(zero, place))
                }
                Map8::Unsigned => s.select_lt(nothing, share, s.max(place, one), place),
            };
            let mut wide = [0.0; L];
            s.store(&mut wide, s.add(code, whole));
            for (code, wide) in codes.iter_mut().zip(wide) {
                *code = wide.to_bits() as u8;
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

    /// The value of each code, as f64 arithmetic has it.
    fn values(map: Map8) -> Vec<f64> {
        let shift = i32::from(map == Map8::Unsigned);
        let mut magnitudes = vec![0.0];
        for decade in 0..7 {
            let count = 2f64.powi(decade + shift);
            let middles = (0..count as u32).map(|i| 0.1 + 0.9 * (f64::from(i) + 0.5) / count);
            magnitudes.extend(middles.map(|part| 10f64.powi(decade - 6) * part));
        }
        magnitudes.push(1.0);
        let negative = magnitudes[1..magnitudes.len() - 1].iter().rev().map(|x| -x);
        match map {
            Map8::Signed => negative.chain(magnitudes.iter().copied()).collect(),
            Map8::Unsigned => magnitudes,
        }
    }

    simd_fn! { fn decode(s, map: Map8, out: &mut [f32], codes: &[u8], absmax: f32) { map.decode(s, out, codes, absmax) } }

    /// The extremes as Dettmers et al. publish them: the smallest step of the signed map is 5.5e-7, its largest below 1 is
    /// 0.9929687; half of that, and 0.99648, without signs.
    #[test]
    fn the_maps_have_their_published_values() {
        let (signed, unsigned) = (values(Map8::Signed), values(Map8::Unsigned));
        assert_eq!((signed.len(), unsigned.len()), (256, 256));
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-6;
        assert!(near(signed[128], 5.5e-7) && near(signed[254], 0.992_968_75) && near(signed[0], -0.992_968_75));
        assert!(near(unsigned[1], 3.25e-7) && near(unsigned[254], 0.996_484_375));
        assert_eq!((signed[127], signed[255], unsigned[0], unsigned[255]), (0.0, 1.0, 0.0, 1.0));
    }

    #[test]
    fn every_code_is_its_value() {
        let codes: Vec<u8> = (0..=255).collect();
        for map in [Map8::Signed, Map8::Unsigned] {
            for isa in Isa::available() {
                let mut got = vec![0.0; 256];
                decode(isa, map, &mut got, &codes, 1.0);
                for (&got, want) in got.iter().zip(values(map)) {
                    assert!((f64::from(got) - want).abs() <= 4e-7 * want.abs(), "{map:?} {isa:?}: {got} for {want}");
                }
                assert_eq!((got[map.zero() as usize], got[255]), (0.0, 1.0));
            }
        }
    }

    /// Against a search over all values in f64, on a grid over all decades and on each halfway point's neighbours.
    #[test]
    fn every_number_gets_the_nearest_value() {
        for map in [Map8::Signed, Map8::Unsigned] {
            let mut x: Vec<f32> = (0..40_000).map(|i| 10f32.powf(-8.0 * i as f32 / 40_000.0)).collect();
            for pair in values(map).windows(2).filter(|pair| pair[0] >= 0.0) {
                let half = (pair[0].midpoint(pair[1]) as f32).to_bits();
                x.extend([half - 1, half, half + 1].map(f32::from_bits));
            }
            if map == Map8::Signed {
                x.extend(x.clone().iter().map(|x| -x));
            }
            x.extend([0.0, 1.0]);
            for isa in Isa::available() {
                let mut codes = vec![0; x.len()];
                assert_eq!(encode(isa, map, &mut codes, &x), 1.0);
                let values = values(map);
                for (&x, &code) in x.iter().zip(&codes) {
                    let error = |v: f64| (v - f64::from(x)).abs();
                    let best = values.iter().map(|&v| error(v)).fold(f64::INFINITY, f64::min);
                    let found = error(values[code as usize]);
                    // Where it is f32 arithmetic that decides beside a halfway point, either may be taken.
                    let kept = map == Map8::Unsigned && x > 0.0 && code == 1;
                    assert!(kept || found <= best + 5e-6 * f64::from(x.abs()), "{map:?} {isa:?}: {x} got {code}");
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
            decode(Isa::Portable, map, &mut back, &codes, 0.0);
            assert_eq!((codes, back), ([map.zero(); 20], [0.0; 20]));
            for odd in [f32::NAN, f32::INFINITY, 1e-42] {
                let largest = encode(Isa::Portable, map, &mut codes, &[odd, 0.0, 0.5]);
                decode(Isa::Portable, map, &mut back, &codes, largest);
            }
        }
    }
}
