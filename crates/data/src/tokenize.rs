//! Examples to token sequences, each token marked as a target of the loss or not.

use std::{borrow::Cow, ops::Range};

use ounce_spec::recipe::{DataRecipe, TooLong};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    dataset::{Dataset, Example, Part, SourceFile, load},
    encode::{Renderer, TextEncoder},
    error::{BadRow, DataError},
    paths,
    rows::Content,
};

/// One token sequence of at most `max_length` tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenized {
    pub ids: Vec<u32>,
    /// `loss[i]`: token `i` is a target of the loss.
    pub loss: Vec<bool>,
    /// Index of its example in the data set.
    pub example: u32,
    /// Index of its file in the data set, for mixtures.
    pub source: u32,
}

impl Tokenized {
    /// Whether any token that something precedes is a target.
    pub fn teaches(&self) -> bool {
        self.loss.iter().skip(1).any(|&l| l)
    }
}

/// What became of the examples. `examples = used + too_long (unless truncated) + unteaching`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub examples: usize,
    /// Examples of which at least one sequence is used.
    pub used: usize,
    /// Sequences: more than `used` where documents were split.
    pub sequences: usize,
    /// Longer than `max_length` and left out.
    pub too_long: usize,
    /// Longer than `max_length` and cut there.
    pub truncated: usize,
    /// Left out because no token bears loss: no answer, or the answer was cut off.
    pub unteaching: usize,
    /// An answer starts in the middle of a token, which a model that is served never sees: usually a prompt that ends
    /// with a space.
    pub straddling: usize,
    pub tokens: usize,
    pub loss_tokens: usize,
    /// Tokens of the longest example, before anything was cut.
    pub longest: usize,
}

/// Longest stretch of a document that is tokenised at once.
const BLOCK_BYTES: usize = 64 << 10;

/// The tokens of one example, as long as it is.
pub(crate) struct Encoded<'a> {
    pub ids: Vec<u32>,
    pub offsets: Vec<Range<usize>>,
    pub loss: Vec<bool>,
    /// What was tokenised; `offsets` point into it.
    pub text: Cow<'a, str>,
    pub straddling: bool,
}

/// Tokenises a data set. Chat needs a template. What is too long is left out, cut, or an error, as the recipe says;
/// documents are split into sequences of `max_length` instead, each starting with the last token of the one before, so
/// that every token but the first is predicted once.
///
/// # Errors
/// Lists every example that cannot be rendered or tokenised, or that is too long where that is refused.
pub fn tokenize(
    dataset: &Dataset,
    encoder: &dyn TextEncoder,
    template: Option<&dyn Renderer>,
    recipe: &DataRecipe,
) -> Result<(Vec<Tokenized>, Report), DataError> {
    if recipe.max_length < 2 {
        return Err(DataError::Setting {
            name: "max_length",
            value: recipe.max_length.to_string(),
            reason: "a sequence needs a token to predict and one to predict it from",
        });
    }
    if template.is_none() && dataset.examples.iter().any(|e| matches!(e.turns, Content::Chat { .. })) {
        return Err(DataError::NoTemplate);
    }
    // Offsets are larger than the tokens: they are dropped as soon as the mask is made.
    let encoded: Vec<Result<(Vec<u32>, Vec<bool>, bool), String>> = dataset
        .examples
        .par_iter()
        .map(|example| encode(&example.turns, encoder, template, recipe.loss_on_answers))
        .map(|encoded| encoded.map(|e| (e.ids, e.loss, e.straddling)))
        .collect();
    let mut report = Report { examples: dataset.examples.len(), ..Report::default() };
    let (mut out, mut bad, mut long) = (Vec::new(), Vec::new(), Vec::new());
    for (i, encoded) in encoded.into_iter().enumerate() {
        let bad_row = |reason: String| {
            let (file, line) = dataset.place(i);
            BadRow { file: file.to_owned(), line, reason }
        };
        let (ids, loss, straddling) = match encoded {
            Ok(encoded) => encoded,
            Err(reason) => {
                bad.push(bad_row(reason));
                continue;
            }
        };
        let tokens = ids.len();
        report.longest = report.longest.max(tokens);
        report.straddling += usize::from(straddling);
        let whole = Tokenized { ids, loss, example: i as u32, source: dataset.examples[i].source.0 };
        let fits = tokens <= recipe.max_length;
        let pieces = match (fits, is_text(&dataset.examples[i]), recipe.too_long) {
            (true, ..) => vec![whole],
            (false, true, _) => split(&whole, recipe.max_length),
            (false, false, TooLong::Truncate) => {
                report.truncated += 1;
                vec![cut(whole, recipe.max_length)]
            }
            (false, false, TooLong::Drop) => {
                report.too_long += 1;
                continue;
            }
            (false, false, TooLong::Error) => {
                long.push(bad_row(format!("{tokens} tokens")));
                continue;
            }
        };
        let before = out.len();
        out.extend(pieces.into_iter().filter(Tokenized::teaches));
        report.used += usize::from(out.len() > before);
        report.unteaching += usize::from(out.len() == before);
    }
    if !bad.is_empty() {
        return Err(DataError::BadRows { bad });
    }
    if !long.is_empty() {
        return Err(DataError::TooLong { max_length: recipe.max_length, bad: long });
    }
    report.sequences = out.len();
    report.tokens = out.iter().map(|t| t.ids.len()).sum();
    report.loss_tokens = out.iter().map(|t| t.loss.iter().skip(1).filter(|&&l| l).count()).sum();
    if out.is_empty() {
        let reason = format!(
            "of {} examples {} are longer than max_length {} and {} have no answer",
            report.examples, report.too_long, recipe.max_length, report.unteaching
        );
        return Err(DataError::NothingLeft { reason });
    }
    Ok((out, report))
}

