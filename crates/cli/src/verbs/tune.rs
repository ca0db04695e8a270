//! `ounce tune`: recipe → model and data → run → adapter, summary and the next command.

mod forecast;
mod save;
mod setup;

use std::fs::File;
use std::path::{Path, PathBuf};

use ounce_plan::probe;
use ounce_spec::event::EndReason;
use ounce_spec::plan::Residency;
use ounce_spec::{Plan, Recipe};
use ounce_train::report::{METRICS, Reporter, SUMMARY, braille};
use ounce_train::state::StateError;
use ounce_train::vfs::{Disk, Patient, Vfs, make_dir};
use ounce_train::{NonFinite, Outcome, Run, TrainError, checkpoint};
use serde_json::json;

use super::Context;
use super::data::data_error;
use crate::codes::{self, Exit};
use crate::error::{CliError, Result};
use crate::flags::tune::Args;
use crate::output::live::Live;
use crate::output::units;
use crate::recipe::{self, Draft, Fault};
use crate::signals::Signals;
use setup::Origins;

/// The resolved recipe in a run's directory.
const RECIPE: &str = "recipe.yaml";
/// Held while a process works on a run.
const LOCK: &str = ".lock";

pub use save::write_error;

pub fn run(context: &Context, args: Args) -> Result<Exit> {
    let mut recipe = complete(context, &args)?;
    let chosen = recipe.out.is_empty();
    if chosen {
        recipe.out = free_run_directory();
    }
    let dir = PathBuf::from(&recipe.out);
    if args.resume.is_none() && (dir.join(METRICS).exists() || dir.join(RECIPE).exists()) {
        return Err(CliError::new(&codes::RUN_EXISTS, format!("{} holds a run already", dir.display()))
            .help(format!("go on with it: ounce tune --resume {}", dir.display()))
            .help("or choose another directory with --out"));
    }
    let (prepared, plan) = prepare(context, &recipe, args.mem)?;
    if args.dry_run {
        match context.out.json {
            true => context.out.value(&json!({"recipe": recipe, "plan": plan})),
            false => context.out.piece(&format!("{}\n{}", recipe::to_yaml(&recipe), super::plan::draw(&plan))),
        }
        return Ok(Exit::Done);
    }
    if chosen {
        context.out.note(format!("run directory: {}", recipe.out));
    }
    context.out.note(format!(
        "forecast: {} of memory, {}",
        units::bytes(plan.memory.total_bytes),
        units::seconds(plan.time.total_s)
    ));

    if plan.weights == Residency::Tiered {
        context.out.note(format!(
            "trained weights and optimizer state do not fit and are on disk: {} are written there per step",
            units::bytes(plan.time.step_write_bytes as usize)
        ));
    }

    // From here on there is something to save.
    let signals = Signals::listen();
    let files = Patient::new(Disk).map_err(|e| CliError::of(&codes::WRITE, &e).help("check the limits: ulimit -a"))?;
    make_dir(&files, &dir).map_err(|e| CliError::write(&dir, &e))?;
    let _lock = lock(&dir)?;
    if args.resume.is_none() {
        write_recipe(&files, &dir, &recipe, &prepared)?;
    }
    let recipe_hashes = prepared.hashes(&recipe);
    let (target, origins) = (prepared.target.clone(), prepared.origins);
    let mut live = Live::new(context.out);
    let mut run = Run {
        recipe: &recipe,
        trainer: prepared.trainer,
        batches: prepared.batches,
        valid: prepared.valid,
        dir: &dir,
        vfs: &files,
        recipe_hashes,
        stop: &signals.stop,
    };
    let outcome = run.train(args.resume.is_some(), &mut |event| live.event(event)).map_err(|e| {
        live.clear();
        train_error(e, &dir, &origins)
    })?;
    summarize(&files, &dir, &recipe, &outcome, &plan)?;
    if outcome.reason == EndReason::Interrupted {
        return Err(CliError::new(
            signals.code(),
            format!("stopped after step {} of {}", outcome.progress.step, outcome.steps),
        )
        .detail("everything is saved")
        .help(format!("go on with: ounce tune --resume {}", dir.display())));
    }
    let saved = save::write(&files, &dir, &recipe, &target, &run.trainer)?;
    report(context, &recipe, &outcome, &plan, live.losses(), &saved);
    Ok(Exit::Done)
}

/// The recipe and the forecast of what was typed, for `ounce plan`.
pub fn plan(context: &Context, args: &Args) -> Result<(Recipe, Plan)> {
    let recipe = complete(context, args)?;
    let (_, plan) = prepare(context, &recipe, args.mem)?;
    Ok((recipe, plan))
}

/// The resolved recipe, with nothing missing.
fn complete(context: &Context, args: &Args) -> Result<Recipe> {
    let resolved = resolve(args)?;
    for note in &resolved.notes {
        context.out.note(note);
    }
    require(&resolved.recipe)?;
    Ok(resolved.recipe)
}

