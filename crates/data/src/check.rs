//! `ounce data check`: everything worth knowing about a data set before a run, as plain data for the CLI to draw.

use std::{collections::HashMap, ops::Range};

use ounce_spec::recipe::DataRecipe;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    dataset::{Dataset, Part, SourceFile, content_hash, load_lenient},
    encode::{Renderer, TextEncoder},
    error::{BadRow, DataError},
    rows::{Content, is_empty_answer},
    tokenize::{Encoded, encode},
};

/// A row of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub file: String,
    pub line: usize,
}

/// A row that repeats an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeat {
    pub row: Place,
    pub of: Place,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongRow {
    pub row: Place,
    pub tokens: usize,
}

/// A row with the control tokens that its text writes out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlTokens {
    pub row: Place,
    pub tokens: Vec<String>,
}

/// Lengths in tokens: how many examples have `from <= tokens < to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bin {
    pub from: usize,
    pub to: usize,
    pub examples: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lengths {
    pub min: usize,
    pub median: usize,
    pub mean: f64,
    pub p95: usize,
    pub max: usize,
    /// All tokens, and those that bear loss.
    pub tokens: usize,
    pub loss_tokens: usize,
    pub histogram: Vec<Bin>,
}

/// A token of the rendered example. Pieces put together give the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub id: u32,
    pub text: String,
    /// Whether the model is taught to write it.
    pub loss: bool,
}

/// One example as the model sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendered {
    pub row: Place,
    pub pieces: Vec<Piece>,
}

/// What [`check`] found. Lists hold every case, not the first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    pub files: Vec<SourceFile>,
    pub valid_files: Vec<SourceFile>,
    pub examples: usize,
    pub valid_examples: usize,
    pub bad: Vec<BadRow>,
    /// Within the training data, and within the validation data.
    pub duplicates: Vec<Repeat>,
    /// Validation rows that are also training rows: they measure memory, not learning.
    pub leaked: Vec<Repeat>,
    /// Rows with an answer that says nothing.
    pub empty_answers: Vec<Place>,
    /// Rows without any answer.
    pub no_answer: Vec<Place>,
    /// With a tokenizer only, as all that follow.
    pub too_long: Vec<LongRow>,
    /// Rows that a chat template or the tokenizer refuses.
    pub unrenderable: Vec<BadRow>,
    /// Rows whose answer starts in the middle of a token.
    pub straddling: Vec<Place>,
    /// Rows whose text writes out control tokens, which the model will read as such.
    pub control_tokens: Vec<ControlTokens>,
    pub lengths: Option<Lengths>,
    pub sample: Option<Rendered>,
    /// Why there are no lengths, where there are none.
    pub note: Option<String>,
    pub fingerprint: String,
}

impl CheckReport {
    /// Whether the data can be used as it is. Duplicates and long rows are for a person to judge.
    pub fn usable(&self) -> bool {
        self.bad.is_empty() && self.unrenderable.is_empty() && self.examples > 0
    }
}

