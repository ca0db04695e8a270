//! The algorithms that the `tokenizers` library has (byte-level and plain BPE, WordPiece, Unigram): running them with and
//! without special tokens in the text, and keeping its panics in. It knows nothing of where the objects came from.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::{AddedVocabulary, Model, OffsetType, PreTokenizer, Tokenizer};

use super::TokenizerError;

/// The library's objects, checked to work.
pub(super) struct Library {
    tokenizer: Tokenizer,
    /// The added tokens again, with the special ones switched off.
    plain: AddedVocabulary,
}

impl Library {
    pub fn new(tokenizer: Tokenizer) -> Self {
        let mut plain = tokenizer.get_added_vocabulary().clone();
        plain.set_encode_special_tokens(true);
        Library { tokenizer, plain }
    }

    /// Ids and the bytes of the text that each covers. Where the library changes the text before it cuts it, a range is
    /// that of the text the token came from.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<(u32, Range<usize>)>, TokenizerError> {
        let encode = || -> tokenizers::Result<Vec<(u32, Range<usize>)>> {
            let added = if special { self.tokenizer.get_added_vocabulary() } else { &self.plain };
            let mut pieces = added.extract_and_normalize(self.tokenizer.get_normalizer(), text);
            if let Some(pre) = self.tokenizer.get_pre_tokenizer() {
                pre.pre_tokenize(&mut pieces)?;
            }
            let model = self.tokenizer.get_model();
            pieces.tokenize(|piece| model.tokenize(piece.get()))?;
            let encoding = pieces.into_encoding(None, 0, OffsetType::Byte)?;
            let ranges = encoding.get_offsets().iter().map(|&(start, end)| start..end);
            Ok(encoding.get_ids().iter().copied().zip(ranges).collect())
        };
        guarded(encode).map_err(|why| TokenizerError::Encode { why })
    }
}

/// Runs library code that panics on some malformed files (upstream pull request 2151): the panic becomes an error.
pub(super) fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(panic) => Err(panic_text(&*panic)),
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(|text| text.to_string()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it stopped without a reason".into())
}
