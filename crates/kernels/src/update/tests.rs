//! Steps with every storage of parameters and moments: against the rule in f64 with the rounding modelled, on every
//! instruction set; the same bits for any number of threads and any cut at blocks.

use super::*;
use crate::random::{number, row_keys};
use crate::{Isa, bf16};

simd_fn! { fn decode(s, map: Map8, out: &mut [f32], codes: &[u8], absmax: f32) { map.decode(s, out, codes, absmax) } }

/// An array in one of its storages.
#[derive(Clone, Debug, PartialEq)]
enum Array {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    Block8(Map8, Vec<u8>, Vec<f32>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    F32,
    Bf16,
    Block8(Map8),
}

impl Array {
    fn zeros(kind: Kind, n: usize) -> Array {
        match kind {
            Kind::F32 => Array::F32(vec![0.0; n]),
            Kind::Bf16 => Array::Bf16(vec![bf16::ZERO; n]),
            Kind::Block8(map) => Array::Block8(map, vec![map.zero(); n], vec![0.0; n.div_ceil(BLOCK)]),
        }
    }
    fn params(kind: Kind, n: usize) -> Array {
        let value = |i: usize| (0.7 * i as f32 + 0.3).sin();
        match kind {
            Kind::F32 => Array::F32((0..n).map(value).collect()),
            _ => Array::Bf16((0..n).map(|i| bf16::from_f32(value(i))).collect()),
        }
    }
    fn stored(&mut self, r: std::ops::Range<usize>) -> Stored<'_> {
        match self {
            Array::F32(x) => Stored::F32(&mut x[r]),
            Array::Bf16(x) => Stored::Bf16(&mut x[r]),
            Array::Block8(map, codes, absmax) => {
                let blocks = r.start / BLOCK..r.end.div_ceil(BLOCK);
                Stored::Block8 { map: *map, codes: &mut codes[r], absmax: &mut absmax[blocks] }
            }
        }
    }
    fn out(&mut self, r: std::ops::Range<usize>) -> Out<'_> {
        match self {
            Array::F32(x) => Out::F32(&mut x[r]),
            Array::Bf16(x) => Out::Bf16(&mut x[r]),
            Array::Block8(..) => panic!("parameters are f32 or bf16"),
        }
    }
    fn f64(&self) -> Vec<f64> {
        match self {
            Array::F32(x) => x.iter().map(|x| f64::from(*x)).collect(),
            Array::Bf16(x) => x.iter().map(|x| x.to_f64()).collect(),
            Array::Block8(map, codes, absmax) => {
                let mut wide = vec![0.0; codes.len()];
                for ((wide, codes), &absmax) in wide.chunks_mut(BLOCK).zip(codes.chunks(BLOCK)).zip(absmax) {
                    decode(Isa::Portable, *map, wide, codes, absmax);
                }
                wide.iter().map(|x| f64::from(*x)).collect()
            }
        }
    }

    /// Whether this holds `want`, rounded as its storage rounds; `error` is that of the f32 arithmetic before.
    fn assert_holds(&self, want: &[f64], array: u64, rounding: Rounding, error: impl Fn(f64) -> f64, what: &str) {
        let got = self.f64();
        assert_eq!(got.len(), want.len(), "{what}");
        for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
            let e = error(want);
            let fits = match self {
                Array::F32(_) => (got - want).abs() <= e,
                Array::Bf16(_) => {
                    let place = (rounding.first as u32).wrapping_add(i as u32);
                    let random = number(row_keys(rounding.key, array), place) >> 16;
                    (rounded(want - e, random)..=rounded(want + e, random)).contains(&got)
                }
                Array::Block8(map, _, absmax) => {
                    let top = f64::from(absmax[i / BLOCK]);
                    // Half the distance between the two values around it; where nothing may become zero, all of it.
                    let share = want.abs() / top;
                    let gap = match map {
                        Map8::Signed => gap(share, 1.0).max(if want < 0.0 { 0.016 } else { 0.0 }),
                        Map8::Unsigned => gap(share, 0.5).max(6.6e-7),
                    };
                    (got - want).abs() <= top * gap / 2.0 * 1.001 + 2.0 * e
                }
            };
            assert!(fits, "{what} [{i}]: {got} for {want}");
        }
        if let Array::Block8(_, _, absmax) = self {
            for (want, &absmax) in want.chunks(BLOCK).zip(absmax) {
                let top = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
                assert!((f64::from(absmax) - top).abs() <= error(top), "{what}: {absmax} for {top}");
            }
        }
    }
}

