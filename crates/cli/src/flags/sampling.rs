//! Flags of `chat` and `generate` that decide how tokens are chosen.

use ounce_engine::sampler::SamplingParams;
use ounce_spec::model::GenerationConfig;

use crate::codes;
use crate::error::{CliError, Result};

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct Sampling {
    /// 0: always the most likely token; higher: more variety [default: the model's own]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Keep the K most likely tokens; 0: all [default: the model's own, else 0]
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Keep the most likely tokens up to this probability, above 0 to 1 [default: the model's own, else 1]
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Drop tokens less likely than this share of the most likely one, 0 to 1 [default: the model's own, else 0]
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Keep tokens of typical information up to this probability, above 0 to 1
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub typical_p: f32,
    /// Make tokens that occurred less likely; 1: off [default: the model's own, else 1]
    #[arg(long, value_name = "X")]
    pub repetition_penalty: Option<f32>,
    /// Subtracted from logits of tokens that the answer holds, -2 to 2
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Subtracted once for each occurrence in the answer, -2 to 2
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// Same seed, same prompt: same answer
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Text that ends the answer and is not part of it (repeatable)
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Longest answer, tokens
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_tokens: usize,
}

impl Sampling {
    /// Flags over what the model's makers recommend. Where neither says anything the answer is greedy.
    pub fn params(&self, model: &GenerationConfig) -> Result<SamplingParams> {
        // Settings that come without `do_sample` are what to sample with, if one samples.
        let greedy = model.do_sample == Some(false) && self.temperature.is_none();
        let params = SamplingParams {
            temperature: if greedy { 0.0 } else { self.temperature.or(model.temperature).unwrap_or(0.0) },
            top_k: self.top_k.or(model.top_k).unwrap_or(0),
            top_p: self.top_p.or(model.top_p).unwrap_or(1.0),
            min_p: self.min_p.or(model.min_p).unwrap_or(0.0),
            typical_p: self.typical_p,
            repetition_penalty: self.repetition_penalty.or(model.repetition_penalty).unwrap_or(1.0),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed,
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            ..SamplingParams::default()
        };
        params.validate().map_err(|faults| {
            let mut out = CliError::new(&codes::SAMPLING, "sampling settings are out of range");
            for fault in faults {
                out = out.at(format!("--{}", fault.field.replace('_', "-")), fault.to_string());
            }
            out.help("ounce generate --help lists every setting with its range")
        })?;
        Ok(params)
    }
}