fn is_text(example: &Example) -> bool {
    matches!(example.turns, Content::Text(_))
}

fn cut(mut whole: Tokenized, max_length: usize) -> Tokenized {
    whole.ids.truncate(max_length);
    whole.loss.truncate(max_length);
    whole
}

fn split(whole: &Tokenized, max_length: usize) -> Vec<Tokenized> {
    let n = whole.ids.len();
    (0..n - 1)
        .step_by(max_length - 1)
        .map(|start| {
            let end = (start + max_length).min(n);
            Tokenized { ids: whole.ids[start..end].to_vec(), loss: whole.loss[start..end].to_vec(), ..*whole }
        })
        .collect()
}

/// Renders and tokenises one example, and marks its targets.
pub(crate) fn encode<'a>(
    content: &'a Content,
    encoder: &dyn TextEncoder,
    template: Option<&dyn Renderer>,
    loss_on_answers: bool,
) -> Result<Encoded<'a>, String> {
    match content {
        Content::Chat { messages, tools, given_answers } => {
            let template = template.ok_or("no chat template")?;
            let (text, spans) = template.render(messages, tools.as_ref())?;
            let (ids, offsets) = encoder.encode(&text)?;
            let answers = spans.get(*given_answers..).unwrap_or_default();
            let (mut loss, straddling) = mask(&offsets, answers);
            if loss_on_answers {
                stop_at_end(&ids, &mut loss, encoder.ends());
            } else {
                loss = vec![true; ids.len()];
            }
            Ok(Encoded { ids, offsets, loss, text: text.into(), straddling })
        }
        Content::PromptCompletion { prompt, completion } => {
            // Together, as TRL and PEFT do: pieces that are joined after tokenising would be split elsewhere.
            let text = format!("{prompt}{completion}");
            let (mut ids, mut offsets) = encoder.encode(&text)?;
            let answer = prompt.len()..text.len();
            let (mut loss, straddling) = mask(&offsets, std::slice::from_ref(&answer));
            if !loss_on_answers {
                loss = vec![true; ids.len()];
            }
            let says_something = !completion.is_empty();
            enclose(encoder, text.len(), says_something, &mut ids, &mut offsets, &mut loss);
            Ok(Encoded { ids, offsets, loss, text: text.into(), straddling })
        }
        Content::Text(text) => {
            let blocks = blocks(text);
            let encoded: Vec<_> = blocks.into_par_iter().map(|b| (b.start, encoder.encode(&text[b]))).collect();
            let (mut ids, mut offsets) = (Vec::new(), Vec::new());
            for (start, block) in encoded {
                let (block_ids, block_offsets) = block?;
                ids.extend(block_ids);
                offsets.extend(block_offsets.into_iter().map(|r| r.start + start..r.end + start));
            }
            let mut loss = vec![true; ids.len()];
            enclose(encoder, text.len(), true, &mut ids, &mut offsets, &mut loss);
            Ok(Encoded { ids, offsets, loss, text: text.into(), straddling: false })
        }
    }
}

/// Puts the tokenizer's start token before a text and its end token, which bears loss, after it.
fn enclose(
    encoder: &dyn TextEncoder,
    end: usize,
    end_bears_loss: bool,
    ids: &mut Vec<u32>,
    offsets: &mut Vec<Range<usize>>,
    loss: &mut Vec<bool>,
) {
    if let Some(bos) = encoder.bos()
        && ids.first() != Some(&bos)
    {
        ids.insert(0, bos);
        offsets.insert(0, 0..0);
        loss.insert(0, false);
    }
    if let Some(eos) = encoder.eos()
        && ids.last() != Some(&eos)
    {
        ids.push(eos);
        offsets.push(end..end);
        loss.push(end_bears_loss);
    }
}

