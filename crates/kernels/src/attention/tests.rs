//! Attention against f64 loops, its gradients against central differences of those, and equal bits for any number of
//! threads.

use super::{AttnShape, Span};
use crate::{Cpu, In, Isa, Out, bf16, f16};

/// The element type of a test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    F32,
    Bf16,
    F16,
}

/// Inputs of one test, values as the kernel sees them (already rounded to the test's type).
struct Case {
    shape: AttnShape,
    spans: Vec<Span>,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    dout: Vec<f64>,
}

pub(super) fn random(n: usize, seed: u64, kind: Kind) -> Vec<f64> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let y = (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        f64::from(match kind {
            Kind::F32 => y,
            Kind::Bf16 => bf16::from_f32(y).to_f32(),
            Kind::F16 => f16::from_f32(y).to_f32(),
        })
    };
    (0..n).map(|_| next()).collect()
}

impl Case {
    fn new(shape: AttnShape, lengths: &[(usize, usize)], kind: Kind) -> Case {
        let (mut spans, mut rows, mut kv) = (Vec::new(), 1, 2);
        for &(q_len, kv_len) in lengths {
            spans.push(Span { q_start: rows, q_len, kv_start: kv, kv_len });
            rows += q_len;
            kv += kv_len;
        }
        // Rows before the first and after the last span belong to nobody.
        let (rows, kv) = (rows + 1, kv + 1);
        let (wq, wk) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        Case {
            q: random(rows * wq, 1, kind),
            k: random(kv * wk, 2, kind),
            v: random(kv * wk, 3, kind),
            dout: random(rows * wq, 4, kind),
            shape,
            spans,
        }
    }

    /// Calls `f(row of q, row of k, probability, key head)` for all pairs, and `g(row of q, lse)` for all queries.
    fn softmax(&self, q: &[f64], k: &[f64], mut f: impl FnMut(usize, usize, f64), mut g: impl FnMut(usize, f64)) {
        let AttnShape { heads: h, kv_heads, head_dim: d, scale, causal, window } = self.shape;
        for span in &self.spans {
            for i in 0..span.q_len {
                let position = (span.kv_len + i) as i64 - span.q_len as i64;
                for head in 0..h {
                    let row = (span.q_start + i) * h + head;
                    let seen: Vec<_> = (0..span.kv_len)
                        .filter(|j| !causal || *j as i64 <= position)
                        .filter(|j| window.is_none_or(|w| *j as i64 > position - w as i64))
                        .map(|j| {
                            let key = (span.kv_start + j) * kv_heads + head / (h / kv_heads);
                            let dot: f64 = (0..d).map(|c| q[row * d + c] * k[key * d + c]).sum();
                            (key, dot * scale as f64)
                        })
                        .collect();
                    let top = seen.iter().fold(f64::NEG_INFINITY, |a, b| a.max(b.1));
                    let lse = top + seen.iter().map(|x| (x.1 - top).exp()).sum::<f64>().ln();
                    g(row, if seen.is_empty() { f64::NEG_INFINITY } else { lse });
                    seen.iter().for_each(|(key, x)| f(row, *key, (x - lse).exp()));
                }
            }
        }
    }

    fn forward(&self, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
        let d = self.shape.head_dim;
        let mut out = vec![0.0; q.len()];
        self.softmax(q, k, |row, key, p| (0..d).for_each(|c| out[row * d + c] += p * v[key * d + c]), |_, _| ());
        out
    }

    /// Gradients by the textbook formulas, checked against central differences in `formulas_are_derivatives`.
    fn backward(&self) -> [Vec<f64>; 3] {
        let d = self.shape.head_dim;
        let out = self.forward(&self.q, &self.k, &self.v);
        let mut dq = vec![0.0; self.q.len()];
        let (mut dk, mut dv) = (vec![0.0; self.k.len()], vec![0.0; self.k.len()]);
        let each = |row: usize, key: usize, p: f64| {
            let head = |x: &[f64], i: usize| x[i * d..(i + 1) * d].to_vec();
            let (dy, y, v) = (head(&self.dout, row), head(&out, row), head(&self.v, key));
            let ds = p * (0..d).map(|c| dy[c] * (v[c] - y[c])).sum::<f64>() * self.shape.scale as f64;
            for c in 0..d {
                dv[key * d + c] += p * dy[c];
                dk[key * d + c] += ds * self.q[row * d + c];
                dq[row * d + c] += ds * self.k[key * d + c];
            }
        };
        self.softmax(&self.q, &self.k, each, |_, _| ());
        [dq, dk, dv]
    }
}

