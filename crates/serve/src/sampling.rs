//! What a request asks of sampling: the fields that chat and text completions share, read and checked. It knows no prompt.

use ounce_engine::sampler::{MAX_LOGIT_BIAS, MAX_STOP_BYTES, SamplingParams};
use ounce_spec::model::GenerationConfig;
use serde_json::Value;

use crate::app;
use crate::fields::{Fields, kind};

/// Most answers to one prompt.
pub const MAX_N: i64 = 8;
/// Most alternatives beside a token.
pub const MAX_TOP_LOGPROBS: i64 = 20;
/// Most texts that end an answer.
pub const MAX_STOPS: usize = 4;
/// Longest answer that may be asked for.
pub const MAX_TOKENS: i64 = 1 << 31;

pub struct Sampling {
    pub params: SamplingParams,
    /// Answers to each prompt.
    pub n: usize,
    pub stream: bool,
    /// End a stream with a chunk that has the numbers of tokens.
    pub include_usage: bool,
}

impl Sampling {
    /// Reads the fields over what the model's makers recommend; a temperature that nobody gives is 1.
    pub fn read(fields: &mut Fields, model: &GenerationConfig) -> Sampling {
        let defaults = defaults(model);
        let number = |value: Option<f64>| value.map(|v| v as f32);
        // -1 is how some clients write "all".
        let top_k = fields.integer("top_k", -1..=i64::from(u32::MAX)).map(|k| k.max(0) as u32);
        let params = SamplingParams {
            temperature: number(fields.number("temperature", 0.0..=2.0)).unwrap_or(defaults.temperature),
            top_k: top_k.unwrap_or(defaults.top_k),
            top_p: number(fields.positive("top_p", 1.0)).unwrap_or(defaults.top_p),
            min_p: number(fields.number("min_p", 0.0..=1.0)).unwrap_or(defaults.min_p),
            repetition_penalty: number(fields.positive("repetition_penalty", 10.0))
                .unwrap_or(defaults.repetition_penalty),
            presence_penalty: number(fields.number("presence_penalty", -2.0..=2.0)).unwrap_or(0.0),
            frequency_penalty: number(fields.number("frequency_penalty", -2.0..=2.0)).unwrap_or(0.0),
            seed: fields.integer("seed", i64::MIN..=i64::MAX).map_or_else(app::random, |seed| seed as u64),
            logit_bias: logit_bias(fields),
            stop: stop(fields),
            stop_tokens: fields.token_ids("stop_token_ids").unwrap_or_default(),
            ignore_eos: fields.flag("ignore_eos").unwrap_or(false),
            ..defaults
        };
        let n = fields.integer("n", 1..=MAX_N).unwrap_or(1) as usize;
        let stream = fields.flag("stream").unwrap_or(false);
        Sampling { params, n, stream, include_usage: include_usage(fields) }
    }

    /// Sets the limit of an answer from whichever of the fields `names` is given, the first that is.
    pub fn limit(&mut self, fields: &mut Fields, names: &[&str], least: i64, default: usize) {
        let given: Vec<usize> =
            names.iter().filter_map(|name| fields.integer(name, least..=MAX_TOKENS)).map(|n| n as usize).collect();
        self.params.max_tokens = given.first().copied().unwrap_or(default);
    }

    /// What the `n` answers to a prompt are sampled with: each has a seed of its own.
    pub fn each(&self) -> impl Iterator<Item = SamplingParams> {
        (0..self.n as u64).map(|i| SamplingParams { seed: self.params.seed.wrapping_add(i), ..self.params.clone() })
    }
}

/// What the model's makers recommend; a temperature that nobody gives is 1.
pub fn defaults(model: &GenerationConfig) -> SamplingParams {
    let greedy = model.do_sample == Some(false);
    SamplingParams {
        temperature: if greedy { 0.0 } else { model.temperature.unwrap_or(1.0) },
        top_k: model.top_k.unwrap_or(0),
        top_p: model.top_p.unwrap_or(1.0),
        min_p: model.min_p.unwrap_or(0.0),
        repetition_penalty: model.repetition_penalty.unwrap_or(1.0),
        ..SamplingParams::default()
    }
}

fn include_usage(fields: &mut Fields) -> bool {
    match fields.value("stream_options") {
        None => false,
        Some(Value::Object(options)) => match options.get("include_usage") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(wanted)) => *wanted,
            Some(other) => {
                let what = format!("must be true or false, it is {}", kind(other));
                fields.fault("stream_options.include_usage", what);
                false
            }
        },
        Some(other) => {
            fields.fault("stream_options", format!("must be an object, it is {}", kind(other)));
            false
        }
    }
}

/// `stop`: a text or a few.
pub fn stop(fields: &mut Fields) -> Vec<String> {
    let texts: Option<Vec<String>> = match fields.value("stop") {
        None => return Vec::new(),
        Some(Value::String(text)) => Some(vec![text.clone()]),
        Some(Value::Array(list)) => list.iter().map(|text| text.as_str().map(String::from)).collect(),
        Some(_) => None,
    };
    match texts {
        None => fields.fault("stop", "must be a string or a list of strings"),
        Some(texts) if texts.len() > MAX_STOPS => {
            fields.fault("stop", format!("has {} texts, at most {MAX_STOPS} are allowed", texts.len()));
        }
        Some(texts) if texts.iter().any(|t| t.is_empty() || t.len() > MAX_STOP_BYTES) => {
            fields.fault("stop", format!("texts must have 1 to {MAX_STOP_BYTES} bytes"));
        }
        Some(texts) => return texts,
    }
    Vec::new()
}

/// `{"token id": bias}`.
fn logit_bias(fields: &mut Fields) -> Vec<(u32, f32)> {
    let Some(value) = fields.value("logit_bias") else { return Vec::new() };
    let Some(object) = value.as_object() else {
        fields.fault("logit_bias", format!("must be an object of token ids and numbers, it is {}", kind(value)));
        return Vec::new();
    };
    if object.len() > MAX_LOGIT_BIAS {
        fields.fault("logit_bias", format!("has {} entries, at most {MAX_LOGIT_BIAS} are allowed", object.len()));
        return Vec::new();
    }
    let entry = |(id, bias): (&String, &Value)| {
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))?;
        Some((id.parse().ok()?, bias as f32))
    };
    let entries: Option<Vec<(u32, f32)>> = object.iter().map(entry).collect();
    if entries.is_none() {
        fields.fault("logit_bias", "must map token ids to numbers from -100 to 100");
    }
    entries.unwrap_or_default()
}
