//! Activations, sums, casts, reductions and scatter.

use ounce_kernels::{Act, Cpu, In, Isa, Out, f16};

use crate::{Buffer, Kind, SIZES, check, random, wide, zip};

const ACTS: [Act; 4] = [Act::Silu, Act::GeluTanh, Act::Gelu, Act::Relu];

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

#[test]
fn activations_and_their_gradients() {
    for (m, c) in SIZES {
        let n = m * c;
        for a in ACTS {
            check(&format!("{a:?} {m}x{c}"), 1.0, |cpu, kind| {
                let new = |seed| Buffer::random(n, seed, kind);
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
        check(&format!("sums {m}x{c}"), 4.0, |cpu, kind| {
            let (a, b, bias) = (Buffer::random(n, 1, kind), Buffer::random(n, 2, Kind::F32), random(c, 3));
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
        check(&format!("reductions {m}x{c}"), 2.0 * m.max(1) as f64, |cpu, kind| {
            let x = Buffer::random(n, 1, kind);
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

/// Every f16 there is, and f32 around the middle between each two of them, above the largest and below the smallest.
#[test]
fn f16_is_widened_exactly_and_rounded_to_the_nearest_even() {
    let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let positive = &all[..=f16::INFINITY.to_bits() as usize];
    let between = positive.windows(2).flat_map(|two| {
        let (low, high) = (two[0].to_f32(), if two[1].is_finite() { two[1].to_f32() } else { 65536.0 });
        [0.25, 0.5, 0.75].map(|part| low + (high - low) * part)
    });
    let x: Vec<f32> = between.chain([1e9, 1e-9, f32::MAX, f32::INFINITY]).flat_map(|x| [x, -x]).collect();
    for isa in Isa::available() {
        let cpu = Cpu::with_isa(1, isa);
        let mut wide = vec![0f32; all.len()];
        cpu.scale(Out::F32(&mut wide), In::F16(&all), 1.0);
        for (wide, x) in wide.iter().zip(&all) {
            assert!(*wide == x.to_f32() || wide.is_nan() && x.is_nan(), "{isa:?}: {wide} of {x:?}");
        }
        let mut narrow = vec![f16::ZERO; x.len()];
        cpu.scale(Out::F16(&mut narrow), In::F32(&x), 1.0);
        for (narrow, x) in narrow.iter().zip(&x) {
            assert_eq!(narrow.to_bits(), f16::from_f32(*x).to_bits(), "{isa:?}: {x:e}");
        }
        let mut nan = [f16::ZERO; 5];
        cpu.scale(Out::F16(&mut nan), In::F32(&[f32::NAN; 5]), 1.0);
        assert!(nan.iter().all(|x| x.is_nan()), "{isa:?}");
    }
}

#[test]
fn non_finite_elements_are_found_wherever_they_are() {
    for isa in Isa::available() {
        let cpu = Cpu::with_isa(2, isa);
        for kind in Kind::ALL {
            for n in [1, 15, 16, 100, 40000] {
                let x = random(n, 1);
                assert!(cpu.all_finite(Buffer::new(&x, kind).get()));
                for (at, bad) in [(0, f32::NAN), (n / 2, f32::INFINITY), (n - 1, f32::NEG_INFINITY)] {
                    let mut x = x.clone();
                    x[at] = bad;
                    assert!(!cpu.all_finite(Buffer::new(&x, kind).get()), "{bad} at {at} of {n}, {isa:?}");
                }
            }
        }
    }
}

#[test]
fn rows_are_scattered_in_order() {
    for c in [1, 7, 33, 576] {
        let ids = [3, 0, 3, 1, 3, 0];
        check(&format!("scatter {c}"), 8.0, |cpu, kind| {
            let (x, mut out) = (Buffer::random(ids.len() * c, 1, kind), random(4 * c, 2));
            let mut want = wide(&out);
            cpu.scatter_add_rows(&mut out, &ids, x.get(), c);
            for (i, x) in x.f64().iter().enumerate() {
                want[ids[i / c] as usize * c + i % c] += x;
            }
            vec![(wide(&out), want)]
        });
    }
}
