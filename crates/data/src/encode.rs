//! What this crate needs of a tokenizer and of a chat template: two narrow traits, so that masks can be proved with a
//! tokenizer small enough to check by hand. Those of `formats` have both.

use std::ops::Range;

use ounce_formats::{
    template::{ChatTemplate, RenderOptions},
    tokenizer::Tokenizer,
};
use serde_json::Value;

/// Text to token ids, with the bytes that each token covers.
pub trait TextEncoder: Sync {
    /// Ids and, for each, its byte range in `text`. Special tokens written out in the text are recognised; none is added.
    fn encode(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), String>;
    /// The token that this tokenizer puts before a text, where it does so.
    fn bos(&self) -> Option<u32>;
    /// The token that ends a text.
    fn eos(&self) -> Option<u32>;
    /// Every token at which generation stops.
    fn ends(&self) -> &[u32];
    /// The control tokens that are written out in a text, each once, in order.
    fn control_tokens_in(&self, text: &str) -> Vec<String>;
}

/// A conversation to text, with the byte range of every assistant turn (its end-of-turn token included), in order. What
/// a range has after that token, such as the line end of ChatML, is never generated and bears no loss.
pub trait Renderer: Sync {
    fn render(&self, messages: &Value, tools: Option<&Value>) -> Result<(String, Vec<Range<usize>>), String>;
}

impl TextEncoder for Tokenizer {
    fn encode(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), String> {
        self.encode_with_offsets(text).map_err(|e| e.to_string())
    }
    fn bos(&self) -> Option<u32> {
        Tokenizer::bos(self).filter(|_| self.adds_bos())
    }
    fn eos(&self) -> Option<u32> {
        Tokenizer::eos(self)
    }
    fn ends(&self) -> &[u32] {
        self.eos_ids()
    }
    fn control_tokens_in(&self, text: &str) -> Vec<String> {
        let mut seen = std::collections::HashSet::new();
        Tokenizer::control_tokens_in(self, text)
            .map(|at| &text[at])
            .filter(|t| seen.insert(*t))
            .map(String::from)
            .collect()
    }
}

/// What templates that print the date are told: 1 January 2025. Training text that changed with the day could not be
/// resumed on the next one.
const NOW: i64 = 1_735_689_600;

impl Renderer for ChatTemplate {
    fn render(&self, messages: &Value, tools: Option<&Value>) -> Result<(String, Vec<Range<usize>>), String> {
        let options = RenderOptions { tools: tools.cloned(), now: Some(NOW), ..RenderOptions::default() };
        self.render_with_answer_spans(messages, &options).map_err(|e| e.to_string())
    }
}
