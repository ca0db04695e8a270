//! The `decoder` of a tokenizer.json, reduced to what each single token stands for: every decoder in use works token by
//! token but for a space at the very start. It knows nothing of ids.

use serde_json::Value;

use super::vocab::{alphabet_bytes, hex_byte};

/// What tokens stand for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct DecodeRules {
    steps: Vec<Step>,
    /// The first space of a text is not part of it.
    pub strip_first_space: bool,
}

#[derive(Debug, PartialEq)]
enum Step {
    /// GPT-2's alphabet; ends the chain.
    Alphabet,
    /// `<0xHH>` is a byte; ends the chain for such a token.
    Bytes,
    Replace {
        from: String,
        to: String,
    },
    /// A space before the token, unless it begins with this prefix, which is dropped.
    Continue {
        prefix: String,
    },
    /// This suffix becomes a space.
    WordEnd {
        suffix: String,
    },
    /// No space before a full stop and its like.
    Cleanup,
}

impl DecodeRules {
    /// Reads the `decoder` field; `null` joins the tokens with spaces.
    pub fn parse(decoder: &Value) -> Result<Self, String> {
        let mut rules = DecodeRules::default();
        if decoder.is_null() {
            rules.steps.push(Step::Continue { prefix: String::new() });
            rules.strip_first_space = true;
        } else {
            rules.add(decoder)?;
        }
        Ok(rules)
    }

    fn add(&mut self, decoder: &Value) -> Result<(), String> {
        let text = |key: &str, default: &str| decoder[key].as_str().unwrap_or(default).to_string();
        match decoder["type"].as_str().unwrap_or_default() {
            "Sequence" => {
                let decoders = decoder["decoders"].as_array().ok_or("decoder: a Sequence without decoders")?;
                decoders.iter().try_for_each(|decoder| self.add(decoder))?;
            }
            "ByteLevel" => self.steps.push(Step::Alphabet),
            "ByteFallback" => self.steps.push(Step::Bytes),
            "Fuse" => {}
            "Replace" => {
                let from =
                    decoder["pattern"]["String"].as_str().ok_or("decoder: Replace by an expression")?.to_string();
                self.steps.push(Step::Replace { from, to: text("content", "") });
            }
            "Strip" if decoder["stop"].as_u64() == Some(0) && decoder["content"] == " " => {
                self.strip_first_space |= decoder["start"].as_u64() == Some(1);
            }
            "Metaspace" => {
                self.steps.push(Step::Replace { from: text("replacement", "▁"), to: " ".into() });
                self.strip_first_space |=
                    text("prepend_scheme", "always") != "never" && decoder["add_prefix_space"] != false;
            }
            "WordPiece" => {
                self.steps.push(Step::Continue { prefix: text("prefix", "##") });
                if decoder["cleanup"] != false {
                    self.steps.push(Step::Cleanup);
                }
                self.strip_first_space = true;
            }
            "BPEDecoder" => self.steps.push(Step::WordEnd { suffix: text("suffix", "</w>") }),
            other => return Err(format!("decoder: \"{other}\" with these settings is not supported")),
        }
        Ok(())
    }

    /// The bytes that a token of the model stands for. (Added tokens stand for themselves.)
    pub fn bytes(&self, token: &str) -> Vec<u8> {
        let mut text = token.to_string();
        for step in &self.steps {
            match step {
                Step::Alphabet => return alphabet_bytes(&text),
                Step::Bytes => {
                    if let Some(byte) = hex_byte(&text) {
                        return vec![byte];
                    }
                }
                Step::Replace { from, to } => text = text.replace(from.as_str(), to),
                Step::Continue { prefix } => {
                    text = match text.strip_prefix(prefix.as_str()) {
                        Some(rest) if !prefix.is_empty() => rest.into(),
                        _ => format!(" {text}"),
                    }
                }
                Step::WordEnd { suffix } => text = text.replace(suffix.as_str(), " "),
                Step::Cleanup => text = cleanup(text),
            }
        }
        text.into_bytes()
    }
}

/// The spaces that WordPiece decoders take out of English text.
pub(super) fn cleanup(text: String) -> String {
    const PAIRS: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    PAIRS.iter().fold(text, |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn decoders_in_use_become_rules() {
        let check = |decoder: Value, token: &str, bytes: &[u8], strip: bool| {
            let rules = DecodeRules::parse(&decoder).unwrap();
            assert_eq!((rules.bytes(token).as_slice(), rules.strip_first_space), (bytes, strip), "{decoder} {token}");
        };
        let llama = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        check(llama.clone(), "▁the", b" the", true);
        check(llama, "<0xE2>", b"\xe2", true);
        check(json!({"type": "ByteLevel", "add_prefix_space": true}), "Ġé", b" \xe9", false);
        check(json!({"type": "WordPiece", "prefix": "##", "cleanup": true}), "##ing", b"ing", true);
        check(json!({"type": "WordPiece", "prefix": "##", "cleanup": true}), ",", b",", true);
        check(json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}), "▁a", b" a", true);
        check(Value::Null, "a", b" a", true);
        assert!(DecodeRules::parse(&json!({"type": "CTC"})).is_err());
    }
}
