//! Activations and gated activations, with their derivatives.

use super::Act;
use crate::lanes::{Elem, Simd, Split, map1, map2, map3to2, math, one_type, simd_fn};
use crate::{Cpu, In, Isa, Out};

/// An activation on lanes.
trait Function {
    fn value<S: Simd>(s: S, x: S::V) -> S::V;
    /// The value and the derivative.
    fn grad<S: Simd>(s: S, x: S::V) -> (S::V, S::V);
}

struct Silu;
struct GeluTanh;
struct Gelu;
struct Relu;

impl Function for Silu {
    #[inline(always)]
    fn value<S: Simd>(s: S, x: S::V) -> S::V {
        s.mul(x, math::sigmoid(s, x))
    }
    #[inline(always)]
    fn grad<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
        let g = math::sigmoid(s, x);
        let y = s.mul(x, g);
        // σ + xσ(1 - σ)
        (y, s.fma(y, s.sub(s.splat(1.0), g), g))
    }
}

/// `√(8/π)`: twice the factor in the tanh form, because `(1 + tanh u) / 2 = sigmoid(2u)`.
const GELU_SCALE: f32 = 1.595_769;
const GELU_CUBIC: f32 = 0.044_715;

impl Function for GeluTanh {
    #[inline(always)]
    fn value<S: Simd>(s: S, x: S::V) -> S::V {
        let inner = s.fma(s.mul(x, x), s.splat(GELU_CUBIC * GELU_SCALE), s.splat(GELU_SCALE));
        s.mul(x, math::sigmoid(s, s.mul(x, inner)))
    }
    #[inline(always)]
    fn grad<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
        let z = s.mul(x, x);
        let inner = s.fma(z, s.splat(GELU_CUBIC * GELU_SCALE), s.splat(GELU_SCALE));
        let g = math::sigmoid(s, s.mul(x, inner));
        let y = s.mul(x, g);
        let slope = s.fma(z, s.splat(3.0 * GELU_CUBIC * GELU_SCALE), s.splat(GELU_SCALE));
        (y, s.fma(s.mul(y, s.sub(s.splat(1.0), g)), slope, g))
    }
}

impl Function for Gelu {
    #[inline(always)]
    fn value<S: Simd>(s: S, x: S::V) -> S::V {
        s.mul(x, math::normal(s, x).0)
    }
    #[inline(always)]
    fn grad<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
        let (cdf, density) = math::normal(s, x);
        (s.mul(x, cdf), s.fma(x, density, cdf))
    }
}

impl Function for Relu {
    #[inline(always)]
    fn value<S: Simd>(s: S, x: S::V) -> S::V {
        let zero = s.splat(0.0);
        // A NaN is not below zero and stays.
        s.select_lt(x, zero, zero, x)
    }
    #[inline(always)]
    fn grad<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
        let zero = s.splat(0.0);
        (Self::value(s, x), s.select_lt(zero, x, s.splat(1.0), zero))
    }
}

