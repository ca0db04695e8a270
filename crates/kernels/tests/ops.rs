//! Every kernel that is not a matrix product or attention: against plain f64 loops, on every instruction set, for both
//! element types, at odd sizes, and with equal bits for 1, 2 and 3 threads.

use ounce_kernels::{Act, AdamW, Cpu, In, Isa, Out, bf16};

/// Rows and columns, with nothing, with less than a vector, with a tail, and with several chunks.
const SIZES: [(usize, usize); 8] = [(0, 5), (1, 1), (3, 7), (5, 33), (2, 64), (70, 130), (40, 576), (3, 20000)];

const ACTS: [Act; 4] = [Act::Silu, Act::GeluTanh, Act::Gelu, Act::Relu];

/// Relative errors: a sum of n terms in f32 is off by at most n · 2^-24 of the sum of their sizes; sixteen lanes and blocks
/// leave less than 40 · 2^-24 here. A bf16 result is rounded to 2^-8.
const F32: f64 = 40.0 / 16777216.0;
const BF16: f64 = 1.01 / 256.0;

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut x = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    };
    (0..n).map(|_| next()).collect()
}

/// Activations of either type.
#[derive(Clone, Debug)]
enum Buffer {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Buffer {
    fn new(x: &[f32], half: bool) -> Buffer {
        if half { Buffer::Bf16(x.iter().map(|x| bf16::from_f32(*x)).collect()) } else { Buffer::F32(x.to_vec()) }
    }
    fn random(n: usize, seed: u64, half: bool) -> Buffer {
        Buffer::new(&random(n, seed), half)
    }
    fn get(&self) -> In<'_> {
        match self {
            Buffer::F32(x) => In::F32(x),
            Buffer::Bf16(x) => In::Bf16(x),
        }
    }
    fn set(&mut self) -> Out<'_> {
        match self {
            Buffer::F32(x) => Out::F32(x),
            Buffer::Bf16(x) => Out::Bf16(x),
        }
    }
    fn f64(&self) -> Vec<f64> {
        match self {
            Buffer::F32(x) => x.iter().map(|x| *x as f64).collect(),
            Buffer::Bf16(x) => x.iter().map(|x| x.to_f64()).collect(),
        }
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| *x as f64).collect()
}

/// Runs `kernel` on every table, for both types and for 1, 2 and 3 threads. `kernel` returns pairs of a result and what it
/// should be; differences may be `bound` of the larger of the expected value and `floor`.
#[track_caller]
fn check(name: &str, floor: f64, kernel: impl Fn(&Cpu, bool) -> Vec<(Vec<f64>, Vec<f64>)>) {
    for isa in Isa::available() {
        for half in [false, true] {
            let bound = if half { BF16 + F32 } else { F32 };
            let one = kernel(&Cpu::with_isa(1, isa), half);
            for (part, (got, want)) in one.iter().enumerate() {
                assert_eq!(got.len(), want.len(), "{name} {isa:?}: length of result {part}");
                for (i, (a, b)) in got.iter().zip(want).enumerate() {
                    let fits = (a - b).abs() <= bound * b.abs().max(floor);
                    assert!(fits, "{name} {isa:?} bf16 {half}, result {part}[{i}]: {a} instead of {b}");
                }
            }
            for threads in [2, 3] {
                let more = kernel(&Cpu::with_isa(threads, isa), half);
                let bits = |x: &[(Vec<f64>, Vec<f64>)]| {
                    x.iter().flat_map(|x| x.0.iter().map(|x| x.to_bits()).collect::<Vec<_>>()).collect::<Vec<_>>()
                };
                assert_eq!(bits(&one), bits(&more), "{name} {isa:?} bf16 {half}: {threads} threads");
            }
        }
    }
}

/// The error function by its Taylor series (small) and the continued fraction of erfc (large), to 1e-14.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 2.5 {
        let (mut term, mut sum) = (a, a);
        for n in 1..80 {
            term *= -a * a / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let tail = (1..200).rev().fold(a, |f, n| a + n as f64 / 2.0 / f);
        1.0 - (-a * a).exp() / tail / std::f64::consts::PI.sqrt()
    };
    value * x.signum()
}

