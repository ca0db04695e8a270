//! A tokenizer and a ChatML template small enough to check masks by hand.

#![allow(dead_code)]

use std::ops::Range;

use ounce_data::{Renderer, TextEncoder};
use serde_json::Value;

pub const SPECIAL: [&str; 3] = ["<|im_start|>", "<|im_end|>", "</s>"];
pub const EOS: u32 = 2;

/// One token per special, per word (with the space before it) and per other character.
pub struct Words {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
}

pub fn words() -> Words {
    Words { bos: None, eos: Some(EOS) }
}

impl TextEncoder for Words {
    fn encode(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), String> {
        if text.contains('\u{0}') {
            return Err("a NUL".into());
        }
        let (mut ids, mut offsets, mut at) = (Vec::new(), Vec::new(), 0);
        while at < text.len() {
            let rest = &text[at..];
            let special = SPECIAL.iter().position(|s| rest.starts_with(s));
            let end = match special {
                Some(i) => at + SPECIAL[i].len(),
                None => {
                    let word = rest.strip_prefix(' ').unwrap_or(rest);
                    let letters = word.find(|c: char| !c.is_alphanumeric()).unwrap_or(word.len());
                    let first = rest.chars().next().map_or(1, char::len_utf8);
                    if letters == 0 { at + first } else { at + (rest.len() - word.len()) + letters }
                }
            };
            let id = special.map_or_else(
                || 10 + text[at..end].bytes().fold(7u32, |h, b| (h * 31 + u32::from(b)) % 49_999),
                |i| i as u32,
            );
            ids.push(id);
            offsets.push(at..end);
            at = end;
        }
        Ok((ids, offsets))
    }
    fn bos(&self) -> Option<u32> {
        self.bos
    }
    fn eos(&self) -> Option<u32> {
        self.eos
    }
    fn ends(&self) -> &[u32] {
        &[1, EOS]
    }
    fn control_tokens_in(&self, text: &str) -> Vec<String> {
        SPECIAL.into_iter().filter(|token| text.contains(token)).map(String::from).collect()
    }
}

/// `<|im_start|>role\ncontent<|im_end|>\n`; as in `formats`, a span is all that the template writes for a turn.
pub struct ChatMl;

impl Renderer for ChatMl {
    fn render(&self, messages: &Value, tools: Option<&Value>) -> Result<(String, Vec<Range<usize>>), String> {
        let (mut text, mut spans) = (String::new(), Vec::new());
        if let Some(tools) = tools {
            text = format!("<|im_start|>system\ntools: {tools}<|im_end|>\n");
        }
        for message in messages.as_array().ok_or("not a list")? {
            let role = message["role"].as_str().ok_or("no role")?;
            text += &format!("<|im_start|>{role}\n");
            let start = text.len();
            text += message["content"].as_str().unwrap_or("");
            if let Some(calls) = message.get("tool_calls") {
                text += &calls.to_string();
            }
            text += "<|im_end|>\n";
            if role == "assistant" {
                spans.push(start..text.len());
            }
        }
        Ok((text, spans))
    }
}

/// Writes a file into a directory of its own, and returns its path as text.
pub fn file(dir: &tempfile::TempDir, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).expect("write a test file");
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// `[target]` for tokens that bear loss, plain for the others.
pub fn marked(encoder: &Words, text: &str, loss: &[bool]) -> String {
    let (_, offsets) = encoder.encode(text).expect("encode");
    let mut out = String::new();
    for (range, &loss) in offsets.into_iter().zip(loss) {
        let piece = &text[range];
        out += &if loss { format!("[{piece}]") } else { piece.to_owned() };
    }
    out
}
