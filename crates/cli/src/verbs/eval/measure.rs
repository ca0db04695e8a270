//! One model on all tasks and data sets.

use std::collections::BTreeMap;

use ounce_data::{Renderer, Tokenized};
use ounce_engine::Asks;
use ounce_engine::sampler::SamplingParams;
use ounce_eval::answers::answer_all;
use ounce_eval::likelihood;
use ounce_eval::report::{Record, TaskReport, summarize};
use ounce_eval::score::{self, ChoiceLikelihood, Metric};
use ounce_eval::stats::{self, DocumentLoss, Interval, Perplexity};
use ounce_eval::task::{Item, Prompt, Reference};
use ounce_spec::recipe::DataRecipe;
use serde::Serialize;
use serde_json::json;

use super::NamedTask;
use crate::codes;
use crate::error::{CliError, Result};
use crate::flags::eval::Args;
use crate::flags::talk::Model;
use crate::signals::Signals;
use crate::talk::{Speaker, Uses, refusal};
use crate::verbs::Context;
use crate::verbs::data::data_error;

/// What was measured of one model.
#[derive(Debug, Serialize)]
pub struct Measured {
    pub model: String,
    pub adapter: Option<String>,
    /// In the order of the tasks.
    pub tasks: Vec<TaskReport>,
    /// For multiple choice: the share that is right by mean per token and per byte.
    pub choice_rules: Vec<Option<ChoiceRules>>,
    /// File and perplexity.
    pub perplexities: Vec<(String, Perplexity)>,
}

#[derive(Debug, Serialize)]
pub struct ChoiceRules {
    pub by_token: Interval,
    pub by_byte: Interval,
}

pub fn model(
    context: &Context,
    flags: &Model,
    args: &Args,
    tasks: &[NamedTask],
    signals: &Signals,
) -> Result<Measured> {
    let chooses = |named: &NamedTask| named.task.metric == Metric::MultipleChoice;
    let uses = Uses {
        answers: (!tasks.iter().all(chooses)).then(Asks::default),
        likelihoods: !args.data.is_empty() || tasks.iter().any(chooses),
    };
    let slots = args.parallel.clamp(1, 64);
    let mut speaker = Speaker::open(context, &flags.base, flags.adapter.as_deref(), slots, uses)?;
    let label = flags.adapter.clone().unwrap_or_else(|| flags.base.model.clone());
    let progress = Progress { context, label, signals };
    let mut out = Measured {
        model: flags.base.model.clone(),
        adapter: flags.adapter.clone(),
        tasks: Vec::new(),
        choice_rules: Vec::new(),
        perplexities: Vec::new(),
    };
    for named in tasks {
        let items = &named.task.items;
        let (records, rules) = match named.task.metric {
            Metric::MultipleChoice => {
                let (records, rules) = choose(&mut speaker, items, &progress)?;
                (records, Some(rules))
            }
            metric => (generate(&mut speaker, metric, items, args.max_tokens, &progress)?, None),
        };
        out.tasks.extend(summarize(named.task.metric, records));
        out.choice_rules.push(rules);
    }
    for file in &args.data {
        out.perplexities.push((file.clone(), perplexity(&speaker, file, flags.base.context, &progress)?));
    }
    Ok(out)
}

/// Shows how far a measurement is, on a terminal, and looks for signals.
struct Progress<'a> {
    context: &'a Context,
    label: String,
    signals: &'a Signals,
}

impl Progress<'_> {
    /// To be called with what is done so far; false: a signal came.
    fn of(&self, total: usize, what: &str) -> impl FnMut(usize) -> bool {
        let (out, label, signals, what) = (self.context.out, &self.label, self.signals, what.to_owned());
        let mut shown = None;
        move |done| {
            let stopped = signals.stopped();
            if out.live && shown != Some(done) {
                out.alarm(&format!("\r{label}: {done} of {total} {what}"));
                shown = Some(done);
            }
            if out.live && (stopped || done == total) {
                out.alarm("\n");
            }
            !stopped
        }
    }

    fn interrupted(&self) -> CliError {
        CliError::new(self.signals.code(), "the evaluation was interrupted").help("run the same command again")
    }
}

fn generate(
    speaker: &mut Speaker,
    metric: Metric,
    items: &[Item],
    max_tokens: usize,
    progress: &Progress,
) -> Result<Vec<Record>> {
    let prompts = items.iter().map(|item| prompt(speaker, item)).collect::<Result<Vec<_>>>()?;
    let params = SamplingParams { max_tokens: max_tokens.max(1), ..SamplingParams::default() };
    let answers = answer_all(&mut speaker.engine, &prompts, &params, progress.of(items.len(), "answers"));
    let answers = answers.map_err(|e| CliError::of(&codes::READ, &e))?;
    if progress.signals.stopped() {
        return Err(progress.interrupted());
    }
    let mut records = Vec::with_capacity(items.len());
    for (item, answer) in items.iter().zip(answers) {
        let answer = answer.map_err(|e| refusal(e).at(format!("line {} of the task", item.line), ""))?;
        let text = speaker.text.tokenizer.decode(&answer.tokens, true);
        let Reference::Text(reference) = &item.reference else { continue };
        records.push(match (metric, item.reference.json()) {
            (Metric::JsonFields, Some(object)) => {
                let score = score::json_fields(&text, &object);
                Record::json(item.line, text, score)
            }
            _ => {
                let right = score::exact_match(&text, reference);
                Record::plain(item.line, text, right)
            }
        });
    }
    Ok(records)
}

