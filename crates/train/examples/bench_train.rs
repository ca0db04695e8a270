//! Times optimizer steps on a model and raw token ids, as the scripts for the peers do: step `s`, row `b` takes tokens
//! `[(s·batch + b)·length, …)`. Prints one line of JSON.
//!
//! `bench_train MODEL TOKENS.u16 --method lora|full --compute f32|bf16 [--batch 4] [--length 512] [--micro-batch-tokens 512]
//! [--steps 4] [--init ADAPTER] [--recompute N] [--threads 2] [--lr 2e-4] [--optimizer-state f32|bf16|8bit]
//! [--gradients accumulate|update_now] [--master-weights f32|none] [--table TABLE] [--logits FILE]`
//!
//! `--table` takes another instruction set than the best, such as `Avx2`.
//!
//! Updates during the backward pass are of whole batches and without clipping.
//!
//! With `--logits` it does not train: it writes the logits of the first `length` tokens to FILE, `[length, vocabulary]` as
//! little-endian f32.

use std::path::Path;
use std::time::Instant;

use ounce_data::Batch;
use ounce_model::{Model, adapters::lora};
use ounce_spec::recipe::{Gradients, LoraRecipe, OptimizerRecipe, StateType};
use ounce_tensor::kernels::{Cpu, Isa};
use ounce_tensor::{Device, Elem, Kernel, Policy, Rows};
use ounce_train::{Trainer, resident};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str, default: &str| {
        let at = args.iter().position(|a| a == &format!("--{name}"));
        at.and_then(|i| args.get(i + 1)).map_or(default.to_string(), String::clone)
    };
    let number = |name: &str, default: usize| flag(name, &default.to_string()).parse::<usize>().expect("a number");
    let (model_path, tokens_path) = (&args[0], &args[1]);
    let (batch, length, steps) = (number("batch", 4), number("length", 512), number("steps", 4));
    let full = flag("method", "lora") == "full";
    let elem = if flag("compute", "bf16") == "f32" { Elem::F32 } else { Elem::Bf16 };
    let table = flag("table", &format!("{:?}", Isa::detect()));
    let isa = Isa::available().into_iter().find(|isa| format!("{isa:?}") == table).expect("a table of this machine");
    let device = Device::cpu(Cpu::with_isa(number("threads", 0), isa));

    let checkpoint = ounce_formats::open(Path::new(model_path)).expect("a model");
    let mut model = Model::load(&device, &checkpoint, length).unwrap_or_else(|e| panic!("{e}"));
    let masters = if flag("master-weights", "f32") == "none" { Elem::Bf16 } else { Elem::F32 };
    let trained = match (full, flag("init", "")) {
        (true, _) => model.make_dense(&device, masters),
        (false, init) if !init.is_empty() => {
            let (config, tensors) = ounce_formats::peft::read_adapter(Path::new(&init)).expect("an adapter");
            lora::attach_saved(&mut model, &device, &init, &config, &tensors).unwrap_or_else(|e| panic!("{e}"))
        }
        _ => lora::attach(&mut model, &device, &LoraRecipe::default(), 0).unwrap_or_else(|e| panic!("{e}")),
    };
    let bytes = std::fs::read(tokens_path).expect("token ids");
    let ids: Vec<u32> = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]) as u32).collect();
    if !flag("logits", "").is_empty() {
        let (_, logits) = model.trace(&device, &Rows::whole(ids[..length].to_vec(), &[0, length]), elem);
        let bytes: Vec<u8> = logits.f32().iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(flag("logits", ""), bytes).expect("a file to write to");
        return;
    }
    let blocks = model.family.blocks();
    let recompute = number("recompute", 0);
    let activations = |i: usize| if i < recompute { Policy::Recompute } else { Policy::Keep };
    let activations: Vec<Policy> = (0..blocks).map(activations).collect();
    let lr = flag("lr", if full { "2e-5" } else { "2e-4" }).parse::<f64>().expect("a number");
    let state = match flag("optimizer-state", "f32").as_str() {
        "bf16" => StateType::Bf16,
        "8bit" => StateType::Block8,
        _ => StateType::F32,
    };
    let optimizer = ounce_optim::from_recipe(&OptimizerRecipe { state, ..OptimizerRecipe::default() });
    let now = flag("gradients", "accumulate") == "update_now";
    let (gradients, clip) = if now { (Gradients::UpdateNow, 0.0) } else { (Gradients::Accumulate, 1.0) };
    let mut trainer = Trainer::new(&device, model, trained, optimizer, gradients, elem, &activations, 0);
    trainer.set_micro_batch(number("micro-batch-tokens", 512));

    let (mut times, mut losses) = (Vec::new(), Vec::new());
    for step in 0..steps + 1 {
        let mut b = Batch { bounds: vec![0], ..Batch::default() };
        for row in 0..batch {
            let ids = &ids[(step * batch + row) * length..][..length];
            b.ids.extend(ids);
            b.targets.extend(ids[1..].iter().chain([&ids[length - 1]]));
            b.weights.extend((0..length).map(|t| f32::from(u8::from(t + 1 < length))));
            b.positions.extend(0..length as u32);
            b.bounds.push(b.ids.len());
            b.examples.push(row as u32);
        }
        device.take_counter();
        device.take_seconds();
        let started = Instant::now();
        let done = trainer.step(&[b], step + 1, 0, lr, clip).unwrap_or_else(|e| panic!("{e}"));
        times.push(started.elapsed().as_secs_f64());
        losses.push(done.loss);
    }
    let (counter, seconds) = (device.take_counter(), device.take_seconds());
    let mut sorted = times[1..].to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    let work: Vec<String> = Kernel::ALL
        .iter()
        .map(|&k| {
            let i = k as usize;
            let (gflop, gb, s) = (counter.flops[i] / 1e9, counter.bytes[i] / 1e9, seconds[i]);
            format!("\"{k:?}\":{{\"gflop\":{gflop:.1},\"gb\":{gb:.2},\"s\":{s:.4}}}")
        })
        .collect();
    println!(
        "{{\"tok_s\":{:.1},\"step_s\":{median:.3},\"first_step_s\":{:.3},\"last_step_s\":{:.4},\"peak_rss_mib\":{},\"arena_peak_mib\":{},\"arena_held_mib\":{},\"losses\":{losses:?},\"work\":{{{}}}}}",
        (batch * length) as f64 / median,
        times[0],
        times[steps],
        resident::peak_bytes() >> 20,
        trainer.memory().peak_bytes >> 20,
        trainer.memory().peak_reserved_bytes >> 20,
        work.join(",")
    );
}
