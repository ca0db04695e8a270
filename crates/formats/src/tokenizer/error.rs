//! Why a tokenizer could not be made from its files, or could not encode a text.

use crate::error::list;
use crate::gguf::GgufError;

/// Each variant says what is wrong and, where there is one, the way out. The caller knows the file's path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    #[error("{file} has {bytes} bytes, the limit is {limit}")]
    TooLarge { file: &'static str, bytes: usize, limit: usize },
    #[error("{file}: {why}")]
    Parse { file: &'static str, why: String },
    /// The library that reads tokenizer.json stopped with a panic, which it does on some malformed files.
    #[error("{file} is malformed: {why}")]
    Malformed { file: &'static str, why: String },
    /// All that is wrong with the vocabulary.
    #[error("the tokenizer cannot be used: {}", list(problems))]
    Problems { problems: Vec<String> },
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("tokenizer.ggml.model is \"{model}\"; known are llama, gpt2, gemma4, bert and t5")]
    UnknownModel { model: String },
    #[error("a tokenizer of the kind {model} cannot be written as tokenizer.json (gpt2 and llama can)")]
    NotWritable { model: String },
    #[error("tokenizer.ggml.pre is \"{pre}\", which is not known; known are {known}")]
    UnknownPre { pre: String, known: String },
    #[error("a text of {bytes} bytes is too long to encode at once, the limit is {limit}; split it")]
    TextTooLong { bytes: usize, limit: usize },
    #[error("cannot encode the text: {why}")]
    Encode { why: String },
}

impl TokenizerError {
    /// `Ok` if nothing is wrong.
    pub(super) fn unless_empty(problems: Vec<String>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(TokenizerError::Problems { problems }) }
    }
}