/// What the kernels return, as f64: out, lse, dq, dk, dv.
fn run(cpu: &Cpu, case: &Case, kind: Kind) -> [Vec<f64>; 5] {
    let lse_len = case.q.len() / case.shape.head_dim;
    let mut lse = vec![0.0f32; lse_len];
    let widen = |x: &[f32]| x.iter().map(|x| *x as f64).collect::<Vec<_>>();
    macro_rules! go {
        ($t:ty, $in:path, $out:path, $from:expr, $to:expr) => {{
            let cast = |x: &[f64]| x.iter().map(|x| $from(*x as f32)).collect::<Vec<$t>>();
            let (q, k, v, dout) = (cast(&case.q), cast(&case.k), cast(&case.v), cast(&case.dout));
            let nan = |n: usize| vec![$from(f32::NAN); n];
            // Rows of no span keep what was there: zeros, so that they can be compared.
            let (mut out, mut dq) = (vec![$from(0.0); q.len()], nan(q.len()));
            let (mut dk, mut dv) = (nan(k.len()), nan(k.len()));
            cpu.attention($out(&mut out), &mut lse, $in(&q), $in(&k), $in(&v), &case.spans, &case.shape);
            cpu.attention_bwd(
                $out(&mut dq),
                $out(&mut dk),
                $out(&mut dv),
                $in(&dout),
                $in(&out),
                &lse,
                $in(&q),
                $in(&k),
                $in(&v),
                &case.spans,
                &case.shape,
            );
            let back = |x: Vec<$t>| x.into_iter().map(|x| $to(x) as f64).collect::<Vec<f64>>();
            [back(out), widen(&lse), back(dq), back(dk), back(dv)]
        }};
    }
    match kind {
        Kind::F32 => go!(f32, In::F32, Out::F32, |x: f32| x, |x: f32| x),
        Kind::Bf16 => go!(bf16, In::Bf16, Out::Bf16, bf16::from_f32, |x: bf16| x.to_f32()),
        Kind::F16 => go!(f16, In::F16, Out::F16, f16::from_f32, |x: f16| x.to_f32()),
    }
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, causal: bool, window: Option<usize>) -> AttnShape {
    AttnShape { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), causal, window }
}

/// Shapes with every edge: short, odd, empty, more keys than queries, fewer keys than queries, windows, groups.
fn cases() -> Vec<(AttnShape, Vec<(usize, usize)>)> {
    vec![
        (shape(1, 1, 1, true, None), vec![(1, 1), (7, 7)]),
        (shape(3, 1, 16, true, None), vec![(5, 5), (0, 0), (33, 33), (0, 4), (3, 0)]),
        (shape(2, 2, 7, false, None), vec![(9, 20), (70, 30)]),
        (shape(6, 2, 33, true, Some(5)), vec![(40, 40), (2, 90), (70, 100)]),
        (shape(2, 1, 80, true, None), vec![(130, 130), (65, 129)]),
        (shape(9, 3, 64, true, None), vec![(64, 64), (1, 300), (100, 290)]),
        (shape(2, 2, 96, true, Some(64)), vec![(200, 200)]),
        (shape(9, 3, 96, true, None), vec![(70, 70), (1, 131), (3, 0)]),
        (shape(5, 1, 96, false, Some(40)), vec![(33, 70), (2, 1)]),
        (shape(4, 1, 128, false, None), vec![(66, 70)]),
        (shape(7, 1, 128, true, None), vec![(37, 101)]),
        (shape(2, 1, 256, true, Some(100)), vec![(80, 300)]),
        (shape(2, 1, 64, true, None), vec![(600, 600), (20, 10)]),
        (shape(8, 1, 24, true, None), vec![(3, 700), (1, 1), (1, 65), (2, 1100)]),
        (shape(2, 2, 16, true, Some(700)), vec![(1, 1500)]),
        (shape(2, 1, 16, false, Some(30)), vec![(40, 90), (1, 90)]),
    ]
}

