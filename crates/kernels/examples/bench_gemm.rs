//! GFLOP/s of the products at the shapes that training and decoding use, as a share of the measured roofline.
//! `cargo run --release -p ounce-kernels --example bench_gemm [threads] [filter] [table, such as Avx2]`

use ounce_kernels::{Cpu, In, Interleaved, Isa, Mat, Out, PanelFormat, QuantFormat, bf16, quant};
use std::time::Instant;

fn main() {
    let mut args = std::env::args().skip(1);
    let threads = args.next().and_then(|a| a.parse().ok()).unwrap_or(0);
    let filter = args.next().unwrap_or_default();
    let table = args.next().unwrap_or_else(|| format!("{:?}", Isa::detect()));
    let isa = Isa::available().into_iter().find(|isa| format!("{isa:?}") == table).expect("a table of this machine");
    let cpu = Cpu::with_isa(threads, isa);
    let f32_peak = cpu.measure_f32_flops();
    let bf16_peak = cpu.measure_bf16_flops().unwrap_or(f32_peak);
    println!("{:?}, {} threads", cpu.isa(), cpu.threads());
    println!(
        "peak GFLOP/s: f32 {:.0}, bf16 {:.0}; int8 Gop/s {:.0}",
        f32_peak / 1e9,
        bf16_peak / 1e9,
        cpu.measure_int8_ops().unwrap_or(0.0) / 1e9
    );
    let bandwidth = cpu.measure_read_bandwidth(128 << 20);
    for (name, bytes) in [("L1", 16 << 10), ("L2", 512 << 10), ("L3", 6 << 20)] {
        println!("read {name} {:.0} GB/s", cpu.measure_read_bandwidth(bytes) / 1e9);
    }
    println!("read DRAM {:.0} GB/s", bandwidth / 1e9);
    let wanted = |name: &str| name.contains(&filter);

    for (layout, m, n, k) in [
        ("nt", 2048, 576, 576),
        ("nt", 512, 576, 576),
        ("nt", 2048, 192, 576),
        ("nt", 2048, 1536, 576),
        ("nt", 512, 1536, 576),
        ("nt", 2048, 576, 1536),
        ("nt", 256, 49152, 576),
        ("nn", 2048, 576, 576),
        ("nn", 2048, 1536, 576),
        ("nn", 2048, 576, 1536),
        ("nn", 256, 49152, 576),
        ("tn", 2048, 576, 576),
        ("tn", 2048, 1536, 576),
        ("tn", 2048, 576, 1536),
        ("nt", 2048, 8, 576),
        ("nt", 2048, 576, 8),
        ("nn", 2048, 8, 576),
        ("nn", 2048, 576, 8),
        ("tn", 2048, 8, 576),
        ("tn", 2048, 1536, 8),
    ] {
        for (name, half) in [("bf16", true), ("f32", false)] {
            let title = format!("{layout} {name} ({m},{n},{k})");
            if !wanted(&title) {
                continue;
            }
            let (x, w, y) = (ramp(m * k), ramp(n * k), ramp(m * n));
            let (hx, hw, hy) = (halves(&x), halves(&w), halves(&y));
            let input = |f: &'static str| match (f, half) {
                ("x", true) => In::Bf16(&hx),
                ("x", false) => In::F32(&x),
                (_, true) => In::Bf16(&hy),
                (_, false) => In::F32(&y),
            };
            let weight = if half { Mat::Bf16(&hw) } else { Mat::F32(&w) };
            let mut out = vec![0f32; m * n.max(k)];
            let mut hout = vec![bf16::ZERO; m * n.max(k)];
            let mut dw = vec![0f32; n * k];
            let size = if layout == "nn" { m * k } else { m * n };
            // Other processes come and go: the roofline is measured again beside each product.
            let peak = || {
                if half {
                    cpu.measure_bf16_flops().unwrap_or_else(|| cpu.measure_f32_flops())
                } else {
                    cpu.measure_f32_flops()
                }
            };
            let before = peak();
            let best = time(|| {
                let out = if half { Out::Bf16(&mut hout[..size]) } else { Out::F32(&mut out[..size]) };
                match layout {
                    "nt" => cpu.matmul_nt(out, input("x"), weight, false, m, n, k),
                    "nn" => cpu.matmul_nn(out, input("y"), weight, false, m, n, k),
                    _ => cpu.matmul_tn(&mut dw, input("y"), input("x"), false, m, n, k),
                }
            });
            let flops = 2.0 * (m * n * k) as f64 / best;
            let width = if half { 2.0 } else { 4.0 };
            let bytes = width * (m * k + n * k + m * n) as f64 / best;
            let peak = peak().max(before);
            println!(
                "{title:28} {:8.1} us {:7.1} GFLOP/s {:5.1} %  {:6.1} GB/s",
                best * 1e6,
                flops / 1e9,
                100.0 * flops / peak,
                bytes / 1e9
            );
        }
    }

    // Decoding: weights far larger than the caches (several copies of the matrix in turn), then one matrix in cache.
    for (n, k) in [(576, 576), (1536, 576), (576, 1536), (49152, 576)] {
        let w = ramp(n * k);
        let copies = if n > 10000 { 1 } else { (96 << 20) / (n * k) };
        let mut kinds: Vec<(String, Vec<u8>, Option<QuantFormat>)> = vec![
            ("bf16".into(), bytemuck::cast_slice(&halves(&w)).to_vec(), None),
            ("f32".into(), bytemuck::cast_slice(&w).to_vec(), None),
        ];
        for format in QuantFormat::ALL {
            if k % format.block_len() == 0 {
                let mut blocks = vec![0u8; format.row_bytes(n * k)];
                quant::quantize(&mut blocks, format, &w);
                kinds.push((format!("{format:?}"), blocks, Some(format)));
            }
        }
        interleaved(&cpu, &kinds, copies, n, k, bandwidth, &wanted);
        for (name, bytes, format) in kinds {
            for (int8, m) in [(true, 1), (true, 8), (false, 1), (false, 8)] {
                let title = format!("decode {} {name} m={m} ({n},{k})", if int8 { "int8" } else { "exact" });
                if int8 && format.is_none() || !wanted(&title) {
                    continue;
                }
                let all: Vec<Vec<u64>> = (0..copies)
                    .map(|_| {
                        let mut words = vec![0u64; bytes.len().div_ceil(8)];
                        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(&bytes);
                        words
                    })
                    .collect();
                let x = ramp(m * k);
                let mut out = vec![0f32; m * n];
                let mut run = |copy: &Vec<u64>| {
                    let bytes = &bytemuck::cast_slice::<u64, u8>(copy)[..bytes.len()];
                    let w = mat(&name, bytes, format);
                    if int8 {
                        cpu.matmul_nt_int8(&mut out, &x, w, m, n, k);
                    } else {
                        cpu.matmul_nt(Out::F32(&mut out), In::F32(&x), w, false, m, n, k);
                    }
                };
                let cold = time(|| all.iter().for_each(&mut run)) / copies as f64;
                let warm = time(|| run(&all[0]));
                let rate = |s: f64| bytes.len() as f64 / s / 1e9;
                println!(
                    "{title:40} {:6.1} GB/s from memory ({:3.0} %), {:6.1} GB/s one matrix",
                    rate(cold),
                    1e11 * rate(cold) / bandwidth,
                    rate(warm)
                );
            }
        }
    }
}

