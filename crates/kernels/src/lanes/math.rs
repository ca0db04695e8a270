//! Elementary functions on sixteen lanes. Errors against f64 are measured in the tests.

use super::Simd;

/// 2^r for `r` in -1/2..=1/2: a minimax polynomial (Remez, relative error 2e-8 before rounding).
#[inline(always)]
fn exp2_fraction<S: Simd>(s: S, r: S::V) -> S::V {
    let mut p = s.splat(EXP2[0]);
    for c in &EXP2[1..] {
        p = s.fma(p, r, s.splat(*c));
    }
    p
}

/// `2^x` for `x` up to 128; 0 below -150, NaN for NaN.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(-151.0), x);
    let n = s.round(x);
    s.scale2(exp2_fraction(s, s.sub(x, n)), n)
}

/// `e^x`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.min(s.splat(89.0), s.max(s.splat(-104.5), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts (Cody & Waite): the first has nine bits, so that its product with n is exact.
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(EXP[0]);
    for c in &EXP[1..] {
        p = s.fma(p, r, s.splat(*c));
    }
    s.scale2(p, n)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// `tanh x`: an odd polynomial near zero, where `1 - 2/(e^2x + 1)` would cancel.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let far = s.sub(one, s.div(s.splat(2.0), s.add(exp(s, s.add(x, x)), one)));
    let z = s.mul(x, x);
    let mut p = s.splat(TANH[0]);
    for c in &TANH[1..] {
        p = s.fma(p, z, s.splat(*c));
    }
    let near = s.fma(s.mul(p, z), x, x);
    s.select_lt(s.abs(x), s.splat(0.625), near, far)
}

/// The distribution function of the standard normal, `Φ(x) = erfc(-x/√2) / 2`, and its density `φ(x)`. The tail keeps its
/// relative accuracy: `Φ(-|x|) = φ(x) · P(t)`, `t = 1/(1 + |x|/3)`, with a polynomial `P` for Mills' ratio.
#[inline(always)]
pub(crate) fn normal<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    let a = s.abs(x);
    let density = s.mul(exp(s, s.mul(s.splat(-0.5), s.mul(x, x))), s.splat(0.398_942_3));
    let t = s.div(one, s.fma(a, s.splat(1.0 / 3.0), one));
    let mut p = s.splat(MILLS[0]);
    for c in &MILLS[1..] {
        p = s.fma(p, t, s.splat(*c));
    }
    let tail = s.mul(density, s.mul(p, t));
    (s.select_lt(zero, x, s.sub(one, tail), tail), density)
}
const EXP2: [f32; 7] = [1.5353359e-4, 1.3398875e-3, 9.618437e-3, 5.5503324e-2, 2.4022648e-1, 6.931472e-1, 1.0];
const EXP: [f32; 7] = [1.3814463e-3, 8.368781e-3, 4.1668393e-2, 1.666652e-1, 4.9999994e-1, 1.0, 1.0];
const TANH: [f32; 5] = [-5.7170256e-3, 2.065057e-2, -5.3743493e-2, 1.3331491e-1, -3.3333284e-1];
const MILLS: [f32; 9] = [-5.706227e-2, 3.24852e-1, -6.8000495e-1, 5.488503e-1, -1.337901e-1, 3.0058807e-1, 2.8178945e-1, 3.3482325e-1, 3.3326846e-1];