fn act(act: Act, x: f64) -> f64 {
    match act {
        Act::Silu => x / (1.0 + (-x).exp()),
        Act::GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
        Act::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Act::Relu => x.max(0.0),
    }
}

/// The derivative by central differences of the f64 reference.
fn slope(a: Act, x: f64) -> f64 {
    if a == Act::Relu {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    (act(a, x + 1e-4) - act(a, x - 1e-4)) / 2e-4
}

fn zip<const N: usize>(x: [&[f64]; N], f: impl Fn([f64; N]) -> f64) -> Vec<f64> {
    (0..x[0].len()).map(|i| f(std::array::from_fn(|j| x[j][i]))).collect()
}

#[test]
fn activations_and_their_gradients() {
    for (m, c) in SIZES {
        let n = m * c;
        for a in ACTS {
            check(&format!("{a:?} {m}x{c}"), 1.0, |cpu, half| {
                let new = |seed| Buffer::random(n, seed, half);
                let (x, up, dy) = (new(1), new(2), new(3));
                let (mut y, mut dx, mut z, mut dgate, mut dup) = (new(4), new(4), new(4), new(4), new(4));
                cpu.act(y.set(), x.get(), a);
                cpu.act_bwd(dx.set(), dy.get(), x.get(), a);
                cpu.glu(z.set(), x.get(), up.get(), a);
                cpu.glu_bwd(dgate.set(), dup.set(), dy.get(), x.get(), up.get(), a);
                let (x, up, dy) = (x.f64(), up.f64(), dy.f64());
                vec![
                    (y.f64(), zip([&x], |[x]| act(a, x))),
                    (dx.f64(), zip([&dy, &x], |[dy, x]| dy * slope(a, x))),
                    (z.f64(), zip([&x, &up], |[x, up]| act(a, x) * up)),
                    (dgate.f64(), zip([&dy, &x, &up], |[dy, x, up]| dy * up * slope(a, x))),
                    (dup.f64(), zip([&dy, &x], |[dy, x]| dy * act(a, x))),
                ]
            });
        }
    }
}

#[test]
fn activations_far_from_zero() {
    let x = [-200.0, -87.0, -30.0, -10.0, -5.5, -1e-3, -0.0, 0.0, 1e-30, 5.5, 12.0, 90.0, 3e38];
    for isa in Isa::available() {
        let cpu = Cpu::with_isa(1, isa);
        for a in ACTS {
            let mut y = vec![0.0; x.len()];
            cpu.act(Out::F32(&mut y), In::F32(&x), a);
            for (x, y) in x.iter().zip(&y) {
                let want = act(a, *x as f64);
                assert!(
                    (*y as f64 - want).abs() <= 1e-6 * want.abs().max(1.0),
                    "{a:?}({x}) = {y}, not {want}, {isa:?}"
                );
            }
            let mut y = [0.0];
            cpu.act(Out::F32(&mut y), In::F32(&[f32::NAN]), a);
            assert!(y[0].is_nan(), "{a:?} hides a NaN on {isa:?}");
        }
    }
}

#[test]
fn sums_scales_and_casts() {
    for (m, c) in SIZES {
        let n = m * c;
        check(&format!("sums {m}x{c}"), 4.0, |cpu, half| {
            let (a, b, bias) = (Buffer::random(n, 1, half), Buffer::random(n, 2, false), random(c, 3));
            let mut outs: Vec<Buffer> = (0..5).map(|_| a.clone()).collect();
            cpu.add(outs[0].set(), a.get(), b.get());
            cpu.add_scaled(outs[1].set(), b.get(), 0.3);
            cpu.scale(outs[2].set(), b.get(), -1.7);
            cpu.add_bias(outs[3].set(), Some(b.get()), &bias, c);
            cpu.add_bias(outs[4].set(), None, &bias, c);
            let (a, b) = (a.f64(), b.f64());
            let bias: Vec<f64> = (0..n).map(|i| bias[i % c] as f64).collect();
            let want = [
                zip([&a, &b], |[a, b]| a + b),
                zip([&a, &b], |[a, b]| a + 0.3f32 as f64 * b),
                zip([&b], |[b]| -1.7f32 as f64 * b),
                zip([&b, &bias], |[b, bias]| b + bias),
                zip([&a, &bias], |[a, bias]| a + bias),
            ];
            outs.iter().map(Buffer::f64).zip(want).collect()
        });
        // Sums over rows and of squares: the floor is the size of the terms' sum.
        check(&format!("reductions {m}x{c}"), 2.0 * m.max(1) as f64, |cpu, half| {
            let x = Buffer::random(n, 1, half);
            let (mut sum, mut more) = (vec![9.0; c], random(c, 2));
            let start = wide(&more);
            cpu.sum_rows(&mut sum, x.get(), false, m, c);
            cpu.sum_rows(&mut more, x.get(), true, m, c);
            let squares = cpu.sum_squares(x.get());
            let x = x.f64();
            let want: Vec<f64> = (0..c).map(|j| (0..m).map(|i| x[i * c + j]).sum()).collect();
            let total: f64 = x.iter().map(|x| x * x).sum();
            assert!((squares - total).abs() <= 1e-6 * total);
            vec![
                (wide(&sum), want.clone()),
                (wide(&more), zip([&want, &start], |[a, b]| a + b)),
                (vec![squares], vec![squares]),
            ]
        });
    }
}

#[test]
fn non_finite_elements_are_found_wherever_they_are() {
    for isa in Isa::available() {
        let cpu = Cpu::with_isa(2, isa);
        for half in [false, true] {
            for n in [1, 15, 16, 100, 40000] {
                let x = random(n, 1);
                assert!(cpu.all_finite(Buffer::new(&x, half).get()));
                for (at, bad) in [(0, f32::NAN), (n / 2, f32::INFINITY), (n - 1, f32::NEG_INFINITY)] {
                    let mut x = x.clone();
                    x[at] = bad;
                    assert!(!cpu.all_finite(Buffer::new(&x, half).get()), "{bad} at {at} of {n}, {isa:?}");
                }
            }
        }
    }
}

#[test]
fn rows_are_scattered_in_order() {
    for c in [1, 7, 33, 576] {
        let ids = [3, 0, 3, 1, 3, 0];
        check(&format!("scatter {c}"), 8.0, |cpu, half| {
            let (x, mut out) = (Buffer::random(ids.len() * c, 1, half), random(4 * c, 2));
            let mut want = wide(&out);
            cpu.scatter_add_rows(&mut out, &ids, x.get(), c);
            for (i, x) in x.f64().iter().enumerate() {
                want[ids[i / c] as usize * c + i % c] += x;
            }
            vec![(wide(&out), want)]
        });
    }
}

#[test]
fn dropout_keeps_the_right_share_and_depends_on_the_row_only() {
    let (m, c, p) = (300, 577, 0.3);
    for isa in Isa::available() {
        for half in [false, true] {
            let cpu = Cpu::with_isa(2, isa);
            let x = Buffer::new(&vec![1.0; m * c], half);
            let run = |key, row0, rows: usize| {
                let mut y = Buffer::new(&vec![5.0; rows * c], half);
                let x = Buffer::new(&vec![1.0; rows * c], half);
                cpu.dropout(y.set(), x.get(), p, key, row0, c);
                y.f64()
            };
            assert_eq!(x.f64().len(), m * c);
            let all = run(7, 1000, m);
            let kept = all.iter().filter(|y| **y != 0.0).count() as f64;
            let n = (m * c) as f64;
            // Five standard deviations of a binomial.
            assert!((kept - 0.7 * n).abs() < 5.0 * (n * 0.21).sqrt(), "{kept} of {n}");
            assert!(all.iter().all(|y| *y == 0.0 || (y - 1.0 / 0.7).abs() < if half { 4e-3 } else { 1e-6 }));
            // Neighbours in a row, in a column and under another key agree no more often than chance (0.58 of all).
            let agree = |a: &[f64], b: &[f64]| {
                zip([a, b], |[a, b]| ((a == 0.0) == (b == 0.0)) as u8 as f64).iter().sum::<f64>() / a.len() as f64
            };
            for share in [
                agree(&all[1..], &all[..m * c - 1]),
                agree(&all[c..], &all[..m * c - c]),
                agree(&all, &run(8, 1000, m)),
            ] {
                assert!((share - 0.58).abs() < 0.01, "{share}");
            }
            assert_eq!(run(7, 1010, 5), &all[10 * c..15 * c], "a row has the same mask wherever it is computed");
            assert_eq!(all, run(7, 1000, m));
            if isa != Isa::Portable {
                let mut y = Buffer::new(&vec![5.0; m * c], half);
                Cpu::with_isa(1, Isa::Portable).dropout(y.set(), x.get(), p, 7, 1000, c);
                assert_eq!(y.f64(), all, "the mask does not depend on the table");
            }
        }
    }
}

/// `f` of each row, one after the other.
fn rows(x: &[f64], c: usize, f: impl Fn(usize, &[f64]) -> Vec<f64>) -> Vec<f64> {
    if x.is_empty() { Vec::new() } else { x.chunks(c).enumerate().flat_map(|(i, x)| f(i, x)).collect() }
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// RMSNorm or LayerNorm of a row in f64: the result, the mean taken away and the reciprocal deviation.
fn norm(x: &[f64], w: &[f64], b: &[f64], centre: bool) -> (Vec<f64>, f64, f64) {
    let m = if centre { mean(x) } else { 0.0 };
    let r = 1.0 / (x.iter().map(|x| (x - m).powi(2)).sum::<f64>() / x.len() as f64 + 1e-5f32 as f64).sqrt();
    (zip([x, w, b], |[x, w, b]| (x - m) * r * w + b), m, r)
}

/// The gradient of a row of `norm` for `dy`, by central differences along each input.
fn norm_slope(x: &[f64], w: &[f64], b: &[f64], centre: bool, dy: &[f64]) -> Vec<f64> {
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let at = x[i];
            let mut value = |to| {
                x[i] = to;
                norm(&x, w, b, centre).0.iter().zip(dy).map(|(a, b)| a * b).sum::<f64>()
            };
            let slope = (value(at + 1e-5) - value(at - 1e-5)) / 2e-5;
            x[i] = at;
            slope
        })
        .collect()
}

