//! [`Cutter`]: how a model is likely to cut a text that it writes into tokens: as its tokenizer would. It knows no grammar.

use llguidance::toktrie::{TokEnv, TokTrie};
use ounce_formats::tokenizer::Tokenizer;

/// Bytes that are looked at for each token that is wanted; tokens have fewer on average.
pub const BYTES_EACH: usize = 12;

pub struct Cutter {
    tokenizer: Tokenizer,
    vocabulary: TokEnv,
}

impl Cutter {
    pub fn new(tokenizer: Tokenizer, vocabulary: TokEnv) -> Cutter {
        Cutter { tokenizer, vocabulary }
    }

    /// What a token writes: the library's mark and its name where it is a control token.
    pub fn bytes(&self, token: u32) -> Vec<u8> {
        self.vocabulary.tok_trie().decode_raw(&[token])
    }

    /// The token of a byte.
    pub fn byte(&self, byte: u8) -> Option<u32> {
        self.vocabulary.tok_trie().token_id_at_bytes(&[byte])
    }

    /// The first tokens of `text` where it follows the token `before`, at most `most`. In the text a control token is written as the
    /// library's mark and its name or number. Where a text has no such tokens, they end.
    pub fn cut(&self, before: Option<u32>, text: &[u8], most: usize) -> Vec<u32> {
        let (mut tokens, mut rest) = (Vec::new(), &text[..text.len().min(BYTES_EACH * (most + 1))]);
        let whole = rest.len() == text.len();
        while tokens.len() < most && !rest.is_empty() {
            let plain = rest.iter().position(|&b| b == TokTrie::SPECIAL_TOKEN_MARKER).unwrap_or(rest.len());
            let marked = plain == 0;
            let end = if marked {
                rest.iter().position(|b| b"]>".contains(b)).map_or(rest.len(), |at| at + 1)
            } else {
                plain
            };
            let (part, after) = rest.split_at(end);
            let found = match marked {
                true => self.vocabulary.tokenize_bytes_marker(part).0,
                false => self.plain(tokens.last().copied().or(before), part),
            };
            rest = if found.is_empty() { &[] } else { after };
            tokens.extend(found);
        }
        // The last may be a part of a longer one.
        if !whole && tokens.len() <= most {
            tokens.pop();
        }
        tokens.truncate(most);
        tokens
    }

    /// The tokens of bytes without control tokens.
    fn plain(&self, before: Option<u32>, bytes: &[u8]) -> Vec<u32> {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) => std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or_default(),
        };
        // What stands before decides where words begin; tokenizers may put a space before a text's beginning.
        let before = before.filter(|&token| !self.tokenizer.is_special(token));
        let before = before.and_then(|token| String::from_utf8(self.tokenizer.token_bytes(token)).ok());
        let contexts = [before.as_deref().unwrap_or("\n"), "\n", ""];
        contexts.iter().find_map(|context| self.after(context, text)).unwrap_or_default()
    }

    /// The tokens of `text` behind `context`, if one begins where it does.
    fn after(&self, context: &str, text: &str) -> Option<Vec<u32>> {
        let mut tokens = self.tokenizer.encode(&format!("{context}{text}"), false).ok()?;
        let (mut begin, mut left) = (tokens.len(), text.len());
        while left > 0 {
            begin = begin.checked_sub(1)?;
            left = left.checked_sub(self.tokenizer.token_bytes(tokens[begin]).len())?;
        }
        Some(tokens.split_off(begin))
    }
}
