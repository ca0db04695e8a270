//! `ounce data check`: draws the report that `data` makes.

use std::fmt::Write as _;

use ounce_data::check::{CheckReport, ControlTokens, Place, Rendered, check};
use ounce_data::error::listing;
use ounce_data::{BadRow, DataError, Renderer, TextEncoder};
use ounce_spec::recipe::DataRecipe;

use super::Context;
use crate::codes::{self, Exit};
use crate::error::{CliError, Result, plural};
use crate::flags::data::{Args, Check, Verb};
use crate::model::{self, Text};
use crate::output::{Style, units};

pub fn run(context: &Context, args: Args) -> Result<Exit> {
    match args.verb {
        Verb::Check(args) => run_check(context, args),
    }
}

fn run_check(context: &Context, args: Check) -> Result<Exit> {
    let text = match &args.model {
        Some(name) => Some(Text::of(&model::open(name, &context.env)?)?),
        None => None,
    };
    let recipe = DataRecipe {
        train: args.train,
        valid: args.valid,
        format: args.format,
        max_length: args.max_length,
        ..DataRecipe::default()
    };
    let encoder = text.as_ref().map(|t| &t.tokenizer as &dyn TextEncoder);
    let renderer = text.as_ref().and_then(|t| t.template.as_ref()).map(|t| t as &dyn Renderer);
    let report = check(&recipe, encoder, renderer).map_err(data_error)?;
    if context.out.json {
        context.out.value(&report);
    } else {
        context.out.piece(&draw(&report, &recipe, context.out.out_style()));
    }
    match report.usable() {
        true => Ok(Exit::Done),
        false => Err(faulty(&report)),
    }
}

/// The error of a data set, with what to do.
pub fn data_error(error: DataError) -> CliError {
    match &error {
        DataError::BadRows { .. } | DataError::TooLong { .. } | DataError::NothingLeft { .. } => {
            CliError::of(&codes::DATA_FAULTY, &error).help("ounce data check shows what each row lacks")
        }
        DataError::Setting { .. } | DataError::UnknownFormat { .. } => {
            CliError::of(&codes::RECIPE, &error).help("ounce schema recipe lists every setting with its range")
        }
        DataError::Undetected { .. } => CliError::of(&codes::DATA, &error)
            .help("name the format with --set data.format=… in ounce tune, --format in ounce data check"),
        DataError::Empty { .. } => CliError::of(&codes::DATA, &error).help("give a file with at least one example"),
        DataError::NoTemplate => {
            CliError::of(&codes::DATA, &error).help("choose an instruct model, or another data format")
        }
        _ => CliError::of(&codes::DATA, &error).help("check the paths and the format of the data"),
    }
}

fn faulty(report: &CheckReport) -> CliError {
    let bad = report.bad.len() + report.unrenderable.len();
    let what = match bad {
        0 => "the data set holds no example".into(),
        _ => format!("{} cannot be used", plural(bad, "row")),
    };
    CliError::new(&codes::DATA_FAULTY, what).help("correct or remove the rows listed above")
}

fn draw(report: &CheckReport, recipe: &DataRecipe, style: Style) -> String {
    let mut out = String::new();
    for (part, files) in [("train", &report.files), ("valid", &report.valid_files)] {
        for file in files {
            let _ = writeln!(
                out,
                "{} {}: {}, {} ({})",
                style.bold(part),
                file.path,
                file.format.name(),
                plural(file.rows, "row"),
                file.because
            );
        }
    }
    let _ = writeln!(out, "examples: {} to train on, {} to evaluate on", report.examples, report.valid_examples);
    if let Some(lengths) = &report.lengths {
        let _ = writeln!(
            out,
            "tokens: {} in all, {} bear loss; per example {} to {}, median {}, 95 % below {}",
            units::count(lengths.tokens as f64),
            units::count(lengths.loss_tokens as f64),
            lengths.min,
            lengths.max,
            lengths.median,
            lengths.p95
        );
        let most = lengths.histogram.iter().map(|b| b.examples).max().unwrap_or(0).max(1);
        for bin in &lengths.histogram {
            let bar = "█".repeat((bin.examples * 40).div_ceil(most));
            let _ = writeln!(out, "  {:>6} – {:<6} {:>6} {bar}", bin.from, bin.to.saturating_sub(1), bin.examples);
        }
    }
    if let Some(note) = &report.note {
        let _ = writeln!(out, "{}", style.dim(note));
    }
    let places = |places: &[Place]| -> Vec<String> { places.iter().map(at).collect() };
    let repeats = |repeats: &[ounce_data::check::Repeat]| -> Vec<String> {
        repeats.iter().map(|r| format!("{} repeats {}", at(&r.row), at(&r.of))).collect()
    };
    let bad = |rows: &[BadRow]| -> Vec<String> {
        rows.iter().map(|r| format!("{}:{}: {}", r.file, r.line, r.reason)).collect()
    };
    let long: Vec<String> = report.too_long.iter().map(|l| format!("{}: {} tokens", at(&l.row), l.tokens)).collect();
    for (title, lines) in [
        ("rows that cannot be used".to_owned(), bad(&report.bad)),
        ("rows that the model's template or tokenizer refuses".into(), bad(&report.unrenderable)),
        ("duplicates".into(), repeats(&report.duplicates)),
        ("evaluation rows that are also training rows".into(), repeats(&report.leaked)),
        ("empty answers".into(), places(&report.empty_answers)),
        ("rows without an answer".into(), places(&report.no_answer)),
        (format!("examples longer than {} tokens", recipe.max_length), long),
        ("answers that begin in the middle of a token".into(), places(&report.straddling)),
    ] {
        if !lines.is_empty() {
            let _ = writeln!(out, "{}: {}", style.warn(&title), lines.len());
            for line in lines {
                let _ = writeln!(out, "  {line}");
            }
        }
    }
    if !report.control_tokens.is_empty() {
        let title = style.warn("rows whose text writes out special tokens");
        let rows: Vec<BadRow> = report.control_tokens.iter().map(special_row).collect();
        let _ = writeln!(out, "{title}: {}{}", rows.len(), listing(&rows));
        let _ = writeln!(
            out,
            "{}",
            style.dim(
                "  the model reads these as control tokens, not as text: an end-of-turn token ends the turn there; \
                       take them out, or break them up, unless that is meant"
            )
        );
    }
    if let Some(sample) = &report.sample {
        let _ = writeln!(out, "{} ({}):", style.bold("an example as the model sees it"), at(&sample.row));
        out.push_str(&draw_sample(sample, style));
    }
    out
}

fn special_row(row: &ControlTokens) -> BadRow {
    BadRow { file: row.row.file.clone(), line: row.row.line, reason: row.tokens.join(" ") }
}

fn at(place: &Place) -> String {
    format!("{}:{}", place.file, place.line)
}

/// The text, with what bears loss between » and « (and in green).
fn draw_sample(sample: &Rendered, style: Style) -> String {
    let mut text = String::new();
    for run in sample.pieces.chunk_by(|a, b| a.loss == b.loss) {
        let joined: String = run.iter().map(|p| p.text.as_str()).collect();
        match run[0].loss {
            true => text += &style.ok(&format!("»{joined}«")),
            false => text += &joined,
        }
    }
    text.lines().fold(String::new(), |out, line| out + "  " + line + "\n")
}
