//! The forecast of a run: its own batches through its own code on the dry device, over this machine's measured speed.

use std::path::Path;
use std::time::Instant;

use ounce_data::Batch;
use ounce_formats::{Checkpoint, scratch};
use ounce_plan::{Calibration, DoesNotFit, Facts, Shapes, Tiered, choose, disk};
use ounce_spec::plan::{MemoryForecast, Policy, Residency};
use ounce_spec::recipe::{Activations, Method, Offload};
use ounce_spec::{Plan, Recipe};
use ounce_tensor::kernels::{AttnShape, In};
use ounce_tensor::{Device, Elem, Kernel, Weight};
use ounce_train::Trainer;

use super::setup::{self, Prepared};
use crate::codes;
use crate::error::{CliError, Result};
use crate::memory;
use crate::output::units;
use crate::verbs::plan::parts;

/// Batches that are rehearsed: enough that their mean is the run's.
const SAMPLE: usize = 24;

/// Forecasts and chooses; refuses what cannot fit into `limit_bytes`. The trainer is left
/// as the plan has it.
pub fn forecast(recipe: &Recipe, prepared: &mut Prepared, limit_bytes: usize) -> Result<Plan> {
    let (sample, mean_tokens, sequences) = sample(prepared);
    let parts = sample.iter().flat_map(|b| b.parts(setup::micro_batch_tokens(recipe)));
    let rows = parts.map(|p| p.tokens()).max().unwrap_or(1);
    let elem = setup::elem(recipe.compute);
    let rank = if recipe.method == Method::Lora { recipe.lora.rank } else { 0 };
    let trainer = &prepared.trainer;
    let trained = setup::masters(recipe);
    let shape_of = |p| trainer.model.params.weight(p).shape();
    let trained_len = trainer.trained.iter().map(|&p| shape_of(p)).map(|(n, k)| n * k).sum();
    let length = (mean_tokens / sequences.max(1.0)) as usize;
    let threads = prepared.device.processor().map_or(1, |cpu| cpu.threads());
    let room_bytes = limit_bytes.saturating_sub(memory::program_bytes(threads) + memory::RUN_GROWTH);
    let shapes = Shapes { rows, length, rank, elem, trained, trained_len, room_bytes };
    let mut calibration = Calibration::measure(&trainer.device, &trainer.model, &*trainer.optimizer, &shapes);
    // Its buffers belong to no step.
    trainer.device.arena().trim();

    let checkpoint = &prepared.target.checkpoint;
    let mut rehearsal = setup::build(&Device::dry(), checkpoint, recipe)?;
    let accumulation = recipe.gradient_accumulation.max(1);
    let steps = recipe.max_steps.unwrap_or_else(|| prepared.batches.steps_in(recipe.epochs).div_ceil(accumulation));
    let params = &trainer.model.params;
    // What is trained is in memory or on a disk of its own, not in place.
    let frozen = recipe.method != Method::Full;
    let mapped = params.iter().filter(|(_, p)| frozen && matches!(p.weight, Weight::Stored { .. }));
    let processor = prepared.device.processor();
    let like = match elem {
        Elem::F32 => In::F32(&[]),
        Elem::Bf16 => In::Bf16(&[]),
        Elem::F16 => In::F16(&[]),
    };
    let scratch = |(n, k): (usize, usize)| processor.map_or(0, |cpu| cpu.matmul_workspace_bytes(rows, n, k, like));
    let linears = trainer.model.family.linears();
    let products = linears.iter().map(|l| scratch(params.weight(l.weight).shape())).max().unwrap_or(0);
    let config = &trainer.model.config;
    let shape = AttnShape {
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        scale: config.attention_scale,
        causal: true,
        window: None,
    };
    let attention = processor.map_or(0, |cpu| cpu.attention_workspace_bytes(rows, &shape));
    let mut facts = Facts {
        blocks: trainer.model.family.blocks(),
        activations: recipe.activations,
        limit_bytes,
        program_bytes: prepared.program_bytes,
        mapped_bytes: mapped.map(|(_, p)| p.weight.bytes_len()).sum(),
        unstreamable_bytes: None,
        disk_free_bytes: None,
        optimizer_bytes: rehearsal.optimizer_bytes(),
        tiered: None,
        // They use the same buffers, one after the other.
        scratch_bytes: products.max(attention),
        rehearsed: sample.len(),
        batches: steps * accumulation,
        steps,
        tokens: (mean_tokens * (steps * accumulation) as f64) as usize,
    };
    let rehearse = |trainer: &mut Trainer, activations: &[Policy]| {
        trainer.set_activations(activations);
        trainer.rehearse(&sample).expect("the dry device reads nothing")
    };
    let mut plan = choose(&facts, &calibration, &mut |activations, _| rehearse(&mut rehearsal, activations));
    let whole = matches!(&plan, Ok(plan) if plan.activations.iter().all(|policy| *policy == Policy::Keep));
    let dir = setup::existing(recipe.out.as_ref());
    let mut on_disk = None;
    let mut no_disk = in_memory(recipe, &dir);
    if !whole && recipe.offload == Offload::Disk {
        // Only now are disks' speeds worth measuring.
        let mut rates = Vec::new();
        let wanted = match recipe.activations {
            Activations::Auto => !scratch::is_memory(&dir),
            Activations::Offload => true,
            Activations::Keep | Activations::Recompute => false,
        };
        let tiered = setup::disk_for(recipe).filter(|_| plan.is_err());
        if (wanted || tiered.is_some())
            && let (Ok(found), Ok(free)) = (disk::measure(&dir), scratch::free_bytes(&dir))
        {
            facts.disk_free_bytes = wanted.then_some(free);
            if tiered.is_some() {
                let trainer = setup::build_on_disk(&Device::dry(), checkpoint, recipe, &dir)?;
                let (disk_bytes, optimizer_bytes) = (trainer.file_bytes(), trainer.optimizer_bytes());
                // What a run that is prepared has taken already is not free any more.
                let enough = free.saturating_add(prepared.trainer.file_bytes() as u64) >= disk_bytes as u64;
                facts.tiered = enough.then_some(Tiered { disk_bytes, optimizer_bytes });
                no_disk = (!enough).then(|| {
                    let (needed, free) = (units::bytes(disk_bytes), units::bytes(free as usize));
                    format!(
                        "what is trained cannot wait on disk: it takes {needed}, and {free} are free in {}",
                        dir.display()
                    )
                });
                on_disk = Some(trainer);
            }
            calibration.write_bytes_s = found.write_bytes_s;
            rates.push(found.read_bytes_s);
        }
        if facts.mapped_bytes > 0 {
            facts.unstreamable_bytes = Some(trainer.model.unstreamable_bytes(checkpoint));
            rates.extend(largest_file(checkpoint).and_then(|path| disk::read_bytes_s(&path)));
        }
        // Where the model is on another disk than the run, the slower one speaks for both.
        calibration.read_bytes_s = rates.into_iter().filter(|rate| *rate > 0.0).min_by(f64::total_cmp).unwrap_or(0.0);
        let mut streamed = setup::build(&Device::dry(), checkpoint, recipe)?;
        if facts.mapped_bytes > 0 {
            setup::stream(&mut streamed, checkpoint)?;
        }
        plan = choose(&facts, &calibration, &mut |activations, weights| match weights {
            Residency::Mapped => rehearse(&mut rehearsal, activations),
            Residency::Streamed => rehearse(&mut streamed, activations),
            Residency::Tiered => rehearse(on_disk.as_mut().expect("a fact says that it may be"), activations),
        });
        if matches!(&plan, Ok(plan) if plan.weights == Residency::Streamed) {
            rehearsal = streamed;
        }
    }
    let mut plan = plan.map_err(|DoesNotFit { plan }| refused(&plan.memory, &plan.reasons, recipe, no_disk))?;
    if plan.weights == Residency::Tiered {
        rehearsal = on_disk.expect("it was rehearsed");
        if prepared.trainer.tiers.is_none() {
            // The one in memory goes before the other comes: there is no room for both.
            let device = prepared.device.clone();
            prepared.trainer = setup::build(&Device::dry(), checkpoint, recipe)?;
            device.arena().trim();
            prepared.trainer = setup::build_on_disk(&device, checkpoint, recipe, &dir)?;
        }
    }
    if plan.weights == Residency::Streamed {
        setup::stream(&mut prepared.trainer, checkpoint)?;
    }
    if plan.offloaded_bytes > 0 {
        setup::offload(&mut prepared.trainer, &dir, plan.offloaded_bytes)?;
    }
    prepared.trainer.set_activations(&plan.activations);
    let typical = sample.iter().min_by_key(|batch| (batch.tokens() as f64 - mean_tokens).abs() as usize);
    if let Some(typical) = typical.map(std::slice::from_ref) {
        measure(&mut plan, &calibration, &mut rehearsal, typical, accumulation, &mut prepared.trainer)?;
    }
    Ok(plan)
}