/// Looks at the data sets `recipe.train` and `recipe.valid`. Without a tokenizer, all but lengths and the rendered sample.
///
/// # Errors
/// Only where files cannot be read or their format cannot be told; bad rows are part of the report.
pub fn check(
    recipe: &DataRecipe,
    encoder: Option<&dyn TextEncoder>,
    template: Option<&dyn Renderer>,
) -> Result<CheckReport, DataError> {
    let (train, mut bad) = load_lenient(&recipe.train, &recipe.format, Part::Train)?;
    let valid_paths =
        if recipe.valid.is_empty() { crate::paths::with_validation(&recipe.train) } else { recipe.valid.clone() };
    let mut valid = Dataset::default();
    if !valid_paths.is_empty() {
        let (rows, more) = load_lenient(&valid_paths, &recipe.format, Part::Valid)?;
        valid = rows;
        bad.extend(more);
    }
    let mut report = CheckReport {
        files: train.files.clone(),
        valid_files: valid.files.clone(),
        examples: train.examples.len(),
        valid_examples: valid.examples.len(),
        bad,
        fingerprint: train.fingerprint(),
        ..CheckReport::default()
    };
    let mut seen = HashMap::new();
    report.duplicates = repeats(&train, &mut seen);
    let mut seen_valid = HashMap::new();
    report.duplicates.extend(repeats(&valid, &mut seen_valid));
    report.leaked = leaks(&valid, &seen);
    for dataset in [&train, &valid] {
        for (i, example) in dataset.examples.iter().enumerate() {
            match answers(&example.turns) {
                Answers::Good => {}
                Answers::Empty => report.empty_answers.push(place(dataset, i)),
                Answers::None => report.no_answer.push(place(dataset, i)),
            }
        }
    }
    let chat = train.examples.iter().chain(&valid.examples).any(|e| matches!(e.turns, Content::Chat { .. }));
    if let Some(encoder) = encoder {
        for dataset in [&train, &valid] {
            report.control_tokens.extend(control_tokens(dataset, encoder));
        }
    }
    match encoder {
        None => report.note = Some("lengths need a tokenizer: name a model".into()),
        Some(_) if chat && template.is_none() => {
            report.note = Some(format!("no lengths: {}", DataError::NoTemplate));
        }
        Some(encoder) => measure(&mut report, &[&train, &valid], recipe, encoder, template),
    }
    Ok(report)
}

fn place(dataset: &Dataset, example: usize) -> Place {
    let (file, line) = dataset.place(example);
    Place { file: file.to_owned(), line }
}

/// Rows equal to an earlier one. `seen` is filled with the first row of each content.
fn repeats(dataset: &Dataset, seen: &mut HashMap<[u8; 16], Place>) -> Vec<Repeat> {
    let mut out = Vec::new();
    for (i, example) in dataset.examples.iter().enumerate() {
        let row = place(dataset, i);
        match seen.entry(content_hash(&example.turns, 0)) {
            std::collections::hash_map::Entry::Occupied(first) => out.push(Repeat { row, of: first.get().clone() }),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(row);
            }
        }
    }
    out
}

fn leaks(valid: &Dataset, train: &HashMap<[u8; 16], Place>) -> Vec<Repeat> {
    let leaked = |(i, example): (usize, &crate::Example)| {
        train.get(&content_hash(&example.turns, 0)).map(|of| Repeat { row: place(valid, i), of: of.clone() })
    };
    valid.examples.iter().enumerate().filter_map(leaked).collect()
}

enum Answers {
    Good,
    Empty,
    None,
}

fn answers(content: &Content) -> Answers {
    match content {
        Content::Chat { messages, given_answers, .. } => {
            let list = messages.as_array().map(Vec::as_slice).unwrap_or_default();
            let mut taught = list.iter().filter(|m| m["role"] == "assistant").skip(*given_answers).peekable();
            if taught.peek().is_none() {
                Answers::None
            } else if taught.any(is_empty_answer) {
                Answers::Empty
            } else {
                Answers::Good
            }
        }
        Content::PromptCompletion { completion, .. } if completion.trim().is_empty() => Answers::Empty,
        Content::Text(text) if text.trim().is_empty() => Answers::Empty,
        _ => Answers::Good,
    }
}

fn control_tokens(dataset: &Dataset, encoder: &dyn TextEncoder) -> Vec<ControlTokens> {
    let rows = dataset.examples.par_iter().enumerate().filter_map(|(i, example)| {
        let mut tokens = Vec::new();
        each_text(&example.turns, &mut |text| tokens.extend(encoder.control_tokens_in(text)));
        let mut seen = std::collections::HashSet::new();
        tokens.retain(|token| seen.insert(token.clone()));
        (!tokens.is_empty()).then(|| ControlTokens { row: place(dataset, i), tokens })
    });
    rows.collect()
}

/// Every text that the data has in an example; roles are not among them.
fn each_text(content: &Content, visit: &mut impl FnMut(&str)) {
    fn of_json(value: &Value, visit: &mut impl FnMut(&str)) {
        match value {
            Value::String(text) => visit(text),
            Value::Array(list) => list.iter().for_each(|value| of_json(value, visit)),
            Value::Object(fields) => {
                fields.iter().filter(|(name, _)| *name != "role").for_each(|(_, value)| of_json(value, visit));
            }
            _ => {}
        }
    }
    match content {
        Content::Chat { messages, .. } => of_json(messages, visit),
        Content::PromptCompletion { prompt, completion } => [prompt, completion].into_iter().for_each(|t| visit(t)),
        Content::Text(text) => visit(text),
    }
}

