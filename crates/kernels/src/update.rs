//! Optimizer updates on flat slices, each in one pass over memory, whatever the parameters and the moments are stored as.

mod map8;
mod stored;
#[cfg(test)]
mod tests;

pub use map8::Map8;
pub use stored::{BLOCK, Rounding, Stored};

use crate::lanes::{ELEMENTS, Elem, L, Simd, simd_fn};
use crate::{Cpu, Out};
use stored::SplitStored;

// A thread's part begins where an 8-bit block does.
const _: () = assert!(ELEMENTS.is_multiple_of(BLOCK));

/// The constants of one step of Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Decoupled: `p -= lr · weight_decay · p`.
    pub weight_decay: f32,
    /// Adam's: `g += l2 · p`.
    pub l2: f32,
    /// `1 - beta1^t` and `1 - beta2^t`.
    pub bias1: f32,
    pub bias2: f32,
}

/// The constants of a step of stochastic gradient descent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    pub lr: f32,
    pub momentum: f32,
    pub nesterov: bool,
    /// `g += weight_decay · p`.
    pub weight_decay: f32,
}

/// The arrays of a step, for their random bits.
const PARAM: u64 = 0;
const FIRST: u64 = 1;
const SECOND: u64 = 2;

/// [`AdamW`] on lanes.
struct Adam<V> {
    grad_scale: V,
    l2: V,
    beta: [V; 2],
    rest: [V; 2],
    /// `lr / bias1` and `bias2^-1/2`.
    step: V,
    root: V,
    eps: V,
    /// `1 - lr · weight_decay`.
    keep: V,
}

impl<V: Copy> Adam<V> {
    #[inline(always)]
    fn new<S: Simd<V = V>>(s: S, grad_scale: f32, c: &AdamW) -> Adam<V> {
        Adam {
            grad_scale: s.splat(grad_scale),
            l2: s.splat(c.l2),
            beta: [s.splat(c.beta1), s.splat(c.beta2)],
            rest: [s.splat((1.0 - c.beta1 as f64) as f32), s.splat((1.0 - c.beta2 as f64) as f32)],
            step: s.splat((c.lr as f64 / c.bias1 as f64) as f32),
            root: s.splat((1.0 / (c.bias2 as f64).sqrt()) as f32),
            eps: s.splat(c.eps),
            keep: s.splat((1.0 - c.lr as f64 * c.weight_decay as f64) as f32),
        }
    }

    /// The new (p, m, v).
    #[inline(always)]
    fn step<S: Simd<V = V>>(&self, s: S, [p, m, v, g]: [V; 4]) -> (V, V, V) {
        let g = s.fma(self.l2, p, s.mul(g, self.grad_scale));
        let mean = s.fma(self.beta[0], m, s.mul(self.rest[0], g));
        let square = s.fma(self.beta[1], v, s.mul(self.rest[1], s.mul(g, g)));
        let delta = s.div(s.mul(self.step, mean), s.fma(s.sqrt(square), self.root, self.eps));
        (s.sub(s.mul(self.keep, p), delta), mean, square)
    }

    #[inline(always)]
    fn block<S: Simd<V = V>>(&self, s: S, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        let (pb, pt) = p.as_chunks_mut::<L>();
        let (mb, mt) = m.as_chunks_mut::<L>();
        let (vb, vt) = v.as_chunks_mut::<L>();
        let (gb, gt) = g.as_chunks::<L>();
        for (((p, m), v), g) in pb.iter_mut().zip(mb).zip(vb).zip(gb) {
            let new = self.step(s, [s.load(p), s.load(m), s.load(v), s.load(g)]);
            s.store(p, new.0);
            s.store(m, new.1);
            s.store(v, new.2);
        }
        let n = pt.len();
        if n > 0 {
            let mut whole = [[0.0; L]; 4];
            for (whole, part) in whole.iter_mut().zip([&*pt, &*mt, &*vt, gt]) {
                whole[..n].copy_from_slice(part);
            }
            let [p, m, v, g] = &whole;
            let new = self.step(s, [s.load(p), s.load(m), s.load(v), s.load(g)]);
            for (part, new) in [(pt, new.0), (mt, new.1), (vt, new.2)] {
                let mut whole = [0.0; L];
                s.store(&mut whole, new);
                part.copy_from_slice(&whole[..n]);
            }
        }
    }
}

