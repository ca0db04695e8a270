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
const MILLS: [f32; 9] = [
    -5.706227e-2,
    3.24852e-1,
    -6.8000495e-1,
    5.488503e-1,
    -1.337901e-1,
    3.0058807e-1,
    2.8178945e-1,
    3.3482325e-1,
    3.3326846e-1,
];

#[cfg(test)]
mod tests {
    use crate::Isa;
    use crate::lanes::{map1, simd_fn};

    simd_fn! { fn exp2(s, out: &mut [f32], x: &[f32]) { map1(s, out, x, #[inline(always)] |x| super::exp2(s, x)); } }
    simd_fn! { fn exp(s, out: &mut [f32], x: &[f32]) { map1(s, out, x, #[inline(always)] |x| super::exp(s, x)); } }
    simd_fn! { fn sigmoid(s, out: &mut [f32], x: &[f32]) { map1(s, out, x, #[inline(always)] |x| super::sigmoid(s, x)); } }
    simd_fn! { fn tanh(s, out: &mut [f32], x: &[f32]) { map1(s, out, x, #[inline(always)] |x| super::tanh(s, x)); } }

    /// Largest error in units in the last place of the f32 result, over a dense grid of normal results.
    fn ulps(f: impl Fn(Isa, &mut [f32], &[f32]), exact: impl Fn(f64) -> f64, from: f32, to: f32, isa: Isa) -> f64 {
        let n = 200_000;
        let x: Vec<f32> = (0..n).map(|i| from + (to - from) * (i as f32 / n as f32)).collect();
        let mut y = vec![0.0; n];
        f(isa, &mut y, &x);
        x.iter().zip(&y).fold(0.0, |worst: f64, (x, y)| {
            let want = exact(*x as f64);
            let unit = (want as f32).abs().max(f32::MIN_POSITIVE);
            let unit = (f32::from_bits(unit.to_bits() + 1) - unit) as f64;
            worst.max((*y as f64 - want).abs() / unit)
        })
    }

    #[test]
    fn elementary_functions_are_accurate() {
        for isa in Isa::available() {
            let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
            for (name, e, bound) in [
                ("exp2", ulps(exp2, f64::exp2, -126.0, 1.0, isa), 1.5),
                ("exp", ulps(exp, f64::exp, -87.0, 88.0, isa), 1.5),
                ("sigmoid", ulps(sigmoid, logistic, -80.0, 30.0, isa), 2.5),
                ("tanh", ulps(tanh, f64::tanh, -10.0, 10.0, isa), 3.5),
            ] {
                assert!(e <= bound, "{name}: {e:.2} units in the last place on {isa:?}");
            }
        }
    }

    #[test]
    fn exponentials_have_limits() {
        for isa in Isa::available() {
            let x = [f32::NEG_INFINITY, -1e30, -104.5, 0.0, 89.0, 1e30, f32::INFINITY, f32::NAN];
            let mut y = [9.0; 8];
            exp(isa, &mut y, &x);
            assert_eq!(y[..7], [0.0, 0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY, f32::INFINITY], "{isa:?}");
            assert!(y[7].is_nan());
            exp2(isa, &mut y[..2], &[f32::NEG_INFINITY, -151.0]);
            assert_eq!(y[..2], [0.0, 0.0]);
        }
    }
}