fn measure(
    report: &mut CheckReport,
    datasets: &[&Dataset],
    recipe: &DataRecipe,
    encoder: &dyn TextEncoder,
    template: Option<&dyn Renderer>,
) {
    let mut lengths = Vec::new();
    let mut loss_tokens = 0;
    let mut samples: Vec<(usize, Place, Encoded)> = Vec::new();
    for dataset in datasets {
        let encoded: Vec<Result<Encoded, String>> = dataset
            .examples
            .par_iter()
            .map(|example| encode(&example.turns, encoder, template, recipe.loss_on_answers))
            .collect();
        for (i, encoded) in encoded.into_iter().enumerate() {
            let row = place(dataset, i);
            let encoded = match encoded {
                Ok(encoded) => encoded,
                Err(reason) => {
                    report.unrenderable.push(BadRow { file: row.file, line: row.line, reason });
                    continue;
                }
            };
            let tokens = encoded.ids.len();
            let taught = encoded.loss.iter().skip(1).filter(|&&l| l).count();
            lengths.push(tokens);
            loss_tokens += taught;
            // Documents are split, so none is too long.
            if tokens > recipe.max_length && !matches!(dataset.examples[i].turns, Content::Text(_)) {
                report.too_long.push(LongRow { row: row.clone(), tokens });
            }
            if encoded.straddling {
                report.straddling.push(row.clone());
            }
            // The first example that would be used as it is, else the first.
            let usable = taught > 0 && tokens <= recipe.max_length;
            if samples.is_empty() || (usable && samples[0].0 == 0) {
                samples = vec![(usize::from(usable), row, encoded)];
            }
        }
    }
    report.sample = samples.pop().map(|(_, row, encoded)| Rendered { row, pieces: pieces(&encoded) });
    report.lengths = summary(lengths, loss_tokens);
}

/// The text between the starts of neighbouring tokens, so that nothing is shown twice and nothing is left out.
fn pieces(encoded: &Encoded) -> Vec<Piece> {
    let n = encoded.ids.len();
    let mut from = 0;
    (0..n)
        .map(|i| {
            let next = encoded.offsets[i + 1..].iter().find(|r: &&Range<usize>| r.end > r.start);
            let own = encoded.offsets[i].end > encoded.offsets[i].start;
            let to = match next {
                Some(next) => next.start.max(from),
                None => encoded.text.len(),
            };
            let text = if own { encoded.text.get(from..to).unwrap_or_default().to_owned() } else { String::new() };
            if own {
                from = to.max(from);
            }
            Piece { id: encoded.ids[i], text, loss: encoded.loss[i] }
        })
        .collect()
}

fn summary(mut lengths: Vec<usize>, loss_tokens: usize) -> Option<Lengths> {
    lengths.sort_unstable();
    let n = lengths.len();
    let (&min, &max) = (lengths.first()?, lengths.last()?);
    let tokens: usize = lengths.iter().sum();
    // Round widths, about twelve bars.
    let width = [1, 2, 5].iter().flat_map(|m| (0..12).map(move |e| m * 10usize.pow(e)));
    let mut widths: Vec<usize> = width.collect();
    widths.sort_unstable();
    let width = widths.into_iter().find(|w| (max - min) / w < 12).unwrap_or(max);
    let first = min / width;
    let mut histogram: Vec<Bin> =
        (first..=max / width).map(|bin| Bin { from: bin * width, to: (bin + 1) * width, examples: 0 }).collect();
    for length in &lengths {
        histogram[length / width - first].examples += 1;
    }
    Some(Lengths {
        min,
        median: lengths[n / 2],
        mean: tokens as f64 / n as f64,
        p95: lengths[(n * 95 / 100).min(n - 1)],
        max,
        tokens,
        loss_tokens,
        histogram,
    })
}
