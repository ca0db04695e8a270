//! Interleaved weights of every storage against f64 sums.

use super::{Kind, Stored, int8_bound, random};
use crate::{Cpu, Interleaved, PanelFormat, QuantFormat, bf16};

/// How far the result may be from the exact one: quantised weights round `x` to int8, bf16 ones to bf16 (2^-9 of each value);
/// then the sums' own.
fn bound(kind: Kind, x: &[f32], w: &[f32]) -> (f64, f64) {
    let pairs = || x.iter().zip(w).map(|(x, w)| (*x as f64, *w as f64));
    let (exact, size) = pairs().fold((0.0, 0.0), |(sum, size), (x, w)| (sum + x * w, size + (x * w).abs()));
    match kind {
        Kind::Quant(_) => int8_bound(x, w),
        Kind::Bf16 => {
            let rounded: f64 = pairs().map(|(x, w)| bf16::from_f64(x).to_f64() * w).sum();
            (rounded, size * x.len() as f64 * f32::EPSILON as f64)
        }
        _ => (exact, size * x.len() as f64 * f32::EPSILON as f64),
    }
}

/// A row's result depends neither on the other rows, weights nor threads.
#[test]
fn interleaved_products_stay_within_the_rounding_of_x() {
    let cpu = Cpu::new(3);
    if !cpu.interleaves() {
        return;
    }
    let sizes =
        [(1, 37, 256), (2, 5, 512), (3, 16, 768), (8, 50, 256), (15, 33, 1280), (1, 9, 32), (5, 4, 96), (30, 70, 130)];
    for kind in [Kind::F32, Kind::Bf16, Kind::F16].into_iter().chain(QuantFormat::ALL.map(Kind::Quant)) {
        // Odd rows, too, where rows need not be whole blocks.
        for (m, n, k) in sizes.into_iter().chain([(4, 35, 67), (14, 64, 1)]) {
            if matches!(kind, Kind::Quant(format) if k % format.block_len() != 0) {
                continue;
            }
            let (x, w) = (random(m * k, 5), Stored::new(n * k, kind, 6));
            let panels = laid_out(&cpu, &w, n, k);
            let w8 = Interleaved { format: PanelFormat::of(w.mat()), panels: bytes(&panels), n };
            let (mut out, mut twin) = (vec![f32::NAN; m * n], vec![f32::NAN; m * n]);
            cpu.matmul_nt_interleaved(&mut [&mut out, &mut twin], &x, &[w8, w8], m, k, &[]);
            assert_eq!(out, twin);
            for i in 0..m {
                let mut one = vec![0f32; n];
                Cpu::new(1).matmul_nt_interleaved(&mut [&mut one], &x[i * k..][..k], &[w8], 1, k, &[]);
                assert_eq!(out[i * n..][..n], one, "{kind:?}: row {i} of {m} has other bits alone");
                for j in 0..n {
                    let (exact, bound) = bound(kind, &x[i * k..][..k], &w.f32[j * k..][..k]);
                    let error = (one[j] as f64 - exact).abs();
                    assert!(error <= bound, "{kind:?} ({m},{n},{k}) at {i},{j}: {error:e} above {bound:e}");
                }
            }
        }
    }
}

/// Weights of several storages on one input.
#[test]
fn storages_may_differ_in_one_call() {
    let cpu = Cpu::new(2);
    if !cpu.interleaves() {
        return;
    }
    let (m, n, k) = (3, 40, 64);
    let x = random(m * k, 5);
    let weights = [Kind::Bf16, Kind::Quant(QuantFormat::Q8_0), Kind::F16].map(|kind| Stored::new(n * k, kind, 7));
    let panels = weights.each_ref().map(|w| laid_out(&cpu, w, n, k));
    let of = |i: usize| Interleaved { format: PanelFormat::of(weights[i].mat()), panels: bytes(&panels[i]), n };
    let mut outs = [0; 3].map(|_| vec![0f32; m * n]);
    let [a, b, c] = &mut outs;
    cpu.matmul_nt_interleaved(&mut [a, b, c], &x, &[of(0), of(1), of(2)], m, k, &[]);
    for (i, out) in outs.iter().enumerate() {
        let mut alone = vec![0f32; m * n];
        cpu.matmul_nt_interleaved(&mut [&mut alone], &x, &[of(i)], m, k, &[]);
        assert_eq!(*out, alone, "weight {i}");
    }
}

/// Lines of 64 bytes, as the products read them; laid out in two parts.
fn laid_out(cpu: &Cpu, w: &Stored, n: usize, k: usize) -> Vec<[u8; 64]> {
    let format = PanelFormat::of(w.mat());
    let mut lines = vec![[0xffu8; 64]; format.bytes(n, k).div_ceil(64)];
    let first = if n > format.rows() { format.rows() } else { 0 };
    let (head, tail) = bytemuck::cast_slice_mut(&mut lines).split_at_mut(format.bytes(first, k));
    cpu.interleave(head, w.mat().rows(0..first, k), first, k);
    cpu.interleave(tail, w.mat().rows(first..n, k), n - first, k);
    lines
}

fn bytes(lines: &[[u8; 64]]) -> &[u8] {
    bytemuck::cast_slice(lines)
}

/// An infinity or NaN in x must reach the result, not vanish in the rounding.
#[test]
fn what_is_not_finite_is_passed_on() {
    let cpu = Cpu::new(1);
    if !cpu.interleaves() {
        return;
    }
    for kind in [Kind::Quant(QuantFormat::Q4_1), Kind::Bf16, Kind::F16] {
        let w = Stored::new(3 * 256, kind, 6);
        let panels = laid_out(&cpu, &w, 3, 256);
        for (at, bad) in [(40, f32::NAN), (40, f32::INFINITY), (255, f32::NEG_INFINITY)] {
            let mut x = random(256, 5);
            x[at] = bad;
            let mut out = [0f32; 3];
            let w = Interleaved { format: PanelFormat::of(w.mat()), panels: bytes(&panels), n: 3 };
            cpu.matmul_nt_interleaved(&mut [&mut out], &x, &[w], 1, 256, &[]);
            assert!(out.iter().all(|v| !v.is_finite()), "{kind:?}: {bad} became {out:?}");
        }
    }
}