/// The tokens that an item asks with: a chat where the model has a template, else the bare text.
fn prompt(speaker: &Speaker, item: &Item) -> Result<Vec<u32>> {
    match &item.prompt {
        Prompt::Messages(messages) => speaker.chat_prompt(messages),
        Prompt::Text(text) if speaker.text.template.is_some() => {
            speaker.chat_prompt(&[json!({"role": "user", "content": text})])
        }
        Prompt::Text(text) => speaker.raw_prompt(text),
    }
}

fn choose(speaker: &mut Speaker, items: &[Item], progress: &Progress) -> Result<(Vec<Record>, ChoiceRules)> {
    let mut sequences = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let Reference::Choice { choices, .. } = &item.reference else { continue };
        let ids = prompt(speaker, item)?;
        let chat = matches!(item.prompt, Prompt::Messages(_)) || speaker.text.template.is_some();
        for choice in choices {
            // Without a template the choice goes on in the same line.
            let text = if chat { choice.clone() } else { format!(" {choice}") };
            let tail = speaker
                .text
                .tokenizer
                .encode_plain(&text, false)
                .map_err(|e| CliError::of(&codes::TOKENIZER, &e).help("check the model's tokenizer"))?;
            let context = speaker.engine.settings().context;
            if ids.len() + tail.len() > context {
                let what = format!("line {}: question and choice have {} tokens", item.line, ids.len() + tail.len());
                return Err(CliError::new(&codes::TASK, what).help("raise --context"));
            }
            let mut loss = vec![false; ids.len()];
            loss.resize(ids.len() + tail.len(), true);
            let ids = ids.iter().chain(&tail).copied().collect();
            sequences.push(Tokenized { ids, loss, example: index as u32, source: 0 });
        }
    }
    let losses = losses(speaker, &sequences, "choices", progress)?;
    let mut losses = losses.into_iter();
    let (mut records, mut by_token, mut by_byte) = (Vec::new(), 0, 0);
    for item in items {
        let Reference::Choice { choices, answer } = &item.reference else { continue };
        let scored: Vec<ChoiceLikelihood> = choices
            .iter()
            .zip(losses.by_ref())
            .map(|(c, l)| ChoiceLikelihood { logprob_sum: -l.nll_sum, tokens: l.tokens, bytes: c.len() })
            .collect();
        let Some(picks) = score::pick(&scored) else { continue };
        by_token += usize::from(picks.by_token == *answer);
        by_byte += usize::from(picks.by_byte == *answer);
        let (chosen, right) = (choices[picks.by_sum].clone(), picks.by_sum == *answer);
        let logprobs = scored.iter().map(|choice| choice.logprob_sum).collect();
        records.push(Record::choice(item.line, chosen, right, logprobs));
    }
    let share = |right| stats::wilson(right, records.len());
    match (share(by_token), share(by_byte)) {
        (Some(by_token), Some(by_byte)) => Ok((records, ChoiceRules { by_token, by_byte })),
        _ => Err(CliError::new(&codes::TASK, "the task has no rows with choices").help("ounce eval --help")),
    }
}

/// The losses of sequences, while a signal may come.
fn losses(speaker: &Speaker, sequences: &[Tokenized], what: &str, progress: &Progress) -> Result<Vec<DocumentLoss>> {
    let mut say = progress.of(sequences.len(), what);
    let losses = likelihood::losses(&speaker.device, speaker.engine.model(), sequences, &mut say);
    let losses = losses.map_err(|e| CliError::of(&codes::READ, &e))?.ok_or_else(|| progress.interrupted())?;
    say(sequences.len());
    Ok(losses)
}

fn perplexity(speaker: &Speaker, file: &str, context: usize, progress: &Progress) -> Result<Perplexity> {
    let longest = context.min(speaker.engine.model().context);
    let recipe = DataRecipe { train: vec![file.to_owned()], max_length: longest, ..DataRecipe::default() };
    let renderer = speaker.text.template.as_ref().map(|t| t as &dyn Renderer);
    let data = ounce_data::prepare(&recipe, 0, &speaker.text.tokenizer, renderer).map_err(data_error)?;
    let losses = losses(speaker, &data.train, "sequences", progress)?;
    // A long document is cut into several sequences, but it is one sample.
    let mut documents: BTreeMap<u32, DocumentLoss> = BTreeMap::new();
    for (sequence, loss) in data.train.iter().zip(losses) {
        let sum = documents.entry(sequence.example).or_insert(DocumentLoss { nll_sum: 0.0, tokens: 0 });
        sum.nll_sum += loss.nll_sum;
        sum.tokens += loss.tokens;
    }
    let documents: Vec<DocumentLoss> = documents.into_values().collect();
    stats::perplexity(&documents).ok_or_else(|| {
        CliError::new(&codes::DATA_FAULTY, format!("{file} has no token to score")).help("ounce data check")
    })
}

impl Measured {
    /// How tables call it.
    pub fn label(&self) -> String {
        let short = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or(path).to_owned();
        let name = short(self.adapter.as_ref().unwrap_or(&self.model));
        match name.chars().count() {
            ..=24 => name,
            _ => name.chars().take(23).chain(['…']).collect(),
        }
    }
}
