//! Attention to a cache against f64 loops over what the cache was given, and the promise that a query's bits depend on its
//! own sequence and position only.

use super::{AttnShape, CacheType, Cached, Span, tests};
use crate::{Cpu, Isa, bf16};

/// Two of the kernel's steps.
const BLOCK: usize = 32;
const KINDS: [CacheType; 4] = [CacheType::F32, CacheType::Bf16, CacheType::Q8, CacheType::Q4];

fn random(n: usize, seed: u64) -> Vec<f32> {
    tests::random(n, seed, tests::Kind::F32).into_iter().map(|x| x as f32).collect()
}

/// Sequences of some lengths, all positions in a cache whose blocks lie in disorder. A block belongs to one sequence.
struct Case {
    shape: AttnShape,
    /// Queries of each sequence, all of its positions.
    q: Vec<Vec<f32>>,
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
    tables: Vec<Vec<u32>>,
    memory: [Vec<f32>; 2],
    kind: CacheType,
}

impl Case {
    fn new(cpu: &Cpu, shape: AttnShape, lengths: &[usize], kind: CacheType) -> Case {
        Case::of(cpu, shape, lengths, kind, |x| x)
    }

    /// Keys and values are what `f` makes of random ones.
    fn of(cpu: &Cpu, shape: AttnShape, lengths: &[usize], kind: CacheType, f: fn(f32) -> f32) -> Case {
        let (wq, wk) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let blocks: usize = lengths.iter().map(|n| n.div_ceil(BLOCK)).sum();
        let bytes = (blocks + 1) * BLOCK * shape.kv_heads * kind.head_bytes(shape.head_dim);
        let values = |width: usize, seed: u64| -> Vec<Vec<f32>> {
            lengths.iter().enumerate().map(|(i, n)| random(n * width, seed + 10 * i as u64)).collect()
        };
        let made = |seed| values(wk, seed).into_iter().map(|x| x.into_iter().map(f).collect()).collect();
        let mut case = Case {
            shape,
            q: values(wq, 1),
            k: made(2),
            v: made(3),
            tables: Vec::new(),
            // What was never written is not a number.
            memory: [vec![f32::NAN; bytes.div_ceil(4)], vec![f32::NAN; bytes.div_ceil(4)]],
            kind,
        };
        // 7 has no divisor in common with the number of blocks, or the next one.
        let step = [7, 5].into_iter().find(|step| !blocks.is_multiple_of(*step)).unwrap_or(1);
        let mut next = 0;
        for (i, n) in lengths.iter().enumerate() {
            let table: Vec<u32> = (0..n.div_ceil(BLOCK)).map(|b| ((next + b) * step % blocks) as u32).collect();
            next += table.len();
            let rows: Vec<u32> = (0..*n).map(|p| table[p / BLOCK] * BLOCK as u32 + (p % BLOCK) as u32).collect();
            let memory = case.memory.each_mut().map(|half| bytes_of_mut(half));
            cpu.cache_write(kind, memory, [&case.k[i], &case.v[i]], &rows, BLOCK, shape.kv_heads, shape.head_dim);
            case.tables.push(table);
        }
        case
    }

    /// The last `count` queries of each sequence at once.
    fn run(&self, cpu: &Cpu, counts: &[usize]) -> Vec<Vec<f32>> {
        let width = self.shape.heads * self.shape.head_dim;
        let (mut q, mut spans, mut table) = (Vec::new(), Vec::new(), Vec::new());
        for (i, &count) in counts.iter().enumerate() {
            let kv_len = self.q[i].len() / width;
            spans.push(Span { q_start: q.len() / width, q_len: count, kv_start: table.len() * BLOCK, kv_len });
            q.extend_from_slice(&self.q[i][(kv_len - count) * width..]);
            table.extend_from_slice(&self.tables[i]);
        }
        let mut out = vec![0.0; q.len()];
        let [k, v] = [bytes_of(&self.memory[0]), bytes_of(&self.memory[1])];
        let cache = Cached { kind: self.kind, k, v, table: &table, block: BLOCK };
        cpu.attention_cached(&mut out, &q, &cache, &spans, &self.shape);
        let part = |span: &Span| out[span.q_start * width..(span.q_start + span.q_len) * width].to_vec();
        spans.iter().map(part).collect()
    }

