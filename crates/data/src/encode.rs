//! What this crate needs of a tokenizer and of a chat template: two narrow traits, so that masks can be proved with a
//! tokenizer small enough to check by hand.

use std::ops::Range;

use serde_json::Value;

/// Text to token ids, with the bytes that each token covers.
pub trait TextEncoder: Sync {
    /// Ids and, for each, its byte range in `text`. Special tokens written out in the text are recognised; none is added.
    fn encode(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), String>;
    /// The token that this tokenizer puts before a text, where it does so.
    fn bos(&self) -> Option<u32>;
    /// The token that ends a text.
    fn eos(&self) -> Option<u32>;
}

/// A conversation to text, with the byte range of every assistant turn (its end-of-turn token included), in order.
pub trait Renderer: Sync {
    fn render(&self, messages: &Value, tools: Option<&Value>) -> Result<(String, Vec<Range<usize>>), String>;
}