simd_fn! {
    fn act_chunk[E: Elem, F: Function](s, out: &mut [E], x: &[E], _f: F) {
        map1(s, out, x, #[inline(always)] |x| F::value(s, x));
    }
}
simd_fn! {
    fn act_bwd_chunk[E: Elem, F: Function](s, dx: &mut [E], dy: &[E], x: &[E], _f: F) {
        map2(s, dx, dy, x, #[inline(always)] |dy, x| s.mul(dy, F::grad(s, x).1));
    }
}
simd_fn! {
    fn glu_chunk[E: Elem, F: Function](s, out: &mut [E], gate: &[E], up: &[E], _f: F) {
        map2(s, out, gate, up, #[inline(always)] |gate, up| s.mul(F::value(s, gate), up));
    }
}
simd_fn! {
    fn glu_bwd_chunk[E: Elem, F: Function](s, dgate: &mut [E], dup: &mut [E], dy: &[E], gate: &[E], up: &[E], _f: F) {
        map3to2(s, dgate, dup, dy, gate, up, #[inline(always)] |dy, gate, up| {
            let (y, slope) = F::grad(s, gate);
            (s.mul(s.mul(dy, up), slope), s.mul(dy, y))
        });
    }
}

/// Runs `$f(args…, function)` for the function that `$act` names.
macro_rules! each_act {
    ($act:expr, $f:ident($($arg:expr),*)) => {
        match $act {
            Act::Silu => $f($($arg),*, Silu),
            Act::GeluTanh => $f($($arg),*, GeluTanh),
            Act::Gelu => $f($($arg),*, Gelu),
            Act::Relu => $f($($arg),*, Relu),
        }
    };
}

impl Cpu {
    /// `out = act(gate) · up`: SwiGLU, GeGLU (Shazeer 2020).
    pub fn glu(&self, out: Out, gate: In, up: In, act: Act) {
        one_type!(gate, E => {
            let (out, gate, up) = (E::output(out, "glu"), E::input(gate, "glu"), E::input(up, "glu"));
            assert_eq!((out.len(), out.len()), (gate.len(), up.len()), "glu: lengths of out, gate and up");
            let (n, split, isa) = (out.len(), Split::new(out), self.isa);
            self.each_range(n, |r| {
                // SAFETY: ranges of different chunks do not overlap.
                let out = unsafe { split.part(r.clone()) };
                each_act!(act, glu_chunk(isa, out, &gate[r.clone()], &up[r]))
            });
        })
    }

    /// `dgate = dy · up · act'(gate)`, `dup = dy · act(gate)`.
    pub fn glu_bwd(&self, dgate: Out, dup: Out, dy: In, gate: In, up: In, act: Act) {
        one_type!(gate, E => {
            let (dgate, dup) = (E::output(dgate, "glu_bwd"), E::output(dup, "glu_bwd"));
            let (dy, gate, up) = (E::input(dy, "glu_bwd"), E::input(gate, "glu_bwd"), E::input(up, "glu_bwd"));
            let n = dgate.len();
            assert_eq!((n, n, n, n), (dup.len(), dy.len(), gate.len(), up.len()), "glu_bwd: lengths of dgate and the others");
            let (dgate, dup, isa): (_, _, Isa) = (Split::new(dgate), Split::new(dup), self.isa);
            self.each_range(n, |r| {
                // SAFETY: ranges of different chunks do not overlap.
                let (dgate, dup) = unsafe { (dgate.part(r.clone()), dup.part(r.clone())) };
                each_act!(act, glu_bwd_chunk(isa, dgate, dup, &dy[r.clone()], &gate[r.clone()], &up[r]))
            });
        })
    }

    /// `out = act(x)`.
    pub fn act(&self, out: Out, x: In, act: Act) {
        one_type!(x, E => {
            let (out, x) = (E::output(out, "act"), E::input(x, "act"));
            assert_eq!(out.len(), x.len(), "act: lengths of out and x");
            let (n, split, isa) = (out.len(), Split::new(out), self.isa);
            self.each_range(n, |r| {
                // SAFETY: ranges of different chunks do not overlap.
                let out = unsafe { split.part(r.clone()) };
                each_act!(act, act_chunk(isa, out, &x[r]))
            });
        })
    }

    /// `dx = dy · act'(x)`.
    pub fn act_bwd(&self, dx: Out, dy: In, x: In, act: Act) {
        one_type!(x, E => {
            let (dx, dy, x) = (E::output(dx, "act_bwd"), E::input(dy, "act_bwd"), E::input(x, "act_bwd"));
            assert_eq!((dx.len(), dx.len()), (dy.len(), x.len()), "act_bwd: lengths of dx, dy and x");
            let (n, split, isa) = (dx.len(), Split::new(dx), self.isa);
            self.each_range(n, |r| {
                // SAFETY: ranges of different chunks do not overlap.
                let dx = unsafe { split.part(r.clone()) };
                each_act!(act, act_bwd_chunk(isa, dx, &dy[r.clone()], &x[r]))
            });
        })
    }
}
