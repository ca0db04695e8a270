//! Every kernel that is not a matrix product or attention: against plain f64 loops, on every instruction set, for each
//! element type, at odd sizes, and with equal bits for 1, 2 and 3 threads.

mod dropout;
mod elementwise;
mod loss;
mod norm;

use ounce_kernels::{Cpu, In, Isa, Out, bf16, f16};

/// Rows and columns, with nothing, with less than a vector, with a tail, and with several chunks.
const SIZES: [(usize, usize); 8] = [(0, 5), (1, 1), (3, 7), (5, 33), (2, 64), (70, 130), (40, 576), (3, 20000)];

/// Relative errors: a sum of n terms in f32 is off by at most n · 2^-24 of the sum of their sizes; sixteen lanes and blocks
/// leave less than 40 · 2^-24 here. A bf16 result is rounded to 2^-8, an f16 one to 2^-11.
const F32: f64 = 40.0 / 16777216.0;
const BF16: f64 = 1.01 / 256.0;
const F16: f64 = 1.01 / 2048.0;

/// The element types of activations.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    F32,
    Bf16,
    F16,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::F32, Kind::Bf16, Kind::F16];

    fn bound(self) -> f64 {
        match self {
            Kind::F32 => F32,
            Kind::Bf16 => BF16 + F32,
            Kind::F16 => F16 + F32,
        }
    }
}

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

/// Activations of any type.
#[derive(Clone, Debug)]
enum Buffer {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

impl Buffer {
    fn new(x: &[f32], kind: Kind) -> Buffer {
        match kind {
            Kind::F32 => Buffer::F32(x.to_vec()),
            Kind::Bf16 => Buffer::Bf16(x.iter().map(|x| bf16::from_f32(*x)).collect()),
            Kind::F16 => Buffer::F16(x.iter().map(|x| f16::from_f32(*x)).collect()),
        }
    }
    fn random(n: usize, seed: u64, kind: Kind) -> Buffer {
        Buffer::new(&random(n, seed), kind)
    }
    fn get(&self) -> In<'_> {
        match self {
            Buffer::F32(x) => In::F32(x),
            Buffer::Bf16(x) => In::Bf16(x),
            Buffer::F16(x) => In::F16(x),
        }
    }
    fn set(&mut self) -> Out<'_> {
        match self {
            Buffer::F32(x) => Out::F32(x),
            Buffer::Bf16(x) => Out::Bf16(x),
            Buffer::F16(x) => Out::F16(x),
        }
    }
    fn f64(&self) -> Vec<f64> {
        match self {
            Buffer::F32(x) => x.iter().map(|x| *x as f64).collect(),
            Buffer::Bf16(x) => x.iter().map(|x| x.to_f64()).collect(),
            Buffer::F16(x) => x.iter().map(|x| x.to_f64()).collect(),
        }
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| *x as f64).collect()
}

/// Runs `kernel` on every table, for each type and for 1, 2 and 3 threads. `kernel` returns pairs of a result and what it
/// should be; differences may be `bound` of the larger of the expected value and `floor`.
#[track_caller]
fn check(name: &str, floor: f64, kernel: impl Fn(&Cpu, Kind) -> Vec<(Vec<f64>, Vec<f64>)>) {
    for isa in Isa::available() {
        for kind in Kind::ALL {
            let bound = kind.bound();
            let one = kernel(&Cpu::with_isa(1, isa), kind);
            for (part, (got, want)) in one.iter().enumerate() {
                assert_eq!(got.len(), want.len(), "{name} {isa:?}: length of result {part}");
                for (i, (a, b)) in got.iter().zip(want).enumerate() {
                    let fits = (a - b).abs() <= bound * b.abs().max(floor);
                    assert!(fits, "{name} {isa:?} {kind:?}, result {part}[{i}]: {a} instead of {b}");
                }
            }
            for threads in [2, 3] {
                let more = kernel(&Cpu::with_isa(threads, isa), kind);
                let bits = |x: &[(Vec<f64>, Vec<f64>)]| {
                    x.iter().flat_map(|x| x.0.iter().map(|x| x.to_bits()).collect::<Vec<_>>()).collect::<Vec<_>>()
                };
                assert_eq!(bits(&one), bits(&more), "{name} {isa:?} {kind:?}: {threads} threads");
            }
        }
    }
}

fn zip<const N: usize>(x: [&[f64]; N], f: impl Fn([f64; N]) -> f64) -> Vec<f64> {
    (0..x[0].len()).map(|i| f(std::array::from_fn(|j| x[j][i]))).collect()
}

/// `f` of each row, one after the other.
fn rows(x: &[f64], c: usize, f: impl Fn(usize, &[f64]) -> Vec<f64>) -> Vec<f64> {
    if x.is_empty() { Vec::new() } else { x.chunks(c).enumerate().flat_map(|(i, x)| f(i, x)).collect() }
}
