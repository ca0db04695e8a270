//! Every layout on every table and storage against f64 sums.

mod panels;

use crate::{Cpu, In, Isa, Mat, Out, QuantFormat, bf16, f16, quant};

/// A number in -1..1 from a counter (splitmix64): the same on every machine.
pub(crate) fn uniform(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ z >> 31) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..len).map(|_| uniform(&mut state)).collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Nt,
    Nn,
    Tn,
}

/// A matrix in some storage, and the values it stands for.
struct Stored {
    f32: Vec<f32>,
    bf16: Vec<bf16>,
    f16: Vec<f16>,
    blocks: Vec<u8>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    F32,
    Bf16,
    F16,
    Quant(QuantFormat),
}

impl Stored {
    fn new(len: usize, kind: Kind, seed: u64) -> Stored {
        let mut f32 = random(len, seed);
        let bf16: Vec<bf16> = f32.iter().map(|&v| bf16::from_f32(v)).collect();
        let f16: Vec<f16> = f32.iter().map(|&v| f16::from_f32(v)).collect();
        let mut blocks = vec![];
        match kind {
            Kind::F32 => {}
            Kind::Bf16 => f32 = bf16.iter().map(|v| v.to_f32()).collect(),
            Kind::F16 => f32 = f16.iter().map(|v| v.to_f32()).collect(),
            Kind::Quant(format) => {
                blocks = vec![0; format.row_bytes(len)];
                quant::quantize(&mut blocks, format, &f32);
                quant::dequantize(&mut f32, format, &blocks);
            }
        }
        Stored { f32, bf16, f16, blocks, kind }
    }
    fn mat(&self) -> Mat<'_> {
        match self.kind {
            Kind::F32 => Mat::F32(&self.f32),
            Kind::Bf16 => Mat::Bf16(&self.bf16),
            Kind::F16 => Mat::F16(&self.f16),
            Kind::Quant(format) => Mat::Quant(format, &self.blocks),
        }
    }
    fn input(&self) -> In<'_> {
        match self.kind {
            Kind::Bf16 => In::Bf16(&self.bf16),
            Kind::F16 => In::F16(&self.f16),
            _ => In::F32(&self.f32),
        }
    }
}

struct Case {
    layout: Layout,
    x: Kind,
    w: Kind,
    /// Storage of the result, not quantised.
    out: Kind,
    accumulate: bool,
    m: usize,
    n: usize,
    k: usize,
}

/// The result, and on demand the exact one with the bound on their difference, for each element.
fn run(cpu: &Cpu, case: &Case, reference: bool) -> (Vec<f32>, Vec<f64>, Vec<f64>) {
    let &Case { layout, x, w, out: kind, accumulate, m, n, k } = case;
    // (left operand, right operand, result) as the layout has them.
    let (l_len, r_len, rows, cols, sum) = match layout {
        Layout::Nt => (m * k, n * k, m, n, k),
        Layout::Nn => (m * n, n * k, m, k, n),
        Layout::Tn => (m * n, m * k, n, k, m),
    };
    let (left, right) = (Stored::new(l_len, x, 1), Stored::new(r_len, w, 2));
    let old = Stored::new(rows * cols, kind, 3);
    let (mut out, mut bf16, mut f16) = (old.f32.clone(), old.bf16.clone(), old.f16.clone());
    match layout {
        Layout::Tn => cpu.matmul_tn(&mut out, left.input(), right.input(), accumulate, m, n, k),
        _ => {
            let o = match kind {
                Kind::Bf16 => Out::Bf16(&mut bf16),
                Kind::F16 => Out::F16(&mut f16),
                _ => Out::F32(&mut out),
            };
            match layout {
                Layout::Nt => cpu.matmul_nt(o, left.input(), right.mat(), accumulate, m, n, k),
                _ => cpu.matmul_nn(o, left.input(), right.mat(), accumulate, m, n, k),
            }
        }
    }
    match kind {
        Kind::Bf16 => out = bf16.iter().map(|v| v.to_f32()).collect(),
        Kind::F16 => out = f16.iter().map(|v| v.to_f32()).collect(),
        _ => {}
    }
    if !reference {
        return (out, vec![], vec![]);
    }
    let at = |i: usize, j: usize, s: usize| match layout {
        Layout::Nt => (i * k + s, j * k + s),
        Layout::Nn => (i * n + s, s * k + j),
        Layout::Tn => (s * n + i, s * k + j),
    };
    let (mut exact, mut bound) = (vec![0f64; rows * cols], vec![0f64; rows * cols]);
    // A bf16 product rounds a weight of another storage to 8 bits first.
    let rounds_w = x == Kind::Bf16 && w != Kind::Bf16;
    for i in 0..rows {
        for j in 0..cols {
            let (mut total, mut size) = (0f64, 0f64);
            for s in 0..sum {
                let (a, b) = at(i, j, s);
                let p = left.f32[a] as f64 * right.f32[b] as f64;
                total += p;
                size += p.abs();
            }
            if accumulate {
                total += old.f32[i * cols + j] as f64;
                size += old.f32[i * cols + j].abs() as f64;
            }
            // Each of `sum` additions rounds once (Higham 2002, §3.1).
            let mut b = size * (sum as f64 + 2.0) * 2f64.powi(-24) + 1e-30;
            b += if rounds_w { size * 2f64.powi(-8) } else { 0.0 };
            b += match kind {
                Kind::Bf16 => total.abs() * 2f64.powi(-8),
                // Half a step, also below the smallest normal number.
                Kind::F16 => total.abs() * 2f64.powi(-11) + 2f64.powi(-25),
                _ => 0.0,
            };
            exact[i * cols + j] = total;
            bound[i * cols + j] = b;
        }
    }
    (out, exact, bound)
}

