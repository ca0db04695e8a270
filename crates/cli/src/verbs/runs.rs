//! `ounce runs`: what earlier runs were and how they ended.

use std::path::Path;

use ounce_spec::Recipe;
use ounce_spec::event::EndReason;
use ounce_train::report::braille;
use ounce_train::runs::{self, RunFolder, Status};
use serde_json::{Value, json};

use super::Context;
use crate::codes::{self, Exit};
use crate::error::{CliError, Result};
use crate::flags::runs::{Args, Verb};
use crate::output::units;
use crate::recipe::Draft;

pub fn run(context: &Context, args: Args) -> Result<Exit> {
    match args.verb {
        Verb::List { dir } => list(context, &dir)?,
        Verb::Show { run } => show(context, &open(&run)?),
        Verb::Plot { runs } => {
            for run in &runs {
                plot(context, &open(run)?);
            }
        }
        Verb::Diff { a, b } => diff(context, &open(&a)?, &open(&b)?),
        Verb::Export { run } => {
            let mut csv = Vec::new();
            open(&run)?.metrics.write_csv(&mut csv).map_err(|e| CliError::write(&run, &e))?;
            context.out.piece(&String::from_utf8_lossy(&csv));
        }
    }
    Ok(Exit::Done)
}

fn open(path: &Path) -> Result<RunFolder> {
    runs::open(path).map_err(|e| CliError::of(&codes::READ, &e).help("ounce runs list shows the runs there are"))
}

fn list(context: &Context, dir: &Path) -> Result<()> {
    let found = runs::list(dir).map_err(|e| {
        CliError::of(&codes::READ, &e).help("name the directory that holds your runs: ounce runs list DIR")
    })?;
    if context.out.json {
        context.out.value(&found.iter().map(value).collect::<Vec<_>>());
        return Ok(());
    }
    if found.is_empty() {
        context.out.note(format!("no runs in {}", dir.display()));
    }
    for run in &found {
        let step = run.last().map_or(0, |p| p.step);
        let steps = run.steps().map(|n| n.to_string()).unwrap_or_else(|| "?".into());
        context.out.data(format!(
            "{:<24} {:<12} step {step}/{steps}  loss {}  held out {}  {}",
            run.path.display().to_string(),
            status(run),
            number(run.train_loss()),
            number(run.metrics.best_eval().map(|e| e.loss)),
            units::seconds(run.seconds())
        ));
    }
    Ok(())
}

fn show(context: &Context, run: &RunFolder) {
    let out = context.out;
    if out.json {
        return out.value(&value(run));
    }
    out.data(format!("{}: {}", run.path.display(), status(run)));
    if let Some(last) = run.last() {
        out.data(format!("  step {} of {}, loss {}", last.step, run.steps().unwrap_or(0), number(run.train_loss())));
        out.data(format!("  {} in all, {} per step", units::seconds(run.seconds()), units::seconds(last.step_s)));
        out.data(format!("  at most {} of memory", units::bytes(last.memory_bytes)));
    }
    if let Some(best) = run.metrics.best_eval() {
        out.data(format!("  best on held-out data: {:.4} at step {}", best.loss, best.step));
    }
    out.data(format!("  checkpoints: {:?}", run.checkpoints));
    for warning in &run.warnings {
        out.note(format!("  {warning}"));
    }
    if let Some(recipe) = &run.recipe {
        out.data("recipe:");
        recipe.lines().for_each(|line| out.data(format!("  {line}")));
    }
    if run.status() == Status::Unfinished || run.status() == Status::Ended(EndReason::Interrupted) {
        out.note(format!("go on with: ounce tune --resume {}", run.path.display()));
    }
}

fn plot(context: &Context, run: &RunFolder) {
    context.out.data(format!("{}: training loss", run.path.display()));
    for line in braille::chart(&run.metrics.losses(), 76, 10) {
        context.out.data(line);
    }
    let evals = run.metrics.eval_losses();
    if evals.len() > 1 {
        context.out.data("held-out loss");
        for line in braille::chart(&evals, 76, 8) {
            context.out.data(line);
        }
    }
}

fn diff(context: &Context, a: &RunFolder, b: &RunFolder) {
    let (left, right) = (flat(a), flat(b));
    let mut rows: Vec<(String, String, String)> = Vec::new();
    for (key, value) in &left {
        let other = right.iter().find(|(k, _)| k == key).map_or("–", |(_, v)| v);
        if value != other {
            rows.push((key.clone(), value.clone(), other.to_owned()));
        }
    }
    for (key, value) in right.iter().filter(|(k, _)| !left.iter().any(|(l, _)| l == k)) {
        rows.push((key.clone(), "–".into(), value.clone()));
    }
    let loss = |r: &RunFolder| number(r.train_loss());
    let eval = |r: &RunFolder| number(r.metrics.best_eval().map(|e| e.loss));
    rows.push(("loss".into(), loss(a), loss(b)));
    rows.push(("best held-out loss".into(), eval(a), eval(b)));
    rows.push(("time".into(), units::seconds(a.seconds()), units::seconds(b.seconds())));
    if context.out.json {
        let rows: Vec<Value> = rows.iter().map(|(k, a, b)| json!({"key": k, "a": a, "b": b})).collect();
        return context.out.value(&rows);
    }
    let names = [a, b].map(|r| r.path.display().to_string());
    context.out.data(format!("{:<28} {:<24} {}", "", names[0], names[1]));
    for (key, left, right) in rows {
        context.out.data(format!("{key:<28} {left:<24} {right}"));
    }
}

/// The recipe's keys with their values, as far as it can be read.
fn flat(run: &RunFolder) -> Vec<(String, String)> {
    let mut draft = Draft::default();
    draft.file("recipe.yaml", run.recipe.as_deref().unwrap_or_default());
    let recipe = draft.finish().map_or_else(|_| Recipe::default(), |resolved| resolved.recipe);
    let json = serde_json::to_value(recipe).unwrap_or(Value::Null);
    crate::recipe::KEYS
        .iter()
        .filter_map(|key| {
            let value = json.pointer(&format!("/{}", key.path.replace('.', "/")))?;
            Some((key.path.to_owned(), value.to_string()))
        })
        .collect()
}

fn status(run: &RunFolder) -> &'static str {
    match run.status() {
        Status::Ended(EndReason::Done) => "done",
        Status::Ended(EndReason::EarlyStop) => "early stop",
        Status::Ended(EndReason::Interrupted) => "interrupted",
        Status::Unfinished => "unfinished",
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or("–".into(), |v| format!("{v:.4}"))
}

fn value(run: &RunFolder) -> Value {
    json!({
        "path": run.path,
        "status": status(run),
        "step": run.last().map(|p| p.step),
        "steps": run.steps(),
        "train_loss": run.train_loss(),
        "best_eval": run.metrics.best_eval().map(|e| json!({"step": e.step, "loss": e.loss})),
        "seconds": run.seconds(),
        "checkpoints": run.checkpoints,
        "summary": run.summary,
        "warnings": run.warnings,
    })
}
