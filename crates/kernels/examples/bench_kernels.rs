//! Products and attention at fixed shapes, for a comparison with another library that runs the same list. Prints one line of
//! JSON: the machine's limits before and after, and the GFLOP/s of each case by name.
//!
//! `bench_kernels [--threads 2] [--table Avx2]`
//!
//! Products are named `layout type m×n×k`: `nt` is x Wᵀ, `nn` is dy W, `tn` is dyᵀ x. Weights in other formats are
//! converted while they are packed. Attention is causal, `batch×tokens queries/keys dim`, forward or forward and backward
//! together, counted with the pairs that are seen only.

use std::time::Instant;

use ounce_kernels::{AttnShape, Cpu, In, Isa, Mat, Out, QuantFormat, Span, bf16, quant};

/// `(m, n, k)`: the linear layers of SmolLM2-135M on 2048 rows, its output layer, a small batch, and a large square.
const PRODUCTS: [(usize, usize, usize); 6] =
    [(2048, 576, 576), (2048, 1536, 576), (2048, 576, 1536), (512, 1536, 576), (2048, 49152, 576), (2048, 4096, 4096)];

/// Sequences, tokens of each, query heads, key heads, head dimension.
const ATTENTION: [(usize, usize, usize, usize, usize); 5] =
    [(4, 512, 9, 3, 64), (1, 2048, 9, 3, 64), (1, 8192, 9, 3, 64), (4, 512, 8, 2, 128), (4, 512, 4, 1, 256)];

/// Seconds that a case runs for at least.
const TIME_S: f64 = 0.4;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).cloned();
    let threads = flag("--threads").map_or(0, |n| n.parse().expect("a number of threads"));
    let table = flag("--table").unwrap_or_else(|| format!("{:?}", Isa::detect()));
    let isa = Isa::available().into_iter().find(|isa| format!("{isa:?}") == table).expect("a table of this machine");
    let cpu = Cpu::with_isa(threads, isa);
    let before = limits(&cpu);
    let mut cases = Vec::new();
    for shape in PRODUCTS {
        products(&cpu, shape, &mut cases);
    }
    for shape in ATTENTION {
        attention(&cpu, shape, &mut cases);
    }
    let after = limits(&cpu);
    let [f32_flops, bf16_flops] = [0, 1].map(|i| before[i].max(after[i]) / 1e9);
    let cases: Vec<String> = cases.iter().map(|(name, gflops)| format!("\"{name}\":{gflops:.1}")).collect();
    println!(
        "{{\"table\":\"{isa:?}\",\"threads\":{},\"limits\":{{\"f32\":{f32_flops:.1},\"bf16\":{bf16_flops:.1}}},\"cases\":{{{}}}}}",
        cpu.threads(),
        cases.join(",")
    );
}

/// Peak rates for f32 and bf16; without instructions for bf16 they are the same.
fn limits(cpu: &Cpu) -> [f64; 2] {
    let f32_flops = cpu.measure_f32_flops();
    [f32_flops, cpu.measure_bf16_flops().unwrap_or(f32_flops)]
}

type Cases = Vec<(String, f64)>;

fn products(cpu: &Cpu, (m, n, k): (usize, usize, usize), cases: &mut Cases) {
    let (x, w, y) = (values(m * k, 1), values(n * k, 2), values(m * n, 3));
    let (hx, hw, hy) = (halves(&x), halves(&w), halves(&y));
    let (mut out, mut hout) = (vec![0f32; m * n.max(k)], vec![bf16::ZERO; m * n.max(k)]);
    let mut dw = vec![0f32; n * k];
    let flops = 2.0 * m as f64 * n as f64 * k as f64;
    let mut add = |name: &str, seconds: f64| cases.push((format!("{name} {m}×{n}×{k}"), flops / seconds / 1e9));
    add("nt f32", time(|| cpu.matmul_nt(Out::F32(&mut out[..m * n]), In::F32(&x), Mat::F32(&w), false, m, n, k)));
    add("nn f32", time(|| cpu.matmul_nn(Out::F32(&mut out[..m * k]), In::F32(&y), Mat::F32(&w), false, m, n, k)));
    add("tn f32", time(|| cpu.matmul_tn(&mut dw, In::F32(&y), In::F32(&x), false, m, n, k)));
    let mut nt = |w: Mat| time(|| cpu.matmul_nt(Out::Bf16(&mut hout[..m * n]), In::Bf16(&hx), w, false, m, n, k));
    add("nt bf16", nt(Mat::Bf16(&hw)));
    add("nt bf16, weights f32", nt(Mat::F32(&w)));
    for format in [QuantFormat::Q4_1, QuantFormat::Q8_0] {
        let mut blocks = vec![0u8; format.row_bytes(n * k)];
        quant::quantize(&mut blocks, format, &w);
        add(&format!("nt bf16, weights {format:?}"), nt(Mat::Quant(format, &blocks)));
    }
    add(
        "nn bf16",
        time(|| cpu.matmul_nn(Out::Bf16(&mut hout[..m * k]), In::Bf16(&hy), Mat::Bf16(&hw), false, m, n, k)),
    );
    add("tn bf16", time(|| cpu.matmul_tn(&mut dw, In::Bf16(&hy), In::Bf16(&hx), false, m, n, k)));
}