fn prepare(context: &Context, recipe: &Recipe, mem: Option<usize>) -> Result<(setup::Prepared, Plan)> {
    let limit_bytes = mem.unwrap_or_else(probe::usable_memory_bytes);
    let mut prepared = setup::prepare(context, recipe, limit_bytes)?;
    prepared.describe(context, recipe);
    let plan = forecast::forecast(recipe, &mut prepared, limit_bytes)?;
    Ok((prepared, plan))
}

fn resolve(args: &Args) -> Result<recipe::Resolved> {
    let mut draft = Draft::default();
    let file = args.resume.as_ref().map(|run| run.join(RECIPE)).or_else(|| args.config.clone());
    if let Some(path) = &file {
        let text = std::fs::read_to_string(path).map_err(|e| match &args.resume {
            Some(run) => CliError::new(&codes::RESUME, format!("{} is not a run", run.display()))
                .detail(format!("it has no {RECIPE}"))
                .help("ounce runs list shows the runs there are"),
            None => CliError::read(path, &e),
        })?;
        draft.file(&path.display().to_string(), &text);
    }
    args.apply(&mut draft);
    if let Some(run) = &args.resume {
        // The run may have been moved since it was started.
        draft.flag("--resume", "out", recipe::Value::Text(run.display().to_string()));
    }
    draft.finish().map_err(recipe_error)
}

/// All faults of a recipe as one error.
pub fn recipe_error(faults: Vec<Fault>) -> CliError {
    let what = match faults.len() {
        1 => "a setting is wrong".to_owned(),
        n => format!("{n} settings are wrong"),
    };
    let mut out = CliError::new(&codes::RECIPE, what);
    for fault in faults {
        out.places.push(crate::error::Place { at: fault.at, what: fault.what, help: fault.help });
    }
    out.help("ounce schema recipe lists every key with its type, range and default")
}

fn require(recipe: &Recipe) -> Result<()> {
    let mut missing = CliError::new(&codes::RECIPE_INCOMPLETE, "the recipe is not complete");
    if recipe.model.is_empty() {
        missing = missing.detail("no base model: name it first, or set model in the recipe");
    }
    if recipe.data.train.is_empty() {
        missing = missing.detail("no training data: name it with --data, or set data.train in the recipe");
    }
    match missing.details.is_empty() {
        true => Ok(()),
        false => Err(missing.help("for example: ounce tune smollm2.gguf --data train.jsonl")),
    }
}

/// The first of `runs/1`, `runs/2`, … that is not there.
fn free_run_directory() -> String {
    (1..).map(|n| format!("runs/{n}")).find(|dir| !Path::new(dir).exists()).expect("there are free numbers")
}

/// Keeps a second process from working on the same run.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let file = File::create(&path).map_err(|e| CliError::write(&path, &e))?;
    match file.try_lock() {
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(CliError::new(&codes::RUN_EXISTS, format!("another process is working on {}", dir.display()))
                .help("wait for it, or choose another directory with --out"))
        }
        // File systems without locks are trusted.
        Ok(()) | Err(std::fs::TryLockError::Error(_)) => Ok(file),
    }
}

fn write_recipe(vfs: &dyn Vfs, dir: &Path, recipe: &Recipe, prepared: &setup::Prepared) -> Result<()> {
    let path = dir.join(RECIPE);
    let text = format!(
        "# resolved by ounce {}\n# data: {}\n{}",
        env!("CARGO_PKG_VERSION"),
        prepared.fingerprint,
        recipe::to_yaml(recipe)
    );
    // Whole or not there: half a recipe could neither be resumed nor started again.
    ounce_formats::save::write_bytes(vfs, &path, text.as_bytes()).map_err(save::write_error)
}

fn train_error(error: TrainError, dir: &Path, origins: &Origins) -> CliError {
    if disk_full(&error) {
        return write_failed(&error, dir);
    }
    match error {
        TrainError::NonFinite(e) => not_a_number(&e, dir, origins),
        TrainError::State(StateError::OtherRecipe { .. }) => CliError::of(&codes::RESUME, &error)
            .help("a run goes on with its own recipe: leave out the flags that change it")
            .help("or start a new run with another --out"),
        TrainError::State(_) => CliError::of(&codes::RESUME, &error).help("start a new run with another --out"),
        TrainError::Data(e) => data_error(e),
        TrainError::Read(_) => CliError::of(&codes::READ, &error)
            .detail("checkpoints before this step are good")
            .help(format!("see to the disk, then go on with: ounce tune --resume {}", dir.display())),
        TrainError::Checkpoint(_) | TrainError::Report(_) => write_failed(&error, dir),
    }
}

fn write_failed(error: &TrainError, dir: &Path) -> CliError {
    let (code, first) =
        if disk_full(error) { (&codes::DISK_FULL, "make room") } else { (&codes::WRITE, "see to the disk") };
    CliError::of(code, error).help(format!("{first}, then go on with: ounce tune --resume {}", dir.display()))
}

