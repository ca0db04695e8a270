//! `ounce eval`: runs tasks and perplexities on one model or two, and shows the numbers side by side.

mod measure;
mod table;

use std::path::Path;

use ounce_eval::report::{self, Comparison};
use ounce_eval::task::{Task, TaskError};
use serde_json::json;

use super::Context;
use crate::codes::{self, Exit};
use crate::error::{CliError, Result};
use crate::flags::eval::Args;
use crate::flags::talk::{Base, Model};
use crate::signals::Signals;

pub use measure::Measured;

/// A task with the file it came from.
pub struct NamedTask {
    pub name: String,
    pub task: Task,
}

pub fn run(context: &Context, args: Args) -> Result<Exit> {
    if args.task.is_empty() && args.data.is_empty() {
        return Err(CliError::new(&codes::USAGE, "there is nothing to measure on")
            .help("give a task file with --task, or data with --data, or both"));
    }
    let tasks = args.task.iter().map(|path| read_task(path, &args)).collect::<Result<Vec<_>>>()?;
    let signals = Signals::listen();
    let second = second_model(&args)?;
    let first = measure::model(context, &args.model, &args, &tasks, &signals)?;
    let second = second.map(|flags| measure::model(context, &flags, &args, &tasks, &signals)).transpose()?;
    let comparisons: Vec<Option<Comparison>> = match &second {
        Some(second) => first.tasks.iter().zip(&second.tasks).map(|(a, b)| report::compare(b, a)).collect(),
        None => Vec::new(),
    };
    let models: Vec<&Measured> = std::iter::once(&first).chain(&second).collect();
    let value = json!({"models": models, "comparisons": comparisons});
    if let Some(path) = &args.out {
        std::fs::write(path, format!("{value:#}\n")).map_err(|e| CliError::write(path, &e))?;
    }
    match context.out.json {
        true => context.out.value(&value),
        false => {
            context.out.piece(&table::draw(&tasks, &first, second.as_ref(), &comparisons, context.out.out_style()))
        }
    }
    if let Some(path) = &args.out {
        context.out.note(format!("every answer: {}", path.display()));
    }
    gate(&args, &tasks, &first)
}

/// `--at-least`: all tasks that missed it are named.
fn gate(args: &Args, tasks: &[NamedTask], measured: &Measured) -> Result<Exit> {
    let Some(wanted) = args.at_least else { return Ok(Exit::Done) };
    let mut out = CliError::new(&codes::GATE, format!("a score is below {wanted} %"));
    for (named, report) in tasks.iter().zip(&measured.tasks) {
        let found = report.records.value * 100.0;
        if found < wanted {
            out = out.at(&named.name, format!("{found:.1} % of the records are right"));
        }
    }
    match out.places.is_empty() {
        true => Ok(Exit::Done),
        false => Err(out.help("look at the answers with --out FILE; more or better training data usually helps")),
    }
}

fn second_model(args: &Args) -> Result<Option<Model>> {
    let Some(name) = &args.compare else { return Ok(None) };
    let adapter = args.compare_adapter.clone();
    if name == "base" {
        if args.model.adapter.is_none() || adapter.is_some() {
            return Err(CliError::new(
                &codes::USAGE,
                "--compare base needs a model with --adapter, and no second adapter",
            )
            .help("name the second model instead: --compare MODEL"));
        }
        return Ok(Some(Model { adapter: None, ..args.model.clone() }));
    }
    let base = Base { model: name.clone(), ..args.model.base.clone() };
    Ok(Some(Model { adapter, base }))
}

fn read_task(path: &Path, args: &Args) -> Result<NamedTask> {
    let text = std::fs::read_to_string(path).map_err(|e| CliError::read(path, &e))?;
    let mut task = Task::parse(&text, args.metric.map(Into::into)).map_err(|e| task_error(path, e))?;
    task.items.truncate(args.limit.unwrap_or(usize::MAX));
    Ok(NamedTask { name: path.display().to_string(), task })
}

fn task_error(path: &Path, error: TaskError) -> CliError {
    let mut out = CliError::new(&codes::TASK, format!("{} cannot be used as a task", path.display()));
    match error {
        TaskError::Rows { bad, .. } => {
            for row in bad {
                out = out.at(format!("{}:{}", path.display(), row.line), row.why);
            }
        }
        TaskError::Empty => out = out.detail(error.to_string()),
    }
    out.help("ounce eval --help describes the rows of a task")
}
