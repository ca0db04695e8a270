//! Times one sequence as `llama-bench` does: a random prompt to its first token, and tokens after it from a cache that holds
//! `depth` tokens. Unlike there, choosing the token and its probability is in the time. Prints one line of JSON: medians.
//!
//! With `--rows`, passes of the model instead, without choosing tokens: of 1, 2, 4 … rows that belong to as many sequences, and of
//! as many rows of one sequence, as when drafts are verified; each after `depth` tokens. A line for each: medians of `tokens` passes.
//!
//! With `--read`, no model: as many bytes as the file has are read once for each token, as fast as memory gives them.
//!
//! `bench_decode MODEL [--prompt 512] [--tokens 128] [--depth 0] [--runs 3] [--threads 2] [--rows 0] [--read] [--exact] [--cache TYPE]`
//! (the cache is bf16, with --exact f32, as in `ounce serve`)

use std::path::Path;
use std::time::Instant;

use ounce_engine::sampler::{SamplingParams, philox2x64};
use ounce_engine::{Engine, Output, Request, Settings};
use ounce_model::{Kv, Model, Part};
use ounce_tensor::kernels::{CacheType, Cpu};
use ounce_tensor::{BLOCK, Device};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: usize| {
        let at = args.iter().position(|a| a == &format!("--{name}"));
        at.and_then(|i| args.get(i + 1)).map_or(default, |v| v.parse::<usize>().expect("a number"))
    };
    let model_path = args.first().expect("a model");
    let (prompt, tokens, depth) = (number("prompt", 512).max(1), number("tokens", 128).max(1), number("depth", 0));
    let runs = number("runs", 3).max(1);
    let device = Device::cpu(Cpu::new(number("threads", 2)));
    if args.iter().any(|a| a == "--read") {
        return reads(&device, Path::new(model_path), tokens * runs);
    }
    let context = prompt.max(depth + 1 + tokens) + 1;
    let checkpoint = ounce_formats::open(Path::new(model_path)).expect("a model");
    let model = Model::load(&device, &checkpoint, context).unwrap_or_else(|e| panic!("{e}"));
    let vocab = model.config.vocab_size as u64;
    let int8 = !args.iter().any(|a| a == "--exact");
    let at = args.iter().position(|a| a == "--cache");
    let cache = match at.and_then(|i| args.get(i + 1)).map_or(if int8 { "bf16" } else { "f32" }, String::as_str) {
        "f32" => CacheType::F32,
        "bf16" => CacheType::Bf16,
        "q8" => CacheType::Q8,
        "q4" => CacheType::Q4,
        other => panic!("a cache of {other}: f32, bf16, q8 or q4"),
    };
    if number("rows", 0) > 0 {
        return passes(&device, model, depth, number("rows", 0), tokens, int8, cache);
    }
    let mut engine = Engine::new(&device, model, Settings { slots: 1, context, int8, cache, ..Settings::default() });

    // Every prompt is another one, or the engine would remember it instead of computing it.
    let mut drawn = 0;
    let mut random = |n: usize| -> Vec<u32> {
        drawn += n as u64;
        (drawn - n as u64..drawn).map(|i| (philox2x64([i, 0], 0)[0] % vocab) as u32).collect()
    };
    let (mut first, mut decode) = (Vec::new(), Vec::new());
    // The first pass touches every page of the file and is not counted.
    for run in 0..runs + 1 {
        let to_first = answer(&mut engine, random(prompt), 1)[0];
        let times = answer(&mut engine, random(depth + 1), tokens);
        // One token after another: the prompt of `depth` tokens is outside where there is one.
        let seconds = if depth == 0 { times[tokens - 1] } else { times[tokens - 1] - times[0] };
        let counted = if depth == 0 { tokens } else { tokens - 1 };
        if run > 0 {
            first.push(to_first);
            decode.push(counted as f64 / seconds);
        }
    }
    let first_token_s = median(&mut first);
    println!(
        "{{\"prefill_tok_s\":{:.2},\"decode_tok_s\":{:.2},\"first_token_s\":{first_token_s:.5},\"peak_rss_mib\":{}}}",
        prompt as f64 / first_token_s,
        median(&mut decode),
        peak_rss_mib(),
    );
}