fn check(isa: Isa, case: &Case) {
    let Case { layout, x, w, out, accumulate, m, n, k } = case;
    let name = format!("{isa:?} {layout:?} {x:?}·{w:?}, out {out:?}, accumulate {accumulate}, ({m},{n},{k})");
    let (out, exact, bound) = run(&Cpu::with_isa(1, isa), case, true);
    for (i, ((a, e), b)) in out.iter().zip(&exact).zip(&bound).enumerate() {
        assert!((*a as f64 - e).abs() <= *b, "{name}: element {i} is {a}, exactly {e}, allowed {b:e}");
    }
    for threads in [2, 3] {
        let (again, _, _) = run(&Cpu::with_isa(threads, isa), case, false);
        let same = out.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{name}: {threads} threads give other bits");
    }
}

/// Sizes around every tile edge, plus sums of several blocks.
const SIZES: [(usize, usize, usize); 16] = [
    (1, 1, 1),
    (1, 65, 33),
    (3, 7, 5),
    (8, 40, 100),
    (9, 33, 31),
    (14, 32, 64),
    (15, 31, 17),
    (29, 97, 48),
    (70, 8, 65),
    (64, 16, 40),
    (61, 70, 8),
    (33, 70, 1),
    (130, 130, 130),
    (20, 20, 2500),
    (1100, 5, 9),
    (700, 40, 12),
];

#[test]
fn dense_products() {
    for isa in Isa::available() {
        for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
            for (x, half) in [(Kind::F32, Kind::Bf16), (Kind::Bf16, Kind::Bf16), (Kind::F16, Kind::F16)] {
                for (m, n, k) in SIZES {
                    for (out, accumulate) in [(Kind::F32, false), (Kind::F32, true), (half, false), (half, true)] {
                        if out != Kind::F32 && layout == Layout::Tn {
                            continue;
                        }
                        check(isa, &Case { layout, x, w: x, out, accumulate, m, n, k });
                    }
                }
            }
        }
    }
}

#[test]
fn every_weight_storage() {
    let formats = QuantFormat::ALL.map(Kind::Quant);
    for isa in Isa::available() {
        for w in [Kind::F32, Kind::Bf16, Kind::F16].into_iter().chain(formats) {
            for (x, half) in [(Kind::F32, Kind::Bf16), (Kind::Bf16, Kind::Bf16), (Kind::F16, Kind::F16)] {
                for layout in [Layout::Nt, Layout::Nn] {
                    for (m, n, k) in [(1, 37, 256), (5, 19, 512), (40, 50, 512), (300, 9, 256), (19, 300, 256)] {
                        let out = if m == 40 { half } else { Kind::F32 };
                        check(isa, &Case { layout, x, w, out, accumulate: m == 5, m, n, k });
                    }
                }
            }
        }
    }
}

#[test]
fn long_sums_of_quantised_rows() {
    for isa in Isa::available() {
        let w = Kind::Quant(QuantFormat::Q4K);
        for (x, out) in [(Kind::F32, Kind::Bf16), (Kind::Bf16, Kind::Bf16), (Kind::F16, Kind::F16)] {
            let case = Case { layout: Layout::Nt, x, w, out, accumulate: true, m: 20, n: 33, k: 2816 };
            check(isa, &case);
        }
    }
}

/// The forecast covers what a product really keeps.
#[test]
fn workspace_is_known_and_bounded() {
    let cpu = Cpu::new(2);
    let small = cpu.matmul_workspace_bytes(64, 64, 64, In::Bf16(&[]));
    let large = cpu.matmul_workspace_bytes(2048, 1536, 576, In::Bf16(&[]));
    assert!(small >= 64 * 64 * 2 && large >= 1536 * 576 * 2, "{small} {large}");
    assert!(large < 8 * 2048 * 1536, "{large}");
    assert!(
        cpu.matmul_workspace_bytes(64, 64, 64, In::F16(&[])) > cpu.matmul_workspace_bytes(64, 64, 64, In::F32(&[]))
    );
    assert_eq!(cpu.matmul_workspace_bytes(0, 5, 5, In::F32(&[])), 0);
}

