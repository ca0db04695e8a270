//! Sixteen lanes as an array: the specification of [`Simd`], and what runs where no table fits.

use super::{L, Simd};
use crate::bf16;

#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn zip(a: [f32; L], b: [f32; L], f: impl Fn(f32, f32) -> f32) -> [f32; L] {
    let mut out = [0.0; L];
    for i in 0..L {
        out[i] = f(a[i], b[i]);
    }
    out
}

/// 2^n of an integer-valued `n` in -126..=127.
#[inline(always)]
fn power(n: f32) -> f32 {
    f32::from_bits(((n as i32 + 127) as u32) << 23)
}

impl Simd for Portable {
    type V = [f32; L];
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; L] {
        [x; L]
    }
    #[inline(always)]
    fn load(self, x: &[f32; L]) -> [f32; L] {
        *x
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; L], v: [f32; L]) {
        *out = v;
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; L]) -> [f32; L] {
        x.map(|x| f32::from_bits((x.to_bits() as u32) << 16))
    }
    #[inline(always)]
    fn store_bf16(self, out: &mut [bf16; L], v: [f32; L]) {
        for i in 0..L {
            let bits = v[i].to_bits();
            let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
            let quiet = (bits >> 16) | 0x40;
            out[i] = bf16::from_bits(if v[i].is_nan() { quiet } else { rounded } as u16);
        }
    }
    #[inline(always)]
    fn add(self, a: [f32; L], b: [f32; L]) -> [f32; L] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; L], b: [f32; L]) -> [f32; L] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; L], b: [f32; L]) -> [f32; L] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; L], b: [f32; L]) -> [f32; L] {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: [f32; L], b: [f32; L], c: [f32; L]) -> [f32; L] {
        // Not `mul_add`: without the instruction it is a library call for each element.
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn max(self, a: [f32; L], b: [f32; L]) -> [f32; L] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: [f32; L], b: [f32; L]) -> [f32; L] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: [f32; L]) -> [f32; L] {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn abs(self, a: [f32; L]) -> [f32; L] {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn round(self, a: [f32; L]) -> [f32; L] {
        // Adding and taking away 1.5 · 2^23 rounds |a| < 2^22, which is all that exponents need, without a library call.
        a.map(|a| (a + 12582912.0) - 12582912.0)
    }
    #[inline(always)]
    fn scale2(self, v: [f32; L], n: [f32; L]) -> [f32; L] {
        zip(v, n, |v, n| {
            let half = ((n as i32) >> 1) as f32;
            v * power(half) * power(n - half)
        })
    }
    #[inline(always)]
    fn select_lt(self, a: [f32; L], b: [f32; L], x: [f32; L], y: [f32; L]) -> [f32; L] {
        let mut out = y;
        for i in 0..L {
            if a[i] < b[i] {
                out[i] = x[i];
            }
        }
        out
    }
}