fn attention(cpu: &Cpu, (batch, tokens, h, hk, d): (usize, usize, usize, usize, usize), cases: &mut Cases) {
    let shape =
        AttnShape { heads: h, kv_heads: hk, head_dim: d, scale: (d as f32).powf(-0.5), causal: true, window: None };
    let span = |i: usize| Span { q_start: i * tokens, q_len: tokens, kv_start: i * tokens, kv_len: tokens };
    let spans: Vec<Span> = (0..batch).map(span).collect();
    let rows = batch * tokens;
    let forward_flops = 4.0 * d as f64 * h as f64 * batch as f64 * (tokens * (tokens + 1) / 2) as f64;
    let new = |heads: usize, seed| values(rows * heads * d, seed);
    let (q, k, v, dout) = (new(h, 1), new(hk, 2), new(hk, 3), new(h, 4));
    let [hq, hk_, hv, hdout] = [&q, &k, &v, &dout].map(|x| halves(x));
    let mut lse = vec![0.0; rows * h];
    let mut add = |name: &str, flops: f64, seconds: f64| {
        cases.push((format!("attention {name} {batch}×{tokens} {h}/{hk} {d}"), flops / seconds / 1e9));
    };
    {
        let [mut out, mut dq, mut dk, mut dv] = [q.clone(), q.clone(), k.clone(), v.clone()];
        let (q, k, v, dout) = (In::F32(&q), In::F32(&k), In::F32(&v), In::F32(&dout));
        add("f32", forward_flops, time(|| cpu.attention(Out::F32(&mut out), &mut lse, q, k, v, &spans, &shape)));
        let both = time(|| {
            cpu.attention(Out::F32(&mut out), &mut lse, q, k, v, &spans, &shape);
            let grads = (Out::F32(&mut dq), Out::F32(&mut dk), Out::F32(&mut dv));
            cpu.attention_bwd(grads.0, grads.1, grads.2, dout, In::F32(&out), &lse, q, k, v, &spans, &shape);
        });
        add("and backward f32", 3.5 * forward_flops, both);
    }
    let [mut out, mut dq, mut dk, mut dv] = [hq.clone(), hq.clone(), hk_.clone(), hv.clone()];
    let (q, k, v, dout) = (In::Bf16(&hq), In::Bf16(&hk_), In::Bf16(&hv), In::Bf16(&hdout));
    add("bf16", forward_flops, time(|| cpu.attention(Out::Bf16(&mut out), &mut lse, q, k, v, &spans, &shape)));
    let both = time(|| {
        cpu.attention(Out::Bf16(&mut out), &mut lse, q, k, v, &spans, &shape);
        let grads = (Out::Bf16(&mut dq), Out::Bf16(&mut dk), Out::Bf16(&mut dv));
        cpu.attention_bwd(grads.0, grads.1, grads.2, dout, In::Bf16(&out), &lse, q, k, v, &spans, &shape);
    });
    add("and backward bf16", 3.5 * forward_flops, both);
}

/// Seconds: the median of at least five runs after one.
fn time(mut run: impl FnMut()) -> f64 {
    run();
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 5 || start.elapsed().as_secs_f64() < TIME_S {
        let one = Instant::now();
        run();
        times.push(one.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Values in -1..1 without a pattern.
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

fn halves(x: &[f32]) -> Vec<bf16> {
    x.iter().map(|&v| bf16::from_f32(v)).collect()
}