#[test]
fn empty_products() {
    let cpu = Cpu::new(1);
    let mut out = [1f32; 6];
    cpu.matmul_nt(Out::F32(&mut out), In::F32(&[]), Mat::F32(&[]), true, 2, 3, 0);
    assert_eq!(out, [1.0; 6]);
    cpu.matmul_nt(Out::F32(&mut out), In::F32(&[]), Mat::F32(&[]), false, 2, 3, 0);
    assert_eq!(out, [0.0; 6]);
    cpu.matmul_nt(Out::F32(&mut []), In::F32(&[]), Mat::F32(&[0.0; 12]), false, 0, 3, 4);
}

#[test]
fn gathered_rows_are_the_stored_ones() {
    for isa in Isa::available() {
        let cpu = Cpu::with_isa(2, isa);
        for kind in [Kind::F32, Kind::Bf16, Kind::F16, Kind::Quant(QuantFormat::Q6K), Kind::Quant(QuantFormat::Q4_1)] {
            let w = Stored::new(5 * 256, kind, 9);
            let mut out = vec![0f32; 3 * 256];
            cpu.gather_rows(Out::F32(&mut out), w.mat(), &[4, 0, 4], 256);
            assert_eq!(out[..256], w.f32[4 * 256..]);
            assert_eq!(out[256..512], w.f32[..256]);
            assert_eq!(out[512..], w.f32[4 * 256..]);
            let mut half = vec![bf16::ZERO; 256];
            cpu.gather_rows(Out::Bf16(&mut half), w.mat(), &[2], 256);
            for (h, v) in half.iter().zip(&w.f32[512..]) {
                assert_eq!(h.to_bits(), bf16::from_f32(*v).to_bits());
            }
        }
    }
}

/// The bound: rounding x moves each value by at most half a step of its block of 32, `max |x| / 254`.
#[test]
fn int8_products_stay_within_the_rounding_of_x() {
    for isa in Isa::available() {
        for format in QuantFormat::ALL {
            for (m, n, k) in [
                (1, 37, 256),
                (2, 5, 512),
                (3, 8, 768),
                (8, 20, 256),
                (11, 3, 1280),
                (1, 9, 32),
                (2, 6, 96),
                (5, 4, 576),
            ] {
                if k % format.block_len() != 0 {
                    continue;
                }
                let (x, w) = (random(m * k, 5), Stored::new(n * k, Kind::Quant(format), 6));
                let run = |threads| {
                    let mut out = vec![0f32; m * n];
                    Cpu::with_isa(threads, isa).matmul_nt_int8(&mut out, &x, w.mat(), m, n, k);
                    out
                };
                let out = run(1);
                for i in 0..m {
                    for j in 0..n {
                        let (exact, bound) = int8_bound(&x[i * k..][..k], &w.f32[j * k..][..k]);
                        let error = (out[i * n + j] as f64 - exact).abs();
                        assert!(
                            error <= bound,
                            "{isa:?} {format:?} ({m},{n},{k}) at {i},{j}: {error:e} above {bound:e}"
                        );
                    }
                }
                assert_eq!(out, run(3), "{isa:?} {format:?}: 3 threads give other bits");
            }
        }
    }
}

/// The exact dot product, and how far off rounding `x` may put it: half a step of each block of 32, and the sums' own.
fn int8_bound(x: &[f32], w: &[f32]) -> (f64, f64) {
    let (mut exact, mut bound) = (0f64, 1e-5 * x.len() as f64);
    for (x, w) in x.chunks(32).zip(w.chunks(32)) {
        let step = x.iter().fold(0f32, |a, v| a.max(v.abs())) as f64 / 254.0;
        exact += x.iter().zip(w).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
        bound += w.iter().map(|w| w.abs() as f64 * step).sum::<f64>() * 1.001;
    }
    (exact, bound)
}

/// An infinity or NaN in x must reach the result, not vanish in the rounding.
#[test]
fn int8_products_pass_on_what_is_not_finite() {
    for isa in Isa::available() {
        let w = Stored::new(256, Kind::Quant(QuantFormat::Q4_1), 6);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = random(256, 5);
            x[40] = bad;
            let mut out = [0f32];
            Cpu::with_isa(1, isa).matmul_nt_int8(&mut out, &x, w.mat(), 1, 1, 256);
            assert!(!out[0].is_finite(), "{isa:?}: {bad} became {}", out[0]);
        }
    }
}