#[test]
fn norms() {
    for (m, c) in SIZES {
        // Differences are quadratic in c: the widest rows are checked in the forward direction only.
        let backward = c < 600;
        let m = m.min(6);
        check(&format!("norms {m}x{c}"), 8.0, |cpu, half| {
            let n = m * c;
            let new = |seed| Buffer::random(n, seed, half);
            let (x, x2, dy, w, b) = (new(1), new(2), new(3), random(c, 4), random(c, 5));
            let (mut rstd, mut mu, mut rstd2, mut rstd3) = (vec![0.0; m], vec![0.0; m], vec![0.0; m], vec![0.0; m]);
            let (mut y, mut z, mut sum, mut out) = (new(6), new(6), new(6), new(6));
            let (mut dx, mut dz, mut dw, mut dw2) = (new(7), new(7), new(8), new(8));
            let start = dx.f64();
            cpu.rmsnorm(y.set(), &mut rstd, x.get(), &w, 1.0, 1e-5, m, c);
            cpu.layernorm(z.set(), &mut mu, &mut rstd2, x.get(), &w, &b, 1e-5, m, c);
            cpu.add_rmsnorm(sum.set(), out.set(), &mut rstd3, x.get(), x2.get(), &w, 0.0, 1e-5, m, c);
            cpu.rmsnorm_bwd(dx.set(), Some(dw.set()), dy.get(), x.get(), &w, 1.0, &rstd, true, m, c);
            cpu.layernorm_bwd(dz.set(), Some(dw2.set()), dy.get(), x.get(), &w, &mu, &rstd2, false, m, c);
            let (x, x2, dy, sums) = (x.f64(), x2.f64(), dy.f64(), sum.f64());
            let (w, b, zero) = (wide(&w), wide(&b), vec![0.0; c]);
            let plus: Vec<f64> = w.iter().map(|w| w + 1.0).collect();
            let row = |x: &[f64], i: usize| x[i * c..(i + 1) * c].to_vec();
            let mut all = vec![
                (y.f64(), rows(&x, c, |_, x| norm(x, &plus, &zero, false).0)),
                (z.f64(), rows(&x, c, |_, x| norm(x, &w, &b, true).0)),
                (sums.clone(), zip([&x, &x2], |[a, b]| a + b)),
                (out.f64(), rows(&sums, c, |_, x| norm(x, &w, &zero, false).0)),
                (wide(&mu), rows(&x, c, |_, x| vec![mean(x)])),
                (
                    dw.f64(),
                    rows(&x, c, |i, x| {
                        let r = norm(x, &w, &zero, false).2;
                        zip([x, &row(&dy, i)], |[x, dy]| dy * x * r)
                    }),
                ),
                (
                    dw2.f64(),
                    rows(&x, c, |i, x| {
                        let (_, mu, r) = norm(x, &w, &zero, true);
                        zip([x, &row(&dy, i)], |[x, dy]| dy * (x - mu) * r)
                    }),
                ),
            ];
            if backward {
                let dx_want = rows(&x, c, |i, x| {
                    let slope = norm_slope(x, &plus, &zero, false, &row(&dy, i));
                    zip([&slope, &row(&start, i)], |[a, b]| a + b)
                });
                all.push((dx.f64(), dx_want));
                // A row of one column has no deviation: its rstd is 300, and so are the errors.
                let scale = if c == 1 { 0.0 } else { 1.0 };
                let got: Vec<f64> = dz.f64().iter().map(|x| x * scale).collect();
                all.push((
                    got,
                    rows(&x, c, |i, x| norm_slope(x, &w, &b, true, &row(&dy, i)).iter().map(|x| x * scale).collect()),
                ));
            }
            all
        });
    }
}

