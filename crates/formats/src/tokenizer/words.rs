//! Byte-level BPE word by word: the library's expressions and merges without its machinery for changed texts, which costs
//! ten times the merging. Words that come again cost one look-up. It knows nothing of files.

use std::collections::HashMap;
use std::ops::Range;

use tokenizers::models::bpe::BPE;
use tokenizers::utils::SysRegex;
use tokenizers::{AddedToken, Model, Tokenizer};

use super::added::{Added, AddedTokens, Part};
use super::library::guarded;
use super::vocab::{Vocab, alphabet_byte};
use super::{Pieces, TokenizerError, pre};

/// Distinct words that one text may fill its cache with.
const MAX_CACHED_WORDS: usize = 1 << 16;

/// Byte-level BPE on texts that are taken as they are.
pub(super) struct Words {
    splits: Vec<SysRegex>,
    model: BPE,
    added: AddedTokens,
    alphabet: [char; 256],
}

impl Words {
    /// `splits` cut one after the other; matches and gaps are both words.
    pub fn new(splits: &[&str], model: BPE, added: impl IntoIterator<Item = Added>) -> tokenizers::Result<Self> {
        let mut alphabet = ['\0'; 256];
        for c in '\0'..'\u{144}' {
            if let Some(byte) = alphabet_byte(c) {
                alphabet[byte as usize] = c;
            }
        }
        let splits = splits.iter().map(|split| SysRegex::new(split)).collect::<tokenizers::Result<_>>()?;
        Ok(Words { splits, model, added: AddedTokens::new(added), alphabet })
    }

    /// The same as a library tokenizer, if that is byte-level BPE and nothing else: no normalizer, no rules that look
    /// beyond a word, no added tokens with conditions.
    pub fn of(tokenizer: &Tokenizer) -> Option<Self> {
        if tokenizer.get_normalizer().is_some() {
            return None;
        }
        let tokenizers::ModelWrapper::BPE(model) = tokenizer.get_model() else { return None };
        let affixes = model.continuing_subword_prefix.is_some() || model.end_of_word_suffix.is_some();
        if affixes || model.dropout.is_some() || model.unk_token.is_some() || model.byte_fallback {
            return None;
        }
        let patterns = patterns(&serde_json::to_value(tokenizer.get_pre_tokenizer()?).ok()?)?;
        let unconditional = |token: &AddedToken| !token.lstrip && !token.rstrip && !token.single_word;
        let tokens = tokenizer.get_added_tokens_decoder();
        if !tokens.values().all(unconditional) {
            return None;
        }
        let added = tokens.iter().map(|(&id, token)| Added {
            id,
            text: token.content.clone(),
            special: token.special,
            rstrip: false,
        });
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        Words::new(&patterns, model.clone(), added).ok()
    }

    /// Ids and the whole characters that each covers.
    pub fn encode(&self, vocab: &Vocab, text: &str, special: bool) -> Result<Pieces, TokenizerError> {
        guarded(|| self.run(vocab, text, special)).map_err(|why| TokenizerError::Encode { why })
    }

    fn run(&self, vocab: &Vocab, text: &str, special: bool) -> tokenizers::Result<Pieces> {
        let mut pieces = Vec::with_capacity(text.len() / 4 + 1);
        let mut cache: HashMap<&str, Vec<u32>> = HashMap::new();
        let mut written = String::new();
        for part in self.added.split(text, special) {
            let (part, start) = match part {
                Part::Token { id, start, end } => {
                    pieces.push((id, start..end));
                    continue;
                }
                Part::Text { text, start } => (text, start),
            };
            for word in self.cut(part) {
                let place = start + word.start..start + word.end;
                let word = &part[word];
                if let Some(ids) = cache.get(word) {
                    place_tokens(vocab, text, place, ids, &mut pieces);
                    continue;
                }
                written.clear();
                written.extend(word.bytes().map(|byte| self.alphabet[byte as usize]));
                let ids = self.model.tokenize(&written)?.iter().map(|token| token.id).collect::<Vec<_>>();
                place_tokens(vocab, text, place, &ids, &mut pieces);
                if cache.len() < MAX_CACHED_WORDS {
                    cache.insert(word, ids);
                }
            }
        }
        Ok(pieces)
    }