/// `y` between two numbers of eight significant bits: the upper one if the distance from the lower, in 65536ths, and `random`
/// reach 65536.
fn rounded(y: f64, random: u32) -> f64 {
    if y == 0.0 {
        return 0.0;
    }
    let unit = 2f64.powi((y.abs().log2().floor() as i32).max(-126) - 7);
    let (low, part) = ((y.abs() / unit).floor(), (y.abs() / unit).fract());
    let up = (part * 65536.0).floor() + f64::from(random) >= 65536.0;
    y.signum() * (low + f64::from(u8::from(up))) * unit
}

/// Distance of neighbouring values of the 8-bit map around `share`; `scale` is 1 with signs and 1/2 without.
fn gap(share: f64, scale: f64) -> f64 {
    let decade = share.max(1e-30).log10().ceil().clamp(-6.0, 0.0);
    // 0.9 · 10^decade into 2^(6 + decade) parts; over a border of decades the distance is at most that of the upper.
    0.9 * 10f64.powf(decade) / 2f64.powf(6.0 + decade) * scale * 1.25
}

fn gradients(n: usize, step: usize) -> Vec<f32> {
    // Magnitudes over four decades, and elements that never get one.
    let size = |i: usize| if i.is_multiple_of(13) { 0.0 } else { 10f32.powi(-((i % 5) as i32)) };
    (0..n).map(|i| (1.3 * i as f32 + 0.9 * step as f32).cos() * size(i)).collect()
}

fn bound(floor: f64) -> impl Fn(f64) -> f64 {
    move |want| 40.0 / 16777216.0 * want.abs().max(floor)
}

const ADAM: AdamW =
    AdamW { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-6, weight_decay: 0.1, l2: 0.03, bias1: 0.19, bias2: 0.02 };

fn kinds() -> Vec<(Kind, Kind, Kind)> {
    let mut all = Vec::new();
    for p in [Kind::F32, Kind::Bf16] {
        all.push((p, Kind::F32, Kind::F32));
        all.push((p, Kind::Bf16, Kind::Bf16));
        all.push((p, Kind::Block8(Map8::Signed), Kind::Block8(Map8::Unsigned)));
    }
    all
}

fn rounding(step: usize) -> Rounding {
    Rounding { key: 99 + step as u64, first: 12_345 }
}

#[test]
fn adam_steps_are_the_rule_rounded_as_the_storage_rounds() {
    for isa in Isa::available() {
        let cpu = Cpu::with_isa(2, isa);
        for (pk, mk, vk) in kinds() {
            for n in [0, 1, 17, 300, 40_000] {
                let mut p = Array::params(pk, n);
                let (mut m, mut v) = (Array::zeros(mk, n), Array::zeros(vk, n));
                for step in 1..=4 {
                    let g = gradients(n, step);
                    let (p0, m0, v0) = (p.f64(), m.f64(), v.f64());
                    let r = 0..n;
                    cpu.adamw(p.out(r.clone()), m.stored(r.clone()), v.stored(r), &g, 0.5, &ADAM, rounding(step));
                    let f = |x: f32| f64::from(x);
                    let c = ADAM;
                    let (mut p1, mut m1, mut v1) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
                    for i in 0..n {
                        let g = f(g[i]) * 0.5 + f(c.l2) * p0[i];
                        m1[i] = f(c.beta1) * m0[i] + (1.0 - f(c.beta1)) * g;
                        v1[i] = f(c.beta2) * v0[i] + (1.0 - f(c.beta2)) * g * g;
                        let delta = m1[i] / f(c.bias1) / ((v1[i] / f(c.bias2)).sqrt() + f(c.eps));
                        p1[i] = p0[i] - f(c.lr) * f(c.weight_decay) * p0[i] - f(c.lr) * delta;
                    }
                    let what = |array| format!("{isa:?} {pk:?} {mk:?} n {n} step {step}: {array}");
                    m.assert_holds(&m1, FIRST, rounding(step), bound(0.3), &what("m"));
                    v.assert_holds(&v1, SECOND, rounding(step), bound(1e-5), &what("v"));
                    p.assert_holds(&p1, PARAM, rounding(step), bound(1.0), &what("p"));
                }
            }
        }
    }
}

