//! `ounce bench MODEL`: prefill and decoding of one sequence, beside what the machine could do at most.

use std::time::Instant;

use ounce_engine::sampler::{Dice, SamplingParams};
use ounce_engine::{Engine, Output, Request};
use ounce_formats::Checkpoint;
use ounce_spec::DType;
use ounce_spec::machine::Rates;
use ounce_tensor::kernels::Cpu;
use serde_json::{Value, json};

use crate::codes::{self, Exit};
use crate::error::{CliError, Result};
use crate::flags::bench::Args;
use crate::flags::talk::Base;
use crate::model;
use crate::output::units;
use crate::signals::Signals;
use crate::talk::{Speaker, Uses, refusal};
use crate::verbs::{Context, doctor};

pub fn run(context: &Context, name: &str, args: &Args) -> Result<Exit> {
    let signals = Signals::listen();
    // Rates are measured before the model takes its memory, or remembered. The last are those of all threads that were asked for.
    let machine = doctor::machine(context, false);
    let checkpoint = model::open(name, &context.env)?;
    let rates = machine.rates.last();
    let limits = rates.map(|rates| Limits::of(&checkpoint, args, rates));
    let longest = args.prompt.max(args.depth + 1 + args.tokens) + 1;
    let (exact, kv_cache, mem) = (args.exact, args.kv_cache, args.mem);
    // Guesses are worth what the text is worth, and that of random tokens is nothing.
    let (speculate, draft_model) = (0, None);
    let base = Base { model: name.to_owned(), context: longest, exact, kv_cache, mem, speculate, draft_model };
    let began = Instant::now();
    let mut speaker = Speaker::open(context, &base, args.adapter.as_deref(), 1, Uses::ANSWERS)?;
    let load_s = began.elapsed().as_secs_f64();
    let served = speaker.engine.settings().context;
    if served < longest {
        return Err(CliError::new(&codes::SAMPLING, format!("the model has {served} positions, {longest} are needed"))
            .help("lower --prompt, --tokens or --depth"));
    }
    let measured = measure(&mut speaker.engine, args, &signals)?;
    let threads = rates.map_or(0, |rates| rates.threads);
    let value = report(name, threads, load_s, &measured, limits, args);
    match context.out.json {
        true => context.out.value(&value),
        false => context.out.piece(&draw(&value)),
    }
    Ok(Exit::Done)
}

/// Medians over the runs.
struct Measured {
    first_token_s: f64,
    decode_tok_s: f64,
}

fn measure(engine: &mut Engine, args: &Args, signals: &Signals) -> Result<Measured> {
    let vocab = engine.model().config.vocab_size;
    let mut dice = Dice::new(0);
    // Every prompt is another one, or the engine would remember it instead of computing it.
    let mut random = |n: usize| -> Vec<u32> { (0..n).map(|_| dice.roll(vocab) as u32).collect() };
    let (mut first, mut decode) = (Vec::new(), Vec::new());
    // The first run touches every page of the file and is not counted.
    for run in 0..=args.runs {
        let to_first = answer(engine, random(args.prompt), 1)?[0];
        let times = answer(engine, random(args.depth + 1), args.tokens)?;
        if signals.stopped() {
            return Err(
                CliError::new(signals.code(), "the measurement was interrupted").help("run the same command again")
            );
        }
        // Where there is a conversation before, reading it is outside; one token alone has nothing else to count.
        let (counted, seconds) = match times.as_slice() {
            [start, .., end] if args.depth > 0 => (times.len() - 1, end - start),
            [.., end] => (times.len(), *end),
            [] => continue,
        };
        if run > 0 {
            first.push(to_first);
            decode.push(counted as f64 / seconds);
        }
    }
    Ok(Measured { first_token_s: median(first), decode_tok_s: median(decode) })
}