/// Products with interleaved weights: the rate at which they are read, and for many rows the rate of the sums.
fn interleaved(
    cpu: &Cpu,
    kinds: &[(String, Vec<u8>, Option<QuantFormat>)],
    copies: usize,
    n: usize,
    k: usize,
    bandwidth: f64,
    wanted: &impl Fn(&str) -> bool,
) {
    for (name, bytes, format) in kinds {
        if !cpu.interleaves() {
            continue;
        }
        let w = mat(name, bytes, *format);
        let format = PanelFormat::of(w);
        for m in [1, 4, 8, 16, 32, 512] {
            let title = format!("interleaved {name} m={m} ({n},{k})");
            if !wanted(&title) {
                continue;
            }
            let mut panels = vec![0u8; format.bytes(n, k) + 64];
            let start = panels.as_ptr().align_offset(64);
            let size = panels.len() - 64;
            cpu.interleave(&mut panels[start..start + size], w, n, k);
            let all: Vec<Vec<u8>> = (0..copies).map(|_| moved(&panels, start, size)).collect();
            let (x, mut out) = (ramp(m * k), vec![0f32; m * n]);
            let mut run = |copy: &Vec<u8>| {
                let start = copy.as_ptr().align_offset(64);
                let w = Interleaved { format, panels: &copy[start..start + size], n };
                cpu.matmul_nt_interleaved(&mut [&mut out], &x, &[w], m, k, &[]);
            };
            let cold = time(|| all.iter().for_each(&mut run)) / copies as f64;
            let warm = time(|| run(&all[0]));
            let (rate, ops) = (size as f64 / cold / 1e9, 2.0 * (m * n * k) as f64 / warm / 1e9);
            let share = 1e11 * rate / bandwidth;
            let one = size as f64 / warm / 1e9;
            println!(
                "{title:40} {rate:6.1} GB/s from memory ({share:3.0} %), {one:6.1} GB/s one matrix, {ops:6.0} Gop/s"
            );
        }
    }
}

fn mat<'a>(name: &str, bytes: &'a [u8], format: Option<QuantFormat>) -> Mat<'a> {
    match format {
        Some(format) => Mat::Quant(format, bytes),
        None if name == "bf16" => Mat::Bf16(bytemuck::cast_slice(bytes)),
        None => Mat::F32(bytemuck::cast_slice(bytes)),
    }
}

/// A copy that also begins at a cache line.
fn moved(panels: &[u8], start: usize, size: usize) -> Vec<u8> {
    let mut copy = vec![0u8; panels.len()];
    let to = copy.as_ptr().align_offset(64);
    copy[to..to + size].copy_from_slice(&panels[start..start + size]);
    copy
}

/// Seconds: the best of several runs within about 0.3 s.
fn time(mut run: impl FnMut()) -> f64 {
    run();
    let (start, mut best) = (Instant::now(), f64::MAX);
    while start.elapsed().as_secs_f64() < 0.3 {
        let one = Instant::now();
        run();
        best = best.min(one.elapsed().as_secs_f64());
    }
    best
}

fn ramp(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 2003) as f32 / 1001.5 - 1.0).collect()
}

fn halves(x: &[f32]) -> Vec<bf16> {
    x.iter().map(|&v| bf16::from_f32(v)).collect()
}
