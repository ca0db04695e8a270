//! Optimizer updates on flat f32 slices, each in one pass over memory.

use crate::Cpu;
use crate::lanes::{L, Simd, Split, map3, simd_fn};

/// The constants of one AdamW step (Loshchilov & Hutter 2019).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Decoupled: `p -= lr · weight_decay · p`.
    pub weight_decay: f32,
    /// `1 - beta1^t` and `1 - beta2^t`.
    pub bias1: f32,
    pub bias2: f32,
}

/// The constants of a step on lanes.
struct Constants<V> {
    grad_scale: V,
    beta: [V; 2],
    rest: [V; 2],
    /// `lr / bias1` and `bias2^-1/2`.
    step: V,
    root: V,
    eps: V,
    /// `1 - lr · weight_decay`.
    keep: V,
}

#[inline(always)]
fn adamw_block<S: Simd>(s: S, p: &mut [f32; L], m: &mut [f32; L], v: &mut [f32; L], g: &[f32; L], c: &Constants<S::V>) {
    let g = s.mul(s.load(g), c.grad_scale);
    let mean = s.fma(c.beta[0], s.load(m), s.mul(c.rest[0], g));
    let square = s.fma(c.beta[1], s.load(v), s.mul(c.rest[1], s.mul(g, g)));
    s.store(m, mean);
    s.store(v, square);
    let delta = s.div(s.mul(c.step, mean), s.fma(s.sqrt(square), c.root, c.eps));
    s.store(p, s.sub(s.mul(c.keep, s.load(p)), delta));
}

simd_fn! {
    fn adamw_chunk(s, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], grad_scale: f32, c: &AdamW) {
        let c = Constants {
            grad_scale: s.splat(grad_scale),
            beta: [s.splat(c.beta1), s.splat(c.beta2)],
            rest: [s.splat((1.0 - c.beta1 as f64) as f32), s.splat((1.0 - c.beta2 as f64) as f32)],
            step: s.splat((c.lr as f64 / c.bias1 as f64) as f32),
            root: s.splat((1.0 / (c.bias2 as f64).sqrt()) as f32),
            eps: s.splat(c.eps),
            keep: s.splat((1.0 - c.lr as f64 * c.weight_decay as f64) as f32),
        };
        let (pb, pt) = p.as_chunks_mut::<L>();
        let (mb, mt) = m.as_chunks_mut::<L>();
        let (vb, vt) = v.as_chunks_mut::<L>();
        let (gb, gt) = g.as_chunks::<L>();
        for (((p, m), v), g) in pb.iter_mut().zip(mb).zip(vb).zip(gb) {
            adamw_block(s, p, m, v, g, &c);
        }
        let n = pt.len();
        if n > 0 {
            let mut whole = [[0.0; L]; 4];
            for (whole, part) in whole.iter_mut().zip([&*pt, &*mt, &*vt, gt]) {
                whole[..n].copy_from_slice(part);
            }
            let [p, m, v, g] = &mut whole;
            adamw_block(s, p, m, v, g, &c);
            pt.copy_from_slice(&p[..n]);
            mt.copy_from_slice(&m[..n]);
            vt.copy_from_slice(&v[..n]);
        }
    }
}
simd_fn! {
    /// `b = momentum·b + g + weight_decay·p`.
    fn momentum_chunk(s, b: &mut [f32], p: &[f32], g: &[f32], grad_scale: f32, momentum: f32, weight_decay: f32) {
        let (scale, momentum, decay) = (s.splat(grad_scale), s.splat(momentum), s.splat(weight_decay));
        map3(s, b, p, g, true, #[inline(always)] |b, p, g| {
            s.fma(momentum, b, s.fma(decay, p, s.mul(scale, g)))
        });
    }
}
simd_fn! {
    /// `p -= lr·(g + weight_decay·p) + along·b`.
    fn sgd_chunk(s, p: &mut [f32], b: &[f32], g: &[f32], grad_scale: f32, lr: f32, along: f32, weight_decay: f32) {
        let (scale, decay) = (s.splat(grad_scale), s.splat(weight_decay));
        let (lr, along) = (s.splat(-lr), s.splat(-along));
        map3(s, p, b, g, true, #[inline(always)] |p, b, g| {
            s.fma(along, b, s.fma(lr, s.fma(decay, p, s.mul(scale, g)), p))
        });
    }
}

impl Cpu {
    /// One step: `g` is multiplied by `grad_scale` first (clipping).
    pub fn adamw(&self, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], grad_scale: f32, c: &AdamW) {
        let n = p.len();
        assert_eq!((n, n, n), (m.len(), v.len(), g.len()), "adamw: lengths of p and of m, v, g");
        let (p, m, v) = (Split::new(p), Split::new(m), Split::new(v));
        self.each_range(n, |r| {
            // SAFETY: ranges of different chunks do not overlap.
            let (p, m, v) = unsafe { (p.part(r.clone()), m.part(r.clone()), v.part(r.clone())) };
            adamw_chunk(self.isa, p, m, v, &g[r], grad_scale, c);
        });
    }

    /// SGD: `b = momentum·b + g`; `p -= lr·(g + momentum·b)` if `nesterov` else `lr·b`; L2 `weight_decay` is added to `g`.
    /// Without momentum `b` is empty.
    pub fn sgd(
        &self,
        p: &mut [f32],
        b: &mut [f32],
        g: &[f32],
        grad_scale: f32,
        lr: f32,
        momentum: f32,
        nesterov: bool,
        weight_decay: f32,
    ) {
        let n = p.len();
        assert_eq!(n, g.len(), "sgd: lengths of p and g");
        assert!(b.len() == n || b.is_empty(), "sgd: {} momenta for {n} parameters", b.len());
        let plain = b.is_empty();
        let (p, b) = (Split::new(p), Split::new(b));
        self.each_range(n, |r| {
            // SAFETY: ranges of different chunks do not overlap.
            let p = unsafe { p.part(r.clone()) };
            let g = &g[r.clone()];
            if plain {
                return sgd_chunk(self.isa, p, g, g, grad_scale, lr, 0.0, weight_decay);
            }
            // SAFETY: as above.
            let b = unsafe { b.part(r) };
            momentum_chunk(self.isa, b, p, g, grad_scale, momentum, weight_decay);
            match nesterov {
                true => sgd_chunk(self.isa, p, b, g, grad_scale, lr, lr * momentum, weight_decay),
                // The gradient is in `b` already.
                false => step_chunk(self.isa, p, b, lr),
            }
        });
    }
}

simd_fn! {
    /// `p -= lr·b`.
    fn step_chunk(s, p: &mut [f32], b: &[f32], lr: f32) {
        let lr = s.splat(-lr);
        map3(s, p, b, b, true, #[inline(always)] |p, b, _| s.fma(lr, b, p));
    }
}