/// Marks the tokens with at least one byte in a span. The second value: whether one of them starts before its span.
/// Spans are in order and disjoint.
fn mask(offsets: &[Range<usize>], spans: &[Range<usize>]) -> (Vec<bool>, bool) {
    let mut straddling = false;
    let mut first = 0;
    let loss = offsets
        .iter()
        .map(|token| {
            // Tokens are in order, so spans that end before this one are done with.
            while spans.get(first).is_some_and(|span| span.end <= token.start) {
                first += 1;
            }
            let Some(span) = spans.get(first) else { return false };
            let inside = token.start.max(span.start) < token.end.min(span.end);
            straddling |= inside && token.start < span.start;
            inside
        })
        .collect();
    (loss, straddling)
}

/// Takes the loss from what follows the last end-of-turn token of each answer: generation stops there.
fn stop_at_end(ids: &[u32], loss: &mut [bool], ends: &[u32]) {
    let mut i = 0;
    while i < loss.len() {
        let end = i + loss[i..].iter().take_while(|&&l| l).count();
        if let Some(last) = ids[i..end].iter().rposition(|id| ends.contains(id)) {
            loss[i + last + 1..end].fill(false);
        }
        i = end + 1;
    }
}

/// Cuts a document where tokens end anyway: at an empty line, else at a line, else at a space.
fn blocks(text: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut start = 0;
    while text.len() - start > BLOCK_BYTES {
        let limit = boundary(text, start + BLOCK_BYTES);
        let window = &text[boundary(text, start + BLOCK_BYTES / 2)..limit];
        let base = limit - window.len();
        let at = window.rfind("\n\n").map(|i| i + 2).or_else(|| window.rfind('\n').map(|i| i + 1));
        let end = base + at.or_else(|| window.rfind(' ')).unwrap_or(window.len());
        out.push(start..end);
        start = end;
    }
    out.push(start..text.len());
    out
}

/// The last start of a character at or before `at`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

/// Training and validation data, ready for [`crate::Batches`].
#[derive(Clone, Debug)]
pub struct Prepared {
    pub train: Vec<Tokenized>,
    pub valid: Vec<Tokenized>,
    pub train_report: Report,
    pub valid_report: Option<Report>,
    pub train_files: Vec<SourceFile>,
    pub valid_files: Vec<SourceFile>,
    /// For each training example, its index into `train_files`, and its line.
    pub train_lines: Vec<(u32, usize)>,
    /// For [`crate::Settings::weights`].
    pub weights: Vec<f64>,
    /// Of the training and of the validation data, for the resolved recipe.
    pub fingerprint: String,
}

/// All of it for a recipe: load, draw `max_samples`, hold out `valid_share` (or read `valid`, or the `valid.jsonl` beside
/// the `train.jsonl` of a directory), tokenise.
pub fn prepare(
    recipe: &DataRecipe,
    seed: u64,
    encoder: &dyn TextEncoder,
    template: Option<&dyn Renderer>,
) -> Result<Prepared, DataError> {
    if !(0.0..1.0).contains(&recipe.valid_share) {
        return Err(DataError::Setting {
            name: "valid_share",
            value: recipe.valid_share.to_string(),
            reason: "it is a share: at least 0 and below 1",
        });
    }
    let mut train = load(&recipe.train, &recipe.format, Part::Train)?;
    if let Some(n) = recipe.max_samples {
        train.limit(n, seed);
    }
    let mut valid_paths = recipe.valid.clone();
    if valid_paths.is_empty() && recipe.valid_share == 0.0 {
        valid_paths = paths::with_validation(&recipe.train);
    }
    let (train, valid) = if !valid_paths.is_empty() {
        (train, load(&valid_paths, &recipe.format, Part::Valid)?)
    } else {
        train.split(recipe.valid_share, seed)
    };
    let fingerprint = blake3::hash(format!("{} {}", train.fingerprint(), valid.fingerprint()).as_bytes());
    let (train_tokens, train_report) = tokenize(&train, encoder, template, recipe)?;
    let (valid_tokens, valid_report) = if valid.examples.is_empty() {
        (Vec::new(), None)
    } else {
        let (tokens, report) = tokenize(&valid, encoder, template, recipe)?;
        (tokens, Some(report))
    };
    Ok(Prepared {
        train: train_tokens,
        valid: valid_tokens,
        train_report,
        valid_report,
        weights: train.files.iter().map(|f| f.weight).collect(),
        train_lines: train.examples.iter().map(|e| e.source).collect(),
        train_files: train.files,
        valid_files: valid.files,
        fingerprint: fingerprint.to_hex().to_string(),
    })
}
