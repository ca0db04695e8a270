//! Times one sequence as `llama-bench` does: a random prompt to its first token, and tokens after it from a cache that holds
//! `depth` tokens. Unlike there, choosing the token and its probability is in the time. Prints one line of JSON: medians.
//!
//! `bench_decode MODEL [--prompt 512] [--tokens 128] [--depth 0] [--runs 3] [--threads 2] [--exact]`

use std::path::Path;
use std::time::Instant;

use ounce_engine::sampler::{SamplingParams, philox2x64};
use ounce_engine::{Engine, Output, Request, Settings};
use ounce_model::Model;
use ounce_tensor::Device;
use ounce_tensor::kernels::Cpu;

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
    let context = prompt.max(depth + 1 + tokens) + 1;
    let checkpoint = ounce_formats::open(Path::new(model_path)).expect("a model");
    let model = Model::load(&device, &checkpoint, context).unwrap_or_else(|e| panic!("{e}"));
    let vocab = model.config.vocab_size as u64;
    let int8 = !args.iter().any(|a| a == "--exact");
    let mut engine = Engine::new(&device, model, Settings { slots: 1, context, int8, ..Settings::default() });

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
