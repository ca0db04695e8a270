//! Cross-entropy, soft cap and optimizer steps.

use ounce_kernels::{AdamW, Cpu, Isa, Out, Rounding, Sgd, Stored};

use crate::{check, random, rows, wide, zip};

#[test]
fn cross_entropy_and_its_gradient() {
    for (m, v) in [(0, 3), (1, 1), (5, 7), (3, 33), (4, 2048), (3, 5001)] {
        for spread in [1.0, 30.0] {
            check(&format!("cross-entropy {m}x{v}"), 16.0, |cpu, _| {
                let logits: Vec<f32> = random(m * v, 1).iter().map(|x| x * spread).collect();
                let targets: Vec<u32> = (0..m).map(|i| (i * 31 % v) as u32).collect();
                let weights: Vec<f32> = (0..m).map(|i| if i == 1 { 0.0 } else { 0.5 + i as f32 }).collect();
                let (mut loss, mut lse) = (vec![0.0; m], vec![0.0; m]);
                cpu.cross_entropy(&mut loss, &mut lse, &logits, &targets, m, v);
                let mut grad = logits.clone();
                cpu.cross_entropy_bwd(&mut grad, &lse, &targets, &weights, m, v);
                let x = wide(&logits);
                let sum = |x: &[f64]| {
                    let top = x.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
                    top + x.iter().map(|x| (x - top).exp()).sum::<f64>().ln()
                };
                let want_grad = rows(&x, v, |i, x| {
                    let lse = sum(x);
                    let hit = |j: usize| (j == targets[i] as usize) as u8 as f64;
                    x.iter().enumerate().map(|(j, x)| weights[i] as f64 * ((x - lse).exp() - hit(j))).collect()
                });
                vec![
                    (wide(&lse), rows(&x, v, |_, x| vec![sum(x)])),
                    (wide(&loss), rows(&x, v, |i, x| vec![sum(x) - x[targets[i] as usize]])),
                    (wide(&grad), want_grad),
                ]
            });
        }
    }
}

#[test]
fn masked_logits_have_no_probability() {
    for isa in Isa::available() {
        let cpu = Cpu::with_isa(1, isa);
        let mut x = vec![f32::NEG_INFINITY; 5000];
        (x[4500], x[4999]) = (3.0, 3.0);
        let (mut loss, mut lse) = ([0.0], [0.0]);
        cpu.cross_entropy(&mut loss, &mut lse, &x, &[4500], 1, 5000);
        assert!((loss[0] - 2f32.ln()).abs() < 1e-6, "{}", loss[0]);
        cpu.cross_entropy_bwd(&mut x, &lse, &[4500], &[1.0], 1, 5000);
        assert_eq!((x[0], x[17]), (0.0, 0.0));
        assert!((x[4500] + 0.5).abs() < 1e-6 && (x[4999] - 0.5).abs() < 1e-6);
    }
}

#[test]
fn softcap_is_a_tanh() {
    check("softcap", 1e-3, |cpu, _| {
        let x: Vec<f32> = random(40001, 1).iter().map(|x| x * x * x * 20.0).collect();
        let mut y = x.clone();
        cpu.softcap(&mut y, 30.0);
        vec![(wide(&y), wide(&x).iter().map(|x| 30.0 * (x / 30.0).tanh()).collect())]
    });
}

#[test]
fn optimizer_steps() {
    for n in [0, 1, 17, 40000] {
        check(&format!("adamw {n}"), 1.0, |cpu, _| {
            let (mut p, mut m, g) = (random(n, 1), random(n, 2), random(n, 4));
            let mut v: Vec<f32> = random(n, 3).iter().map(|x| x.abs()).collect();
            let c = AdamW {
                lr: 0.01,
                beta1: 0.9,
                beta2: 0.99,
                eps: 1e-8,
                weight_decay: 0.1,
                l2: 0.0,
                bias1: 0.19,
                bias2: 0.02,
            };
            let before = (wide(&p), wide(&m), wide(&v));
            let moments = (Stored::F32(&mut m), Stored::F32(&mut v));
            cpu.adamw(Out::F32(&mut p), moments.0, moments.1, &g, 0.5, &c, Rounding::default());
            let f = |x: f32| x as f64;
            let g: Vec<f64> = g.iter().map(|g| f(*g) * 0.5).collect();
            let m2 = zip([&before.1, &g], |[m, g]| f(c.beta1) * m + (1.0 - f(c.beta1)) * g);
            let v2 = zip([&before.2, &g], |[v, g]| f(c.beta2) * v + (1.0 - f(c.beta2)) * g * g);
            let p2 = zip([&before.0, &m2, &v2], |[p, m, v]| {
                p - f(c.lr) * f(c.weight_decay) * p - f(c.lr) * (m / f(c.bias1)) / ((v / f(c.bias2)).sqrt() + f(c.eps))
            });
            vec![(wide(&p), p2), (wide(&m), m2), (wide(&v), v2)]
        });
        for (momentum, nesterov) in [(None, false), (Some(0.9f32), false), (Some(0.9), true)] {
            check(&format!("sgd {n} {momentum:?} {nesterov}"), 4.0, |cpu, _| {
                let (mut p, g) = (random(n, 1), random(n, 2));
                let mut b = if momentum.is_some() { random(n, 3) } else { Vec::new() };
                let (p0, b0) = (wide(&p), if b.is_empty() { vec![0.0; n] } else { wide(&b) });
                let mu = momentum.unwrap_or(0.0);
                let stored = momentum.map(|_| Stored::F32(&mut b));
                let c = Sgd { lr: 0.1, momentum: mu, nesterov, weight_decay: 0.01 };
                cpu.sgd(Out::F32(&mut p), stored, &g, 0.5, &c, Rounding::default());
                let g = zip([&wide(&g), &p0], |[g, p]| 0.5 * g + 0.01f32 as f64 * p);
                let b2 = zip([&b0, &g], |[b, g]| mu as f64 * b + g);
                let step = zip([&g, &b2], |[g, b]| if nesterov { g + mu as f64 * b } else { b });
                let p2 = zip([&p0, &step], |[p, s]| p - 0.1f32 as f64 * s);
                let b2 = if b.is_empty() { Vec::new() } else { b2 };
                vec![(wide(&p), p2), (wide(&b), b2)]
            });
        }
    }
}
