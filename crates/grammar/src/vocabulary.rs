//! A tokenizer's vocabulary as the library takes it: the bytes of each token, control tokens marked. It knows no grammar.

use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use ounce_formats::tokenizer::{Kind, Tokenizer};

/// Longest token that takes part; the library's trie has no room for longer ones, and vocabularies hardly have any.
const MAX_TOKEN_BYTES: usize = 1000;

/// The vocabulary with the tokens that end a text. A token without bytes is never allowed.
pub fn environment(tokenizer: &Tokenizer) -> TokEnv {
    let mut words: Vec<Vec<u8>> = (0..tokenizer.vocab_size() as u32).map(|id| word(tokenizer, id)).collect();
    let mut ends = tokenizer.eos_ids().to_vec();
    if ends.is_empty() {
        // The library needs one. This is beyond the vocabulary, so it is never drawn.
        ends.push(words.len() as u32);
        words.push(marked("<end>"));
    }
    let info = TokRxInfo::new(words.len() as u32, ends[0]);
    // It tokenizes texts greedily, which is only asked for where tokens are forced. None are: the model may cut texts as it likes, and
    // how it does is guessed elsewhere.
    Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words).with_eos_tokens(&ends)))
}

fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    match tokenizer.kind(id) {
        Kind::Absent | Kind::Unused => Vec::new(),
        Kind::Control | Kind::Unknown => marked(tokenizer.token(id).unwrap_or_default()),
        Kind::Normal | Kind::UserDefined | Kind::Byte => {
            let bytes = tokenizer.token_bytes(id);
            // A byte that no text has, and that would be taken for the mark.
            let marks = bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER);
            if marks || bytes.len() > MAX_TOKEN_BYTES { Vec::new() } else { bytes }
        }
    }
}

/// A control token: grammars know it by its name, texts do not hold it.
fn marked(name: &str) -> Vec<u8> {
    let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
    word.extend(name.bytes().take(MAX_TOKEN_BYTES));
    word
}