    /// The largest difference from the reference, of the last queries alone and of several at once.
    fn error(&self, cpu: &Cpu) -> f64 {
        let width = self.shape.heads * self.shape.head_dim;
        let mut worst: f64 = 0.0;
        for most in [1, 20, 70] {
            let lengths: Vec<usize> = self.q.iter().map(|q| q.len() / width).collect();
            let counts: Vec<usize> = lengths.iter().map(|n| most.min(*n)).collect();
            for (i, got) in self.run(cpu, &counts).into_iter().enumerate() {
                for (r, got) in got.chunks(width).enumerate() {
                    let want = self.reference(i, lengths[i] - counts[i] + r);
                    // A result that is not a number is infinitely far away.
                    let far = |(a, b): (&f32, &f64)| {
                        let error = (f64::from(*a) - b).abs();
                        if error.is_nan() { f64::INFINITY } else { error }
                    };
                    worst = got.iter().zip(&want).map(far).fold(worst, f64::max);
                }
            }
        }
        worst
    }

    /// The result of query `position` of sequence `i`.
    fn reference(&self, i: usize, position: usize) -> Vec<f64> {
        let AttnShape { heads, kv_heads, head_dim: d, scale, causal, window } = self.shape;
        let len = self.k[i].len() / (kv_heads * d);
        let end = if causal { position + 1 } else { len };
        let start = window.map_or(0, |w| (position + 1).saturating_sub(w));
        let mut out = vec![0.0; heads * d];
        for head in 0..heads {
            let kv = head / (heads / kv_heads);
            let at = |x: &[f32], row: usize, c: usize| f64::from(x[(row * kv_heads + kv) * d + c]);
            let q = &self.q[i][(position * heads + head) * d..][..d];
            let scores: Vec<f64> = (start..end)
                .map(|j| (0..d).map(|c| f64::from(q[c]) * at(&self.k[i], j, c)).sum::<f64>() * f64::from(scale))
                .collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|x| (x - top).exp()).sum();
            for (j, x) in (start..end).zip(&scores) {
                let p = (x - top).exp() / total;
                (0..d).for_each(|c| out[head * d + c] += p * at(&self.v[i], j, c));
            }
        }
        out
    }
}

fn bytes_of(x: &[f32]) -> &[u8] {
    // SAFETY: any f32 is four bytes, and bytes have no alignment.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), 4 * x.len()) }
}

fn bytes_of_mut(x: &mut [f32]) -> &mut [u8] {
    // SAFETY: as above, and any four bytes are an f32.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), 4 * x.len()) }
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, causal: bool, window: Option<usize>) -> AttnShape {
    AttnShape { heads, kv_heads, head_dim, scale: (head_dim as f32).powf(-0.5), causal, window }
}

fn shapes() -> Vec<AttnShape> {
    vec![
        shape(3, 1, 64, true, None),
        shape(4, 4, 80, true, None),
        shape(9, 3, 40, true, Some(37)),
        shape(5, 1, 96, true, None),
        shape(7, 1, 128, true, Some(300)),
        shape(4, 1, 256, true, Some(512)),
        shape(2, 2, 16, false, None),
        shape(2, 1, 15, true, Some(100)),
    ]
}

#[test]
fn results_are_those_of_loops_in_f64() {
    for isa in Isa::available() {
        let cpu = Cpu::with_isa(2, isa);
        for shape in shapes() {
            for kind in KINDS {
                // Values are up to 1 and rounded to 8 bits of fraction, or in groups of 32 to 1/127 and 2/15 of their range.
                let bound = match kind {
                    CacheType::F32 => 1e-5,
                    CacheType::Bf16 => 8e-3,
                    CacheType::Q8 => 1.6e-2,
                    CacheType::Q4 => 0.16,
                };
                let error = Case::new(&cpu, shape, &[1, 15, 33, 700], kind).error(&cpu);
                assert!(error < bound, "{isa:?} {shape:?} {kind:?}: {error}");
            }
        }
    }
}