#[test]
fn sgd_steps_are_the_rule_rounded_as_the_storage_rounds() {
    for isa in Isa::available() {
        let cpu = Cpu::with_isa(2, isa);
        for ((pk, bk, _), momentum) in kinds().into_iter().flat_map(|k| [(k, false), (k, true)]) {
            for (n, nesterov) in [(0, false), (17, true), (300, false), (40_000, true)] {
                let c = Sgd { lr: 0.1, momentum: if momentum { 0.9 } else { 0.0 }, nesterov, weight_decay: 0.01 };
                let (mut p, mut b) = (Array::params(pk, n), Array::zeros(bk, n));
                for step in 1..=3 {
                    let g = gradients(n, step);
                    let (p0, b0) = (p.f64(), b.f64());
                    let stored = momentum.then(|| b.stored(0..n));
                    cpu.sgd(p.out(0..n), stored, &g, 0.5, &c, rounding(step));
                    let (mut p1, mut b1) = (vec![0.0; n], vec![0.0; n]);
                    for i in 0..n {
                        let g = f64::from(g[i]) * 0.5 + f64::from(c.weight_decay) * p0[i];
                        b1[i] = f64::from(c.momentum) * b0[i] + g;
                        let along = if momentum && !nesterov { b1[i] } else { g + f64::from(c.momentum) * b1[i] };
                        p1[i] = p0[i] - f64::from(c.lr) * if momentum { along } else { g };
                    }
                    let what = format!("{isa:?} {pk:?} {bk:?} {momentum} n {n} step {step}");
                    p.assert_holds(&p1, PARAM, rounding(step), bound(1.0), &what);
                    if momentum {
                        b.assert_holds(&b1, FIRST, rounding(step), bound(1.0), &what);
                    }
                }
            }
        }
    }
}

#[test]
fn bits_depend_neither_on_threads_nor_on_the_cut() {
    // Several parts for the threads, and no multiple of a block.
    let n = 70_001;
    for isa in Isa::available() {
        for (pk, mk, vk) in kinds() {
            let run = |threads: usize, cuts: &[usize]| {
                let cpu = Cpu::with_isa(threads, isa);
                let mut p = Array::params(pk, n);
                let (mut m, mut v) = (Array::zeros(mk, n), Array::zeros(vk, n));
                for step in 1..=3 {
                    let g = gradients(n, step);
                    for pair in cuts.windows(2) {
                        let r = pair[0]..pair[1];
                        let at = Rounding { first: r.start as u64, ..rounding(step) };
                        let (p, m, v) = (p.out(r.clone()), m.stored(r.clone()), v.stored(r.clone()));
                        cpu.adamw(p, m, v, &g[r], 0.5, &ADAM, at);
                    }
                }
                (p, m, v)
            };
            let whole = run(1, &[0, n]);
            assert!(whole == run(2, &[0, n]) && whole == run(3, &[0, n]), "{isa:?} {pk:?} {mk:?}: threads");
            let cut = run(2, &[0, 3 * BLOCK, 100 * BLOCK, 101 * BLOCK, n]);
            assert!(whole == cut, "{isa:?} {pk:?} {mk:?}: cut");
        }
    }
}

/// Other keys, and other arrays of one step, are rounded by other numbers.
#[test]
fn every_step_and_array_has_its_own_numbers() {
    let n = 4096;
    let cpu = Cpu::with_isa(1, Isa::Portable);
    let run = |key: u64| {
        let mut p = Array::params(Kind::Bf16, n);
        let (mut m, mut v) = (Array::zeros(Kind::Bf16, n), Array::zeros(Kind::Bf16, n));
        let g = gradients(n, 1);
        let at = Rounding { key, first: 0 };
        cpu.adamw(p.out(0..n), m.stored(0..n), v.stored(0..n), &g, 1.0, &ADAM, at);
        [p, m, v].map(|array| array.f64())
    };
    assert_eq!(run(1), run(1));
    for (a, b) in run(1).iter().zip(&run(2)) {
        let differ = a.iter().zip(b).filter(|(a, b)| a != b).count();
        assert!((n / 5..n * 3 / 5).contains(&differ), "{differ} of {n}");
    }
    let bits = |array: u64| -> Vec<u32> { (0..64).map(|i| number(row_keys(1, array), i) >> 16).collect() };
    assert!(bits(PARAM) != bits(FIRST) && bits(FIRST) != bits(SECOND) && bits(PARAM) != bits(SECOND));
}