/// How often in a second memory of the size of a file can be read.
fn reads(device: &Device, model: &Path, passes: usize) {
    let bytes = model.metadata().expect("a model").len() as usize;
    let cpu = device.processor().expect("a processor");
    let rate = cpu.measure_steady_reading(bytes, passes).expect("memory for the file");
    println!("{{\"reads_s\":{:.2}}}", rate / bytes as f64);
}

/// Times passes of up to `most` rows, all sizes in turn.
fn passes(device: &Device, mut model: Model, depth: usize, most: usize, times: usize, int8: bool, cache: CacheType) {
    if int8 {
        model.interleave(device);
    }
    let vocab = model.config.vocab_size as u64;
    let each = (depth + most).div_ceil(BLOCK);
    let mut kv = Kv::new(device, &model.config, cache, most * each);
    let blocks: Vec<u32> = (0..(most * each) as u32).collect();
    let token = |i: usize| (philox2x64([i as u64, 0], 0)[0] % vocab) as u32;
    let tokens: Vec<u32> = (0..depth + most).map(token).collect();
    let mut pass = |parts: &[Part]| {
        let rows = kv.begin(parts);
        let wanted: Vec<u32> = (0..rows.ids.len() as u32).collect();
        let started = Instant::now();
        model.infer(device, &rows, &mut kv, &wanted, int8).unwrap_or_else(|e| panic!("{e}"));
        1e3 * started.elapsed().as_secs_f64()
    };
    if depth > 0 {
        for blocks in blocks.chunks(each) {
            pass(&[Part { tokens: &tokens[..depth], past: 0, blocks }]);
        }
    }
    let sizes: Vec<usize> = std::iter::successors(Some(1), |n| Some(2 * n)).take_while(|n| *n <= most).collect();
    let mut ms = vec![[Vec::new(), Vec::new()]; sizes.len()];
    for _ in 0..times {
        for (&n, ms) in sizes.iter().zip(&mut ms) {
            let part = |(i, blocks)| Part { tokens: &tokens[i..i + 1], past: depth, blocks };
            let sequences: Vec<Part> = blocks.chunks(each).take(n).enumerate().map(part).collect();
            ms[0].push(pass(&sequences));
            ms[1].push(pass(&[Part { tokens: &tokens[depth..depth + n], past: depth, blocks: &blocks[..each] }]));
        }
    }
    for (rows, ms) in sizes.iter().zip(&mut ms) {
        let [sequences, one] = ms.each_mut().map(|ms| median(ms));
        println!("{{\"rows\":{rows},\"sequences_ms\":{sequences:.3},\"one_sequence_ms\":{one:.3}}}");
    }
}

/// Runs one request; the seconds from its start to each of its tokens.
fn answer(engine: &mut Engine, prompt: Vec<u32>, max_tokens: usize) -> Vec<f64> {
    let params = SamplingParams { max_tokens, ignore_eos: true, ..SamplingParams::default() };
    let started = Instant::now();
    engine.submit(Request::new(prompt, params)).unwrap_or_else(|e| panic!("{e}"));
    let mut times = Vec::new();
    while !engine.is_idle() {
        let outputs = engine.step().unwrap_or_else(|e| panic!("{e}"));
        let tokens = outputs.iter().filter(|o| matches!(o, Output::Token { .. })).count();
        times.extend(std::iter::repeat_n(started.elapsed().as_secs_f64(), tokens));
    }
    times
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The largest resident size so far; 0 where the system does not say.
fn peak_rss_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<usize>().ok()).unwrap_or(0) >> 10
}