/// Keys and values that bf16 holds exactly: what is left is the error of the arithmetic. Where bf16 are multiplied as pairs, queries and
/// probabilities are rounded to 8 bits of fraction, 2^-9 of themselves at most, and errors of many terms partly cancel.
#[test]
fn a_bf16_cache_loses_what_rounding_queries_and_probabilities_does() {
    for isa in Isa::available() {
        let cpu = Cpu::with_isa(2, isa);
        let pairs = cpu.pairs_of(CacheType::Bf16);
        for shape in shapes() {
            let case = |f| Case::of(&cpu, shape, &[1, 15, 33, 700], CacheType::Bf16, f);
            let error = case(|x| bf16::from_f32(x).to_f32()).error(&cpu);
            assert!(error < if pairs { 3e-3 } else { 1e-5 }, "{isa:?} {shape:?}: {error}");
            // Far from zero beside their spread: rounded probabilities are divided by their own sum.
            let error = case(|x| 1.0 + (x * 4.0).round() / 128.0).error(&cpu);
            assert!(error < if pairs { 1e-4 } else { 1e-5 }, "{isa:?} {shape:?}, far from zero: {error}");
        }
    }
}

#[test]
fn a_query_has_its_bits_whatever_runs_beside_it_and_on_any_number_of_threads() {
    for isa in Isa::available() {
        let cpu = Cpu::with_isa(2, isa);
        for shape in shapes().into_iter().filter(|shape| shape.causal) {
            for kind in KINDS {
                let lengths = [40, 600, 1100];
                let case = Case::new(&cpu, shape, &lengths, kind);
                let many = case.run(&cpu, &[40, 100, 130]);
                assert_eq!(many, case.run(&Cpu::with_isa(1, isa), &[40, 100, 130]), "{isa:?} {shape:?} {kind:?}");
                let width = shape.heads * shape.head_dim;
                for counts in [[1, 1, 1], [2, 17, 5]] {
                    for ((many, few), count) in many.iter().zip(case.run(&cpu, &counts)).zip(counts) {
                        assert_eq!(many[many.len() - count * width..], few, "{isa:?} {shape:?} {kind:?} {counts:?}");
                    }
                }
                // The same sequence when it was shorter: what came later has no part in it.
                let short = Case::new(&cpu, shape, &lengths.map(|n| n - 20), kind);
                for (i, short) in short.run(&cpu, &[3, 3, 3]).iter().enumerate() {
                    let at = many[i].len() - 23 * width;
                    assert_eq!(many[i][at..at + 3 * width], short[..], "{isa:?} {shape:?} {kind:?}: sequence {i}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_shows_and_harms_nobody_else() {
    let cpu = Cpu::new(1);
    let shape = shape(2, 2, 32, true, None);
    for kind in KINDS {
        let mut case = Case::new(&cpu, shape, &[20, 20], kind);
        let whole = case.run(&cpu, &[1, 1]).remove(1);
        let bad = vec![f32::INFINITY; 2 * 32];
        let row = case.tables[0][0] * BLOCK as u32 + 3;
        let keys = case.k[0][3 * 2 * 32..][..2 * 32].to_vec();
        let memory = case.memory.each_mut().map(|half| bytes_of_mut(half));
        cpu.cache_write(kind, memory, [&keys, &bad], &[row], BLOCK, 2, 32);
        let after = case.run(&cpu, &[1, 1]);
        assert!(after[0].iter().all(|x| !x.is_finite()), "{kind:?}: {:?}", after[0]);
        assert_eq!(after[1], whole, "{kind:?}");
    }
}
