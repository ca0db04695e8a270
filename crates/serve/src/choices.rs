//! The wire form of tokens with their log probabilities, and of the numbers of tokens. It knows no endpoint.

use ounce_engine::Scored;
use ounce_formats::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

/// What stands for a log probability that JSON cannot hold.
const IMPOSSIBLE: f32 = -9999.0;

/// A token as text; bytes that are no characters become U+FFFD.
pub fn token_text(tokenizer: &Tokenizer, token: u32) -> String {
    String::from_utf8_lossy(&tokenizer.token_bytes(token)).into_owned()
}

pub fn logprob(value: f32) -> f32 {
    if value.is_finite() { value } else { IMPOSSIBLE }
}

/// An entry of a chat choice's `logprobs.content`.
pub fn chat_logprob(tokenizer: &Tokenizer, scored: &Scored) -> Value {
    let entry = |token: u32, value: f32| {
        let bytes = tokenizer.token_bytes(token);
        json!({"token": String::from_utf8_lossy(&bytes), "logprob": logprob(value), "bytes": bytes})
    };
    let mut out = entry(scored.token, scored.logprob);
    out["top_logprobs"] = scored.top.iter().map(|&(token, value)| entry(token, value)).collect();
    out
}

/// `logprobs` of a text completion: four lists, an entry for each token.
#[derive(Default)]
pub struct TextLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    /// Characters up to the next token.
    offset: usize,
}

impl TextLogprobs {
    /// The first token of a prompt, of which nothing can be said.
    pub fn push_first(&mut self, tokenizer: &Tokenizer, token: u32) {
        self.push_entry(token_text(tokenizer, token), Value::Null, Value::Null);
    }

    /// A token with the most likely ones, itself always among them with the same number.
    pub fn push(&mut self, tokenizer: &Tokenizer, scored: &Scored) {
        let text = token_text(tokenizer, scored.token);
        let mut top = Map::new();
        for &(token, value) in &scored.top {
            // Of tokens that look the same the most likely counts.
            top.entry(token_text(tokenizer, token)).or_insert_with(|| logprob(value).into());
        }
        top.entry(text.clone()).or_insert_with(|| logprob(scored.logprob).into());
        self.push_entry(text, logprob(scored.logprob).into(), top.into());
    }

    fn push_entry(&mut self, text: String, value: Value, top: Value) {
        self.text_offset.push(self.offset);
        self.offset += text.chars().count();
        self.tokens.push(text);
        self.token_logprobs.push(value);
        self.top_logprobs.push(top);
    }

    /// What has been pushed since the last call; offsets go on.
    pub fn take(&mut self) -> Value {
        json!({
            "tokens": std::mem::take(&mut self.tokens),
            "token_logprobs": std::mem::take(&mut self.token_logprobs),
            "top_logprobs": std::mem::take(&mut self.top_logprobs),
            "text_offset": std::mem::take(&mut self.text_offset),
        })
    }
}

pub fn usage(prompt: usize, completion: usize, cached: usize) -> Value {
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    })
}