#[test]
fn rope_turns_and_turns_back() {
    for (heads, d, rot) in [(1, 2, 2), (3, 7, 4), (2, 33, 32), (3, 64, 64), (2, 80, 40)] {
        check(&format!("rope {heads}x{d}, {rot} turned"), 4.0, |cpu, half| {
            let (m, positions) = (9, [0u32, 5, 1, 2, 19, 3, 3, 7, 11]);
            let angles: Vec<f64> = (0..20 * rot / 2)
                .map(|i| (i / (rot / 2)) as f64 * 10000f64.powf(-2.0 * (i % (rot / 2)) as f64 / rot as f64))
                .collect();
            let cos: Vec<f32> = angles.iter().map(|x| x.cos() as f32).collect();
            let sin: Vec<f32> = angles.iter().map(|x| x.sin() as f32).collect();
            let x = Buffer::random(m * heads * d, 1, half);
            let (mut y, mut z, mut back) = (x.clone(), x.clone(), x.clone());
            cpu.rope(y.set(), x.get(), &cos, &sin, &positions, heads, d, rot, false);
            cpu.rope_inplace(z.set(), &cos, &sin, &positions, heads, d, rot, false);
            cpu.rope(back.set(), y.get(), &cos, &sin, &positions, heads, d, rot, true);
            let turn = |x: &[f64], sign: f64| {
                let mut want = x.to_vec();
                for (i, want) in want.iter_mut().enumerate() {
                    let (row, col) = (i / (heads * d), i % d);
                    if col < rot {
                        let half = rot / 2;
                        let at = positions[row] as usize * half + col % half;
                        let (c, s) = (cos[at] as f64, sin[at] as f64 * sign);
                        *want = if col < half { x[i] * c - x[i + half] * s } else { x[i] * c + x[i - half] * s };
                    }
                }
                want
            };
            let want = turn(&x.f64(), 1.0);
            vec![(y.f64(), want.clone()), (z.f64(), want), (back.f64(), turn(&y.f64(), -1.0))]
        });
    }
}

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
            let c = AdamW { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, bias1: 0.19, bias2: 0.02 };
            let before = (wide(&p), wide(&m), wide(&v));
            cpu.adamw(&mut p, &mut m, &mut v, &g, 0.5, &c);
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
                cpu.sgd(&mut p, &mut b, &g, 0.5, 0.1, mu, nesterov, 0.01);
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
