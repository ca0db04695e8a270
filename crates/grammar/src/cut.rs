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
        // What is seen in part may be cut otherwise as a whole: of the last bytes nothing is said.
        if !whole {
            let (mut end, limit) = (0, BYTES_EACH * most);
            let sure = tokens.iter().take_while(|&&token| {
                end += self.bytes(token).len();
                end <= limit
            });
            let sure = sure.count().max(usize::from(tokens.len() > 1));
            tokens.truncate(sure);
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

#[cfg(test)]
mod tests {
    use ounce_formats::tokenizer::Tokenizer;
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::vocabulary::environment;

    /// Byte-level, cut as GPT-2 does: a control token, single bytes (é has two), and what they merge to, up to sixteen of x.
    fn tokenizer() -> Tokenizer {
        let merges = ["x x", "xx xx", "xxxx xxxx", "xxxxxxxx xxxxxxxx", "Ã ©", "s a", "sa y", "a y"];
        let words = ["<unk>", "<s>", "'", "a", "b", "s", "x", "y", "Ã", "©"].map(String::from);
        let words = words.into_iter().chain(merges.map(|merge| merge.replace(' ', "")));
        let vocab: Map<String, Value> = words.enumerate().map(|(id, word)| (word, id.into())).collect();
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let added = json!([{"id": 1, "content": "<s>", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false}]);
        let file = json!({"version": "1.0", "added_tokens": added, "pre_tokenizer": bytes, "decoder": bytes,
            "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": merges}});
        Tokenizer::from_hf(file.to_string().as_bytes(), None, None).unwrap()
    }

    fn cut(before: Option<&str>, text: &[u8], most: usize) -> Vec<String> {
        let tokenizer = tokenizer();
        let cutter = Cutter::new(tokenizer.clone(), environment(&tokenizer));
        let before = before.map(|token| tokenizer.id(token).unwrap());
        let ids = cutter.cut(before, text, most);
        ids.iter().map(|&id| tokenizer.decode(&[id], false)).collect()
    }

    #[test]
    fn a_text_is_cut_as_its_tokenizer_does_it() {
        assert_eq!(cut(None, b"saysayxxx", 9), ["say", "say", "xx", "x"]);
        // An s after an apostrophe is a piece of its own.
        assert_eq!(cut(Some("'"), b"say", 9), ["s", "ay"]);
        assert_eq!(cut(Some("b"), b"say", 9), ["say"]);
        assert_eq!(cut(Some("<s>"), b"say", 9), ["say"]);
    }

    /// Where only a part of a text is looked at, its last token may be longer than that part.
    #[test]
    fn a_part_of_a_text_is_cut_as_the_whole() {
        let long = "x".repeat(200);
        let whole = cut(None, long.as_bytes(), 99);
        assert_eq!(whole.len(), 13);
        for most in 1..9 {
            let part = cut(None, long.as_bytes(), most);
            assert!(whole.starts_with(&part) && part.len() <= most && 2 * part.len() >= most, "{most}: {part:?}");
        }
        // The part that is looked at for one token, 24 bytes, ends within a letter.
        assert_eq!(cut(None, format!("x{}", "é".repeat(99)).as_bytes(), 1), ["x"]);
    }

    #[test]
    fn control_tokens_are_found_by_name_and_number() {
        assert_eq!(cut(None, b"\xff<s>ab\xff[1]say", 9), ["<s>", "a", "b", "<s>", "say"]);
        assert_eq!(cut(None, b"ab\xff[1]say", 3), ["a", "b", "<s>"]);
        // What is no text ends it.
        assert!(cut(None, b"\x80\xff[1]", 9).is_empty());
    }
}