/// Runs one request; the seconds from its start to each of its tokens.
fn answer(engine: &mut Engine, prompt: Vec<u32>, max_tokens: usize) -> Result<Vec<f64>> {
    let params = SamplingParams { max_tokens, ignore_eos: true, ..SamplingParams::default() };
    let began = Instant::now();
    engine.submit(Request::new(prompt, params)).map_err(refusal)?;
    let mut times = Vec::new();
    while !engine.is_idle() {
        let outputs = engine.step().map_err(|e| CliError::of(&codes::READ, &e))?;
        let tokens = outputs.iter().filter(|output| matches!(output, Output::Token { .. })).count();
        times.extend(std::iter::repeat_n(began.elapsed().as_secs_f64(), tokens));
    }
    Ok(times)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// Bytes that are read to measure memory, at most, and how often: far more than caches hold, a second of work.
const READ_BYTES: usize = 256 << 20;
const READ_PASSES: usize = 101;

/// What the machine could do at most, tokens a second.
struct Limits {
    weights_bytes: usize,
    prefill_tok_s: f64,
    decode_tok_s: f64,
}

impl Limits {
    fn of(checkpoint: &Checkpoint, args: &Args, rates: &Rates) -> Limits {
        // Rows of the embedding are looked up; as the output it is multiplied, once for a whole prompt.
        let is_embedding = |name: &str| name.ends_with("embed_tokens.weight") || name.ends_with("wte.weight");
        let is_head = |name: &str| name.ends_with("lm_head.weight");
        let untied = checkpoint.tensors.iter().any(|(name, _)| is_head(name));
        let (mut bytes, mut inside, mut head, mut quantised, mut halves) = (0, 0, 0, false, false);
        for (name, tensor) in checkpoint.tensors.iter() {
            if untied && is_embedding(name) {
                continue;
            }
            bytes += tensor.bytes.len();
            if tensor.shape.len() < 2 {
                continue;
            }
            quantised |= tensor.dtype.is_quantized();
            halves |= tensor.dtype == DType::BF16;
            let is_output = is_head(name) || is_embedding(name);
            *(if is_output { &mut head } else { &mut inside }) += tensor.elements();
        }
        let config = &checkpoint.config;
        let prompt = args.prompt as f64;
        // A causal prompt of t tokens has t²/2 pairs, each of two products in every head.
        let heads = (config.num_hidden_layers * config.num_attention_heads * config.head_dim) as f64;
        let operations = 2.0 * inside as f64 * prompt + 2.0 * head as f64 + 2.0 * prompt * prompt * heads;
        let rounded = match (quantised, halves) {
            (true, _) => rates.int8_ops,
            (false, true) => rates.bf16_flops,
            (false, false) => None,
        };
        let rate = rounded.filter(|_| !args.exact).unwrap_or(rates.f32_flops);
        let decode_tok_s = reading(rates, bytes, args.mem) / bytes as f64;
        Limits { weights_bytes: bytes, prefill_tok_s: rate * prompt / operations, decode_tok_s }
    }
}

/// Bytes a second that memory gives all threads, measured now: beside busy neighbours that is less than the best of short
/// measurements, which `ounce doctor` remembers.
fn reading(rates: &Rates, weights: usize, mem: Option<usize>) -> f64 {
    let bytes = weights.min(mem.map_or(usize::MAX, |mem| mem / 4)).min(READ_BYTES);
    Cpu::new(rates.threads).measure_steady_reading(bytes, READ_PASSES).unwrap_or(rates.dram_bytes_s)
}

fn report(name: &str, threads: usize, load_s: f64, measured: &Measured, limits: Option<Limits>, args: &Args) -> Value {
    let prefill = args.prompt as f64 / measured.first_token_s;
    let limits = limits.map(|limits| {
        json!({
            "weights_bytes": limits.weights_bytes,
            "prefill_tok_s": limits.prefill_tok_s,
            "prefill_share": prefill / limits.prefill_tok_s,
            "decode_tok_s": limits.decode_tok_s,
            "decode_share": measured.decode_tok_s / limits.decode_tok_s,
        })
    });
    json!({
        "model": name,
        "threads": threads,
        "prompt_tokens": args.prompt,
        "tokens": args.tokens,
        "depth": args.depth,
        "runs": args.runs,
        "exact": args.exact,
        "load_s": load_s,
        "first_token_s": measured.first_token_s,
        "prefill_tok_s": prefill,
        "decode_tok_s": measured.decode_tok_s,
        "peak_bytes": peak_bytes(),
        "limits": limits,
    })
}

fn draw(value: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let share = |name: &str| match value["limits"][name].as_f64() {
        Some(share) => format!(", {:.0} % of the limit", share * 100.0),
        None => String::new(),
    };
    let line = |name: &str, text: String| format!("{name:<12} {text}\n");
    let behind = match value["depth"].as_u64() {
        Some(0) | None => String::new(),
        Some(depth) => format!(" behind {depth}"),
    };
    let (prompt, tokens) = (&value["prompt_tokens"], &value["tokens"]);
    let (prefill, decode) = (number(&value["prefill_tok_s"]), number(&value["decode_tok_s"]));
    let mut out =
        line("model", format!("{}, {} threads", value["model"].as_str().unwrap_or_default(), value["threads"]));
    out += &line("load", units::seconds(number(&value["load_s"])));
    out += &line("first token", format!("{} for {prompt} tokens", units::seconds(number(&value["first_token_s"]))));
    out += &line("prefill", format!("{prefill:.0} tokens/s{}", share("prefill_share")));
    out += &line("decode", format!("{decode:.1} tokens/s ({tokens} tokens{behind}){}", share("decode_share")));
    out + &line("peak memory", units::bytes(number(&value["peak_bytes"]) as usize))
}

/// The largest resident size so far; 0 where the system does not say.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()).map_or(0, |kib| kib << 10)
}