/// Largest difference, relative to the largest expected value.
fn error(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let size = want.iter().filter(|x| x.is_finite()).fold(1e-30f64, |a, b| a.max(b.abs()));
    got.iter().zip(want).fold(0.0, |worst: f64, (a, b)| {
        let e = if a == b { 0.0 } else { (a - b).abs() / size };
        if e.is_nan() { f64::INFINITY } else { worst.max(e) }
    })
}

#[test]
fn attention_agrees_with_f64_on_every_table() {
    for (shape, lengths) in cases() {
        for kind in [Kind::F32, Kind::Bf16, Kind::F16] {
            let case = Case::new(shape, &lengths, kind);
            let mut lse = vec![0.0; case.q.len() / shape.head_dim];
            case.softmax(&case.q, &case.k, |_, _, _| (), |row, x| lse[row] = x);
            let [dq, dk, dv] = case.backward();
            let want = [case.forward(&case.q, &case.k, &case.v), lse, dq, dk, dv];
            // f32: scores are sums of d products and outputs sums of n <= 1500 of them, each off by half a unit of 2^-24 per
            // term at worst, in practice by its root; exponentials add two units. bf16: inputs are exact; probabilities
            // and results are rounded to 2^-8 each at worst, and so is dS. f16: results alone are rounded, to 2^-11; the
            // gradients also see an output that was.
            let bound = match kind {
                Kind::F32 => 2e-5,
                Kind::Bf16 => 3.0 / 256.0,
                Kind::F16 => 2.0 / 2048.0,
            };
            for isa in Isa::available() {
                let one = run(&Cpu::with_isa(1, isa), &case, kind);
                for (i, name) in ["out", "lse", "dq", "dk", "dv"].iter().enumerate() {
                    let e = error(&one[i], &want[i]);
                    let bound = if i == 1 { 2e-5 } else { bound };
                    assert!(e < bound, "{name} {shape:?} {lengths:?} {isa:?} {kind:?}: {e:.2e}");
                }
                for threads in [2, 3] {
                    let more = run(&Cpu::with_isa(threads, isa), &case, kind);
                    let bits = |x: &[Vec<f64>; 5]| x.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&one), bits(&more), "{shape:?} {isa:?} {kind:?}: {threads} threads");
                }
            }
        }
    }
}

/// The reference's own gradients: central differences of its forward pass in f64.
#[test]
fn formulas_are_derivatives() {
    for (shape, lengths) in
        [(shape(2, 1, 3, true, Some(3)), vec![(4, 6), (3, 2)]), (shape(2, 2, 2, false, None), vec![(3, 5)])]
    {
        let case = Case::new(shape, &lengths, Kind::F32);
        let grads = case.backward();
        let mut inputs = [case.q.clone(), case.k.clone(), case.v.clone()];
        for which in 0..3 {
            for i in 0..inputs[which].len() {
                let x = inputs[which][i];
                let mut at = |to: f64| {
                    inputs[which][i] = to;
                    let out = case.forward(&inputs[0], &inputs[1], &inputs[2]);
                    out.iter().zip(&case.dout).map(|(a, b)| a * b).sum::<f64>()
                };
                let slope = (at(x + 1e-5) - at(x - 1e-5)) / 2e-5;
                at(x);
                assert!((slope - grads[which][i]).abs() < 1e-8, "input {which}[{i}]: {slope} {}", grads[which][i]);
            }
        }
    }
}

#[test]
fn scratch_grows_with_the_rows_of_a_sequence() {
    let shape = AttnShape { heads: 9, kv_heads: 3, head_dim: 64, scale: 1.0, causal: true, window: None };
    let bytes = |threads: usize, rows: usize| Cpu::new(threads).attention_workspace_bytes(rows, &shape);
    // A sum of 64 f32 for each row of 9 + 3 + 3 heads, and each thread's tiles.
    let of_a_thread = bytes(2, 5000) - bytes(1, 5000);
    assert_eq!(bytes(1, 16_384) - of_a_thread, 16_384 * 15 * 64 * 4);
    assert!(of_a_thread > 0 && of_a_thread < 2 << 20 && bytes(3, 0) == 0);
}
