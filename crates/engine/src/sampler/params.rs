//! What a caller asks of sampling, and the check that it makes sense. Knows no logits.

use serde::{Deserialize, Serialize};

/// How the next token is chosen and when a generation ends. The names are those of Hugging Face's `generate` and of the
/// OpenAI API. The default is greedy: `temperature` 0, everything else off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingParams {
    /// 0 is greedy; otherwise logits are divided by it. Range 0..=100.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens (and those that tie with the last of them); 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probabilities add up to `top_p` (Holtzman et al. 2020); 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than `min_p` times the most likely one (Nguyen et al. 2024); 0 keeps all.
    pub min_p: f32,
    /// Keep the tokens closest to the expected information, up to this mass (Meister et al. 2023); 1 keeps all.
    pub typical_p: f32,
    /// Divide positive and multiply negative logits of tokens seen in prompt or answer (Keskar et al. 2019); 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of every token the answer holds already. Range -2..=2.
    pub presence_penalty: f32,
    /// Subtracted once for each time the answer holds the token. Range -2..=2.
    pub frequency_penalty: f32,
    /// Same seed, same prompt, same logits: same tokens, whatever else runs in the batch.
    pub seed: u64,
    /// Added to the logit of a token before everything else. Values -100..=100.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// Texts that end the answer; they are not part of it. At most 16, none empty.
    pub stop: Vec<String>,
    /// Tokens that end the answer, besides the model's own.
    pub stop_tokens: Vec<u32>,
    /// Go on after the model's own end tokens (for measurements).
    pub ignore_eos: bool,
    /// Report so many of the most likely tokens beside each chosen one.
    pub logprobs: usize,
    /// Report how likely each token of the prompt was after those before it, with so many of the most likely ones. The
    /// whole prompt runs then, whatever the cache remembers.
    pub prompt_logprobs: Option<usize>,
}

impl Default for SamplingParams {
    fn default() -> SamplingParams {
        SamplingParams {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
            logit_bias: Vec::new(),
            max_tokens: 512,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            ignore_eos: false,
            logprobs: 0,
            prompt_logprobs: None,
        }
    }
}

/// Most stop texts of one request.
pub const MAX_STOPS: usize = 16;
/// Longest stop text, in bytes.
pub const MAX_STOP_BYTES: usize = 1024;
/// Most entries of `logit_bias`.
pub const MAX_LOGIT_BIAS: usize = 1024;

/// One field that is out of its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} is {value}, it must be {range}")]
pub struct ParamError {
    pub field: &'static str,
    pub value: String,
    pub range: &'static str,
}

impl SamplingParams {
    /// Checks every field against its range; all faults are reported, in the order of the fields.
    pub fn validate(&self) -> Result<(), Vec<ParamError>> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, field, value: String, range| {
            if !ok {
                faults.push(ParamError { field, value, range });
            }
        };
        // `contains` is false for NaN, so one test covers it.
        let t = self.temperature;
        check((0.0..=100.0).contains(&t), "temperature", t.to_string(), "0 (greedy) to 100");
        let p = self.top_p;
        check(p > 0.0 && p <= 1.0, "top_p", p.to_string(), "above 0, at most 1 (off)");
        check((0.0..=1.0).contains(&self.min_p), "min_p", self.min_p.to_string(), "0 (off) to 1");
        let p = self.typical_p;
        check(p > 0.0 && p <= 1.0, "typical_p", p.to_string(), "above 0, at most 1 (off)");
        let r = self.repetition_penalty;
        check(r > 0.0 && r <= 10.0, "repetition_penalty", r.to_string(), "above 0, at most 10; 1 is off");
        for (field, value) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            check((-2.0..=2.0).contains(&value), field, value.to_string(), "-2 to 2");
        }
        let n = self.logit_bias.len();
        check(n <= MAX_LOGIT_BIAS, "logit_bias", format!("{n} entries"), "at most 1024 entries");
        for &(token, bias) in self.logit_bias.iter().take(MAX_LOGIT_BIAS) {
            check((-100.0..=100.0).contains(&bias), "logit_bias", format!("{bias} for token {token}"), "-100 to 100");
        }
        check(self.max_tokens > 0, "max_tokens", self.max_tokens.to_string(), "at least 1");
        let n = self.stop.len();
        check(n <= MAX_STOPS, "stop", format!("{n} texts"), "at most 16 texts");
        for s in self.stop.iter().take(MAX_STOPS) {
            check(!s.is_empty(), "stop", "an empty text".into(), "1 to 1024 bytes each");
            check(s.len() <= MAX_STOP_BYTES, "stop", format!("{} bytes", s.len()), "1 to 1024 bytes each");
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid() {
        assert_eq!(SamplingParams::default().validate(), Ok(()));
    }

    #[test]
    fn every_fault_is_reported_with_its_field() {
        let params = SamplingParams {
            temperature: f32::NAN,
            top_p: 0.0,
            min_p: 1.5,
            typical_p: -1.0,
            repetition_penalty: 0.0,
            presence_penalty: 2.5,
            frequency_penalty: f32::INFINITY,
            logit_bias: vec![(3, 101.0)],
            max_tokens: 0,
            stop: vec![String::new()],
            ..SamplingParams::default()
        };
        let fields: Vec<_> = params.validate().unwrap_err().into_iter().map(|e| e.field).collect();
        assert_eq!(
            fields,
            [
                "temperature",
                "top_p",
                "min_p",
                "typical_p",
                "repetition_penalty",
                "presence_penalty",
                "frequency_penalty",
                "logit_bias",
                "max_tokens",
                "stop"
            ]
        );
        let one = SamplingParams { temperature: -1.0, ..SamplingParams::default() }.validate().unwrap_err();
        assert_eq!(one[0].to_string(), "temperature is -1, it must be 0 (greedy) to 100");
    }
}