simd_fn! {
    fn adam_part(s, arrays: [Stored<'_>; 3], g: &[f32], grad_scale: f32, c: &AdamW, at: usize, rounding: Rounding) {
        let rule = Adam::new(s, grad_scale, c);
        let [mut p, mut m, mut v] = arrays;
        let [pr, mr, vr] = [PARAM, FIRST, SECOND].map(|array| rounding.bits(array, at));
        let [mut pw, mut mw, mut vw] = [[0.0; BLOCK]; 3];
        for (i, g) in g.chunks(BLOCK).enumerate() {
            let r = i * BLOCK..i * BLOCK + g.len();
            rule.block(s, p.open(s, r.clone(), &mut pw), m.open(s, r.clone(), &mut mw), v.open(s, r.clone(), &mut vw), g);
            p.close(s, r.clone(), &pw, pr);
            m.close(s, r.clone(), &mw, mr);
            v.close(s, r, &vw, vr);
        }
    }
}

/// `(p, b)` after a step with momentum.
#[inline(always)]
fn momentum_step<S: Simd>(s: S, [p, b, g]: [S::V; 3], grad_scale: f32, c: &Sgd) -> (S::V, S::V) {
    let g = s.fma(s.splat(c.weight_decay), p, s.mul(s.splat(grad_scale), g));
    let b = s.fma(s.splat(c.momentum), b, g);
    let lr = s.splat(-c.lr);
    match c.nesterov {
        true => (s.fma(s.splat(-(c.lr * c.momentum)), b, s.fma(lr, g, p)), b),
        false => (s.fma(lr, b, p), b),
    }
}

simd_fn! {
    fn momentum_part(s, arrays: [Stored<'_>; 2], g: &[f32], grad_scale: f32, c: &Sgd, at: usize, rounding: Rounding) {
        let [mut p, mut b] = arrays;
        let [pr, br] = [PARAM, FIRST].map(|array| rounding.bits(array, at));
        let [mut pw, mut bw] = [[0.0; BLOCK]; 2];
        for (i, g) in g.chunks(BLOCK).enumerate() {
            let r = i * BLOCK..i * BLOCK + g.len();
            let (ps, bs) = (p.open(s, r.clone(), &mut pw), b.open(s, r.clone(), &mut bw));
            for ((p, b), g) in ps.chunks_mut(L).zip(bs.chunks_mut(L)).zip(g.chunks(L)) {
                let old = [load(s, p), load(s, b), load(s, g)];
                let (new_p, new_b) = momentum_step(s, old, grad_scale, c);
                store(s, p, new_p);
                store(s, b, new_b);
            }
            p.close(s, r.clone(), &pw, pr);
            b.close(s, r, &bw, br);
        }
    }
}
simd_fn! {
    /// Without momentum.
    fn sgd_part(s, p: Stored<'_>, g: &[f32], grad_scale: f32, c: &Sgd, at: usize, rounding: Rounding) {
        let mut p = p;
        let bits = rounding.bits(PARAM, at);
        let mut wide = [0.0; BLOCK];
        let (scale, decay, lr) = (s.splat(grad_scale), s.splat(c.weight_decay), s.splat(-c.lr));
        for (i, g) in g.chunks(BLOCK).enumerate() {
            let r = i * BLOCK..i * BLOCK + g.len();
            for (p, g) in p.open(s, r.clone(), &mut wide).chunks_mut(L).zip(g.chunks(L)) {
                let old = load(s, p);
                store(s, p, s.fma(lr, s.fma(decay, old, s.mul(scale, load(s, g))), old));
            }
            p.close(s, r, &wide, bits);
        }
    }
}

/// Up to sixteen elements; a whole vector without a detour.
#[inline(always)]
fn load<S: Simd>(s: S, x: &[f32]) -> S::V {
    match x.try_into() {
        Ok(x) => s.load(x),
        Err(_) => f32::load_part(s, x),
    }
}

#[inline(always)]
fn store<S: Simd>(s: S, out: &mut [f32], v: S::V) {
    match <&mut [f32; L]>::try_from(&mut *out) {
        Ok(out) => s.store(out, v),
        Err(_) => f32::store_part(s, out, v),
    }
}

impl Cpu {
    /// One step of Adam or AdamW: `g` is multiplied by `grad_scale` first (clipping). All arrays have one length.
    pub fn adamw(&self, p: Out, m: Stored, v: Stored, g: &[f32], grad_scale: f32, c: &AdamW, rounding: Rounding) {
        let n = p.len();
        assert_eq!((n, n, n), (m.len(), v.len(), g.len()), "adamw: lengths of p and of m, v, g");
        let [p, m, v] = [p.into(), m, v].map(SplitStored::new);
        self.each_range(n, |r| {
            // SAFETY: ranges of different chunks do not overlap, and begin at multiples of `ELEMENTS`.
            let arrays = unsafe { [p.part(r.clone()), m.part(r.clone()), v.part(r.clone())] };
            adam_part(self.isa, arrays, &g[r.clone()], grad_scale, c, r.start, rounding);
        });
    }

    /// SGD: `b = momentum·b + g`; `p -= lr·(g + momentum·b)` if `nesterov` else `lr·b`; L2 `weight_decay` is added to `g`,
    /// after it is multiplied by `grad_scale`. Without `b` there is no momentum.
    pub fn sgd(&self, p: Out, b: Option<Stored>, g: &[f32], grad_scale: f32, c: &Sgd, rounding: Rounding) {
        let n = p.len();
        assert_eq!(n, g.len(), "sgd: lengths of p and g");
        let p = SplitStored::new(p.into());
        let Some(b) = b else {
            return self.each_range(n, |r| {
                // SAFETY: as in `adamw`.
                let p = unsafe { p.part(r.clone()) };
                sgd_part(self.isa, p, &g[r.clone()], grad_scale, c, r.start, rounding);
            });
        };
        assert_eq!(n, b.len(), "sgd: momenta for {n} parameters");
        let b = SplitStored::new(b);
        self.each_range(n, |r| {
            // SAFETY: as in `adamw`.
            let arrays = unsafe { [p.part(r.clone()), b.part(r.clone())] };
            momentum_part(self.isa, arrays, &g[r.clone()], grad_scale, c, r.start, rounding);
        });
    }
}