    /// The words of a text, in order.
    fn cut(&self, text: &str) -> Vec<Range<usize>> {
        let mut words: Vec<Range<usize>> = std::iter::once(0..text.len()).collect();
        for split in &self.splits {
            let mut cut = Vec::with_capacity(words.len() + text.len() / 5);
            for word in words {
                let mut from = word.start;
                for (start, end) in split.find_iter(&text[word.clone()]) {
                    let (start, end) = (word.start + start, word.start + end);
                    cut.extend([from..start, start..end].into_iter().filter(|range| !range.is_empty()));
                    from = end;
                }
                cut.extend((from < word.end).then_some(from..word.end));
            }
            words = cut;
        }
        words
    }
}

/// Appends a word's tokens. A token that begins or ends inside a character has the whole character's range.
fn place_tokens(vocab: &Vocab, text: &str, word: Range<usize>, ids: &[u32], pieces: &mut Pieces) {
    let whole = ids.iter().map(|&id| vocab.bytes(id).len()).sum::<usize>() == word.len();
    let mut at = word.start;
    for &id in ids {
        if !whole {
            // The vocabulary lacks a byte, so which token covers what is not known.
            pieces.push((id, word.clone()));
            continue;
        }
        let (mut start, mut end) = (at, at + vocab.bytes(id).len());
        at = end;
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        while !text.is_char_boundary(end) {
            end += 1;
        }
        pieces.push((id, start..end));
    }
}

/// A step of a pre-tokenizer that is known here.
enum Step {
    Split(String),
    /// The byte-level step; with GPT-2's own word rule if `words`.
    Bytes {
        words: bool,
    },
}

/// The expressions of a byte-level `pre_tokenizer`, one after the other; `None` if it does anything else.
pub(super) fn patterns(pre: &serde_json::Value) -> Option<Vec<String>> {
    let mut steps = Vec::new();
    collect(pre, &mut steps)?;
    // The byte-level step comes last and once, or other steps would see its alphabet.
    let Step::Bytes { words } = steps.pop()? else { return None };
    let mut patterns = Vec::new();
    for step in steps {
        let Step::Split(pattern) = step else { return None };
        patterns.push(pattern);
    }
    if words {
        patterns.push(pre::GPT2.into());
    }
    Some(patterns)
}

/// The steps of a pre-tokenizer in order; `None` if one is not known here.
fn collect(pre: &serde_json::Value, steps: &mut Vec<Step>) -> Option<()> {
    match pre["type"].as_str()? {
        "Sequence" => pre["pretokenizers"].as_array()?.iter().try_for_each(|step| collect(step, steps))?,
        "Split" if pre["behavior"] == "Isolated" && pre["invert"] == false => {
            steps.push(Step::Split(pre["pattern"]["Regex"].as_str()?.into()));
        }
        // `char::is_numeric` is this class.
        "Digits" => steps.push(Step::Split(if pre["individual_digits"] == true { r"\p{N}" } else { r"\p{N}+" }.into())),
        "ByteLevel" if pre["add_prefix_space"] == false => steps.push(Step::Bytes { words: pre["use_regex"] != false }),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_byte_level_bpe_without_conditions_is_taken() {
        let bytes = r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}"#;
        let taken = |normalizer: &str, pre: &str, lstrip: bool| {
            let json = format!(
                r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{{"id":0,"content":"a","single_word":false,
                "lstrip":{lstrip},"rstrip":false,"normalized":false,"special":true}}],"normalizer":{normalizer},"pre_tokenizer":{pre},
                "post_processor":null,"decoder":null,"model":{{"type":"BPE","vocab":{{"a":0}},"merges":[]}}}}"#
            );
            Words::of(&json.parse().unwrap()).is_some()
        };
        let digits = r#"{"type":"Digits","individual_digits":true}"#;
        let sequence = |steps: &str| format!(r#"{{"type":"Sequence","pretokenizers":[{steps}]}}"#);
        assert!(taken("null", bytes, false));
        assert!(taken("null", &sequence(&format!("{digits},{bytes}")), false));
        assert!(!taken("null", &sequence(&format!("{bytes},{digits}")), false));
        assert!(!taken("null", digits, false));
        assert!(!taken(r#"{"type":"NFC"}"#, bytes, false));
        assert!(!taken("null", bytes, true));
        assert!(!taken("null", &bytes.replace(r#""add_prefix_space":false"#, r#""add_prefix_space":true"#), false));
    }
}