/// The file that most weights are in.
fn largest_file(checkpoint: &Checkpoint) -> Option<std::path::PathBuf> {
    let places = checkpoint.tensors.iter().filter_map(|(_, data)| data.bytes.place());
    places.max_by_key(|place| place.range.end).map(|place| place.path.to_path_buf())
}

/// Steps longer than this are forecast without running one.
const LONGEST_MEASURED_S: f64 = 20.0;

/// Kernels timed one by one say nothing of what lies between them: one batch is run for real, without an update, and the
/// forecast corrected by how far off it was. The plan fits, so this does.
fn measure(
    plan: &mut Plan,
    calibration: &Calibration,
    rehearsal: &mut Trainer,
    typical: &[Batch],
    accumulation: usize,
    trainer: &mut Trainer,
) -> Result<()> {
    rehearsal.set_activations(&plan.activations);
    let rehearsed = rehearsal.rehearse(typical).expect("the dry device reads nothing");
    let counter = rehearsed.counter.scaled(Kernel::Update, 1.0 / accumulation as f64);
    let expected = calibration.seconds(&counter);
    if expected <= 0.0 || expected > LONGEST_MEASURED_S {
        return Ok(());
    }
    let read = |e| CliError::of(&codes::READ, &e);
    // Makes the buffers, which the run's later steps find ready.
    trainer.rehearse(typical).map_err(read)?;
    let mut time = || {
        let started = Instant::now();
        trainer.repeat(typical).map_err(read)?;
        Ok(started.elapsed().as_secs_f64())
    };
    let (factor, against_kernels) = calibration.correction(&counter, time()?.min(time()?));
    plan.time.step_s *= factor;
    plan.time.total_s *= factor;
    plan.time.tokens_per_s /= factor;
    plan.reasons.push(format!(
        "a batch run for real took {:+.0} % against the sum of its kernels",
        100.0 * (against_kernels - 1.0)
    ));
    Ok(())
}