/// The step, and the rows of its batch by line.
fn not_a_number(error: &NonFinite, dir: &Path, origins: &Origins) -> CliError {
    const SHOWN: usize = 20;
    let mut out = CliError::new(
        &codes::NOT_A_NUMBER,
        format!("step {}: the {} is {}, in a batch of these rows", error.step, error.what, error.value),
    );
    for place in error.examples.iter().take(SHOWN).filter_map(|&example| origins.of(example)) {
        out = out.at(place, "");
    }
    if error.examples.len() > SHOWN {
        out = out.detail(format!("and {} more rows", error.examples.len() - SHOWN));
    }
    let newest = checkpoint::steps(&Disk, dir).ok().and_then(|steps| steps.last().copied());
    out.detail(match newest {
        Some(step) => format!("nothing of this step was saved; the checkpoint after step {step} is good"),
        None => "nothing of this step was saved, and there is no checkpoint yet".into(),
    })
    .help("lower the learning rate, or look at these rows with ounce data check")
    .help("or compute in another type, in a new run: --compute f32 (or bf16, where f16 overflowed)")
}

/// Whether a full disk is behind an error.
fn disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let mut at = Some(error);
    while let Some(e) = at {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            return matches!(io.kind(), StorageFull | QuotaExceeded | FileTooLarge);
        }
        at = e.source();
    }
    false
}

fn summarize(vfs: &dyn Vfs, dir: &Path, recipe: &Recipe, outcome: &Outcome, plan: &Plan) -> Result<()> {
    let mut summary = json!({
        "model": recipe.model,
        "method": recipe.method,
        "reason": outcome.reason,
        "steps": outcome.progress.step,
        "steps_planned": outcome.steps,
        "train_loss": outcome.train_loss,
        "valid_loss": outcome.valid_loss,
        "best_valid_loss": outcome.progress.best_loss,
        "tokens": outcome.progress.tokens,
        "train_s": outcome.progress.train_s,
        "step_s": outcome.step_s,
        "tokens_per_s": outcome.tokens_per_s,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "forecast": plan,
        "version": env!("CARGO_PKG_VERSION"),
    });
    if let Some(scale) = outcome.progress.loss_scale {
        summary["loss_scale"] = json!({"last": scale.factor, "skipped_steps": scale.skipped});
    }
    // All of the log.
    Reporter::resume(vfs, dir, u64::MAX)
        .and_then(|mut reporter| reporter.finish(summary))
        .map_err(|e| write_failed(&TrainError::Report(e), dir))
}

fn report(context: &Context, recipe: &Recipe, outcome: &Outcome, plan: &Plan, losses: &[(f64, f64)], saved: &str) {
    let out = &context.out;
    if out.json {
        return;
    }
    if losses.len() > 2 {
        for line in braille::chart(losses, 72, 8) {
            out.note(line);
        }
    }
    let valid = outcome.valid_loss.map(|l| format!(", {l:.4} on held-out data")).unwrap_or_default();
    out.note(format!(
        "loss {:.4}{valid}; {} in {}, {} tok/s, at most {} of memory",
        outcome.train_loss,
        crate::error::plural(outcome.progress.step, "step"),
        units::seconds(outcome.progress.train_s),
        units::count(outcome.tokens_per_s.round()),
        units::bytes(outcome.peak_memory_bytes)
    ));
    if let Some(scale) = outcome.progress.loss_scale {
        out.note(format!("loss scale {}; {} skipped", scale.factor, crate::error::plural(scale.skipped, "step")));
    }
    let off = |forecast: f64, actual: f64| format!("{:+.0} %", (forecast / actual.max(1e-9) - 1.0) * 100.0);
    out.note(format!(
        "forecast against actual: memory {} ({}), {} per step ({}), {} in all ({})",
        units::bytes(plan.memory.total_bytes),
        off(plan.memory.total_bytes as f64, outcome.peak_memory_bytes as f64),
        units::seconds(plan.time.step_s),
        off(plan.time.step_s, outcome.step_s),
        units::seconds(plan.time.step_s * outcome.progress.step as f64),
        off(plan.time.step_s * outcome.progress.step as f64, outcome.progress.train_s)
    ));
    let moved = plan.time.step_read_bytes + plan.time.step_write_bytes;
    if moved > 0.0 {
        out.note(format!(
            "disk: {} read and {} written per step, {} per second",
            units::bytes(plan.time.step_read_bytes as usize),
            units::bytes(plan.time.step_write_bytes as usize),
            units::bytes((moved / outcome.step_s.max(1e-9)) as usize)
        ));
    }
    out.note(format!("saved {saved}; also {SUMMARY}, {METRICS}, loss.svg and tensorboard/ in {}", recipe.out));
    out.note("next:");
    for next in save::next_commands(recipe) {
        out.note(format!("  {next}"));
    }
}
