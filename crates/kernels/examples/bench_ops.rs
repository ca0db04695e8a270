//! Times everything but the matrix products at the shapes of a 135M model on a batch of 2048 tokens.
//! `bench_ops [name filter] [threads]`: median of some runs, with GB/s of memory traffic or GFLOP/s of products, each also as a share
//! of the limit measured at the start: reading from memory (a cache may give more), or products of that type.

use std::time::Instant;

use ounce_kernels::{Act, AdamW, AttnShape, BLOCK, Cpu, In, Isa, Map8, Out, Rounding, Sgd, Span, Stored, bf16};

/// Bytes that no cache holds.
const MEMORY: usize = 256 << 20;

struct Bench {
    filter: String,
    f32_flops: f64,
    bf16_flops: f64,
    bytes_s: f64,
}

enum Work {
    Bytes(usize),
    Flops(f64),
}

impl Bench {
    /// Runs `f` for about a quarter of a second and prints the median time.
    fn time(&self, name: &str, work: Work, mut f: impl FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        f();
        let (start, mut times) = (Instant::now(), Vec::new());
        while times.len() < 5 || start.elapsed().as_secs_f64() < 0.25 {
            let one = Instant::now();
            f();
            times.push(one.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let (rate, limit, unit) = match work {
            Work::Bytes(n) => (n as f64 / median, self.bytes_s, "GB/s"),
            Work::Flops(n) if name.contains("bf16") => (n / median, self.bf16_flops, "GFLOP/s"),
            Work::Flops(n) => (n / median, self.f32_flops, "GFLOP/s"),
        };
        println!("{name:44} {:9.3} ms {:8.1} {unit:7} {:4.0} %", median * 1e3, rate / 1e9, 100.0 * rate / limit);
    }
}

/// Values in -1..1 without a pattern that a processor could exploit.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// A buffer of one of the two activation types.
enum Buffer {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Buffer {
    fn new(n: usize, half: bool, seed: u64) -> Buffer {
        let x = values(n, seed);
        if half { Buffer::Bf16(x.into_iter().map(bf16::from_f32).collect()) } else { Buffer::F32(x) }
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
}

fn main() {
    let mut args = std::env::args().skip(1);
    let filter = args.next().unwrap_or_default();
    let threads = args.next().map_or(0, |n| n.parse().expect("a number of threads"));
    let cpu = Cpu::with_isa(threads, Isa::detect());
    let f32_flops = cpu.measure_f32_flops();
    let bf16_flops = cpu.measure_bf16_flops().unwrap_or(f32_flops);
    let bench = Bench { filter, f32_flops, bf16_flops, bytes_s: cpu.measure_read_bandwidth(MEMORY) };
    println!(
        "{:?}, {} threads; limits: f32 {:.0} and bf16 {:.0} GFLOP/s, memory {:.1} GB/s",
        cpu.isa(),
        cpu.threads(),
        bench.f32_flops / 1e9,
        bench.bf16_flops / 1e9,
        bench.bytes_s / 1e9
    );
    attention(&cpu, &bench);
    decode(&cpu, &bench);
    rows(&cpu, &bench);
    losses(&cpu, &bench);
}

/// Pairs of a query and a key that it sees, over all spans and heads.
fn pairs(spans: &[Span], shape: &AttnShape) -> f64 {
    let mut n = 0;
    for span in spans {
        for i in 0..span.q_len {
            let end = if shape.causal { span.kv_len - span.q_len + i + 1 } else { span.kv_len };
            n += shape.window.map_or(end, |w| w.min(end));
        }
    }
    (n * shape.heads) as f64
}

fn attention(cpu: &Cpu, bench: &Bench) {
    for (label, heads, kv_heads, d, lengths, window) in [
        ("4x512 9/3 d64", 9, 3, 64, vec![512; 4], None),
        ("1x2048 9/3 d64", 9, 3, 64, vec![2048], None),
        ("1x2048 9/3 d64 window 256", 9, 3, 64, vec![2048], Some(256)),
        ("4x512 9/9 d64", 9, 9, 64, vec![512; 4], None),
        ("4x512 8/2 d128", 8, 2, 128, vec![512; 4], None),
        ("4x512 4/1 d256", 4, 1, 256, vec![512; 4], None),
        ("4x512 8/8 d80", 8, 8, 80, vec![512; 4], None),
    ] {
        let shape = AttnShape { heads, kv_heads, head_dim: d, scale: 1.0 / (d as f32).sqrt(), causal: true, window };
        let (mut spans, mut rows) = (Vec::new(), 0);
        for n in lengths {
            spans.push(Span { q_start: rows, q_len: n, kv_start: rows, kv_len: n });
            rows += n;
        }
        for half in [true, false] {
            let label = format!("{label} {}", if half { "bf16" } else { "f32" });
            let flops = 4.0 * d as f64 * pairs(&spans, &shape);
            let new = |heads: usize, seed| Buffer::new(rows * heads * d, half, seed);
            let (q, k, v, dout) = (new(heads, 1), new(kv_heads, 2), new(kv_heads, 3), new(heads, 4));
            let (mut out, mut lse) = (new(heads, 5), vec![0.0; rows * heads]);
            let (mut dq, mut dk, mut dv) = (new(heads, 6), new(kv_heads, 7), new(kv_heads, 8));
            bench.time(&format!("attention {label}"), Work::Flops(flops), || {
                cpu.attention(out.set(), &mut lse, q.get(), k.get(), v.get(), &spans, &shape);
            });
            bench.time(&format!("attention_bwd {label}"), Work::Flops(2.5 * flops), || {
                let (dq, dk, dv) = (dq.set(), dk.set(), dv.set());
                let (q, k, v) = (q.get(), k.get(), v.get());
                cpu.attention_bwd(dq, dk, dv, dout.get(), out.get(), &lse, q, k, v, &spans, &shape);
            });
        }
    }
}

fn decode(cpu: &Cpu, bench: &Bench) {
    for (label, heads, kv_heads, d, batch, kv_len) in
        [("9/3 d64", 9, 3, 64, 1, 2048), ("9/3 d64", 9, 3, 64, 8, 2048), ("32/8 d128", 32, 8, 128, 1, 8192)]
    {
        let shape =
            AttnShape { heads, kv_heads, head_dim: d, scale: 1.0 / (d as f32).sqrt(), causal: true, window: None };
        let spans: Vec<_> = (0..batch).map(|i| Span { q_start: i, q_len: 1, kv_start: i * kv_len, kv_len }).collect();
        for half in [true, false] {
            let q = Buffer::new(batch * heads * d, half, 1);
            let k = Buffer::new(batch * kv_len * kv_heads * d, half, 2);
            let v = Buffer::new(batch * kv_len * kv_heads * d, half, 3);
            let (mut out, mut lse) = (Buffer::new(batch * heads * d, half, 4), vec![0.0; batch * heads]);
            let bytes = 2 * batch * kv_len * kv_heads * d * if half { 2 } else { 4 };
            let name = format!("decode {label} {batch}x{kv_len} {}", if half { "bf16" } else { "f32" });
            bench.time(&name, Work::Bytes(bytes), || {
                cpu.attention(out.set(), &mut lse, q.get(), k.get(), v.get(), &spans, &shape);
            });
        }
    }
}

fn rows(cpu: &Cpu, bench: &Bench) {
    let m = 2048;
    for c in [576, 1536] {
        for half in [true, false] {
            let n = m * c;
            let size = n * if half { 2 } else { 4 };
            let label = |name: &str| format!("{name} {m}x{c} {}", if half { "bf16" } else { "f32" });
            let (a, b, x) = (Buffer::new(n, half, 1), Buffer::new(n, half, 2), Buffer::new(n, half, 3));
            let (mut out, mut out2) = (Buffer::new(n, half, 4), Buffer::new(n, half, 5));
            let (w, bias) = (values(c, 6), values(c, 7));
            let (mut mean, mut rstd) = (vec![0.0; m], vec![0.0; m]);
            let bytes = |k: usize| Work::Bytes(k * size);
            for act in [Act::Silu, Act::GeluTanh, Act::Gelu] {
                bench.time(&label(&format!("glu {act:?}")), bytes(3), || cpu.glu(out.set(), a.get(), b.get(), act));
                bench.time(&label(&format!("glu_bwd {act:?}")), bytes(5), || {
                    cpu.glu_bwd(out.set(), out2.set(), x.get(), a.get(), b.get(), act)
                });
            }
            bench.time(&label("act Gelu"), bytes(2), || cpu.act(out.set(), a.get(), Act::Gelu));
            bench.time(&label("add"), bytes(3), || cpu.add(out.set(), a.get(), b.get()));
            bench.time(&label("add_scaled"), bytes(3), || cpu.add_scaled(out.set(), a.get(), 1e-6));
            bench.time(&label("scale"), bytes(2), || cpu.scale(out.set(), a.get(), 2.0));
            bench.time(&label("add_bias"), bytes(2), || cpu.add_bias(out.set(), Some(a.get()), &bias, c));
            bench.time(&label("dropout"), bytes(2), || cpu.dropout(out.set(), a.get(), 0.1, 1, 0, c));
            let mut sums = vec![0.0; c];
            bench.time(&label("sum_rows"), bytes(1), || cpu.sum_rows(&mut sums, a.get(), false, m, c));
            bench.time(&label("sum_squares"), bytes(1), || {
                std::hint::black_box(cpu.sum_squares(a.get()));
            });
            bench.time(&label("all_finite"), bytes(1), || assert!(cpu.all_finite(a.get())));
            bench.time(&label("rmsnorm"), bytes(2), || cpu.rmsnorm(out.set(), &mut rstd, a.get(), &w, 0.0, 1e-5, m, c));
            bench.time(&label("rmsnorm_bwd"), bytes(4), || {
                cpu.rmsnorm_bwd(out.set(), None, b.get(), a.get(), &w, 0.0, &rstd, true, m, c)
            });
            bench.time(&label("add_rmsnorm"), bytes(4), || {
                cpu.add_rmsnorm(out2.set(), out.set(), &mut rstd, a.get(), b.get(), &w, 0.0, 1e-5, m, c)
            });
            bench.time(&label("layernorm"), bytes(2), || {
                cpu.layernorm(out.set(), &mut mean, &mut rstd, a.get(), &w, &bias, 1e-5, m, c)
            });
            bench.time(&label("layernorm_bwd"), bytes(3), || {
                cpu.layernorm_bwd(out.set(), None, b.get(), a.get(), &w, &mean, &rstd, false, m, c)
            });
            let (cos, sin) = (values(m * 32, 8), values(m * 32, 9));
            let positions: Vec<u32> = (0..m as u32).collect();
            bench.time(&label("rope"), bytes(2), || {
                cpu.rope(out.set(), a.get(), &cos, &sin, &positions, c / 64, 64, 64, false)
            });
            bench.time(&label("rope_inplace"), bytes(2), || {
                cpu.rope_inplace(out.set(), &cos, &sin, &positions, c / 64, 64, 64, false)
            });
        }
    }
}

fn losses(cpu: &Cpu, bench: &Bench) {
    let (m, v) = (256, 49152);
    let mut logits = values(m * v, 1);
    let (mut loss, mut lse) = (vec![0.0; m], vec![0.0; m]);
    let targets: Vec<u32> = (0..m as u32).map(|i| i * 97 % v as u32).collect();
    bench.time("cross_entropy 256x49152", Work::Bytes(4 * m * v), || {
        cpu.cross_entropy(&mut loss, &mut lse, &logits, &targets, m, v)
    });
    let weights = vec![1.0 / m as f32; m];
    bench.time("cross_entropy_bwd 256x49152", Work::Bytes(8 * m * v), || {
        cpu.cross_entropy_bwd(&mut logits, &lse, &targets, &weights, m, v)
    });
    bench.time("softcap 256x49152", Work::Bytes(8 * m * v), || cpu.softcap(&mut logits, 30.0));
    let n = 1 << 24;
    let (mut p, mut mo, mut vo, g) = (values(n, 1), vec![0.0; n], vec![0.0; n], values(n, 2));
    let c =
        AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, l2: 0.0, bias1: 0.5, bias2: 0.5 };
    let rounding = Rounding { key: 1, first: 0 };
    bench.time("adamw 16M", Work::Bytes(28 * n), || {
        cpu.adamw(Out::F32(&mut p), Stored::F32(&mut mo), Stored::F32(&mut vo), &g, 1.0, &c, rounding)
    });
    let mut half = [vec![bf16::ZERO; n], vec![bf16::ZERO; n]];
    bench.time("adamw 16M, bf16 moments", Work::Bytes(20 * n), || {
        let [m, v] = &mut half;
        cpu.adamw(Out::F32(&mut p), Stored::Bf16(m), Stored::Bf16(v), &g, 1.0, &c, rounding)
    });
    let mut codes = [vec![Map8::Signed.zero(); n], vec![Map8::Unsigned.zero(); n]];
    let mut absmax = [vec![0.0; n / BLOCK], vec![0.0; n / BLOCK]];
    bench.time("adamw 16M, 8-bit moments", Work::Bytes(16 * n), || {
        let ([mc, vc], [ma, va]) = (&mut codes, &mut absmax);
        let m = Stored::Block8 { map: Map8::Signed, codes: mc, absmax: ma };
        let v = Stored::Block8 { map: Map8::Unsigned, codes: vc, absmax: va };
        cpu.adamw(Out::F32(&mut p), m, v, &g, 1.0, &c, rounding)
    });
    let sgd = Sgd { lr: 1e-6, momentum: 0.9, nesterov: false, weight_decay: 0.0 };
    bench.time("sgd momentum 16M", Work::Bytes(20 * n), || {
        cpu.sgd(Out::F32(&mut p), Some(Stored::F32(&mut mo)), &g, 1.0, &sgd, rounding)
    });
}