/// Batches of the first epoch, spread over it, the largest among them; the mean tokens and sequences of a batch.
fn sample(prepared: &Prepared) -> (Vec<Batch>, f64, f64) {
    let all: Vec<Batch> = prepared.batches.epoch_batches(0).collect();
    let n = all.len().max(1) as f64;
    let tokens = all.iter().map(Batch::tokens).sum::<usize>() as f64 / n;
    let sequences = all.iter().map(|b| b.examples.len()).sum::<usize>() as f64 / n;
    let largest = (0..all.len()).max_by_key(|&i| all[i].tokens()).unwrap_or(0);
    let every = all.len().div_ceil(SAMPLE).max(1);
    let chosen = all.into_iter().enumerate().filter(|(i, _)| i % every == 0 || *i == largest);
    (chosen.map(|(_, batch)| batch).collect(), tokens, sequences)
}

/// What a run that might use a disk has to know, where there is none.
fn in_memory(recipe: &Recipe, dir: &Path) -> Option<String> {
    (recipe.offload == Offload::Disk && scratch::is_memory(dir))
        .then(|| format!("nothing can wait on disk: {} is in memory; an --out on a disk may help", dir.display()))
}

/// `no_disk`: why the disk was of no use.
fn refused(m: &MemoryForecast, reasons: &[String], recipe: &Recipe, no_disk: Option<String>) -> CliError {
    let mut out = memory::refused("the run", &parts(m), m.limit_bytes);
    for reason in reasons.iter().chain(&no_disk) {
        out = out.detail(reason.clone());
    }
    if recipe.method == Method::Full && m.gradients_bytes + m.optimizer_bytes > m.total_bytes / 2 {
        out = out.help("train adapters instead of all weights: --method lora");
        out = out.help(
            "or keep less for each weight: --optimizer-state 8bit, --gradients update_now --set max_grad_norm=0, \
             --master-weights none",
        );
    }
    if m.adapters_bytes > m.total_bytes / 8 {
        out = out.help("smaller adapters: a lower --rank, or fewer layers in lora.target");
    }
    if m.activations_bytes > m.total_bytes / 4 {
        out = out.help("fewer tokens at a time: --batch-size 1 --gradient-accumulation 4, or a smaller --max-length");
    }
    if recipe.offload == Offload::None {
        out = out.help("let what does not fit wait on disk: --offload disk (ounce plan tune says what that takes)");
    }
    out.help("a smaller or quantised base model")
}
