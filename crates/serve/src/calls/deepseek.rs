//! DeepSeek's marks around calls, and what is special about them: they may be control tokens, which a text does not hold otherwise.
//! V3.1 writes `NAME<｜tool▁sep｜>{…}` between them; R1 and the V3 before it `function<｜tool▁sep｜>NAME` and the arguments as a
//! block of Markdown. It knows no grammar library.

use ounce_formats::tokenizer::{Kind, Tokenizer};
use serde_json::Value;

const CALLS: [&str; 2] = ["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"];
const CALL: [&str; 2] = ["<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"];
const BETWEEN: &str = "<｜tool▁sep｜>";
const BLOCK: &str = "```json";

/// How a model of this family calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeepSeek {
    /// The arguments are a block of Markdown.
    block: bool,
    /// The marks are control tokens: those around all calls, those around each, the one between name and arguments.
    tokens: Option<[u32; 5]>,
}

impl DeepSeek {
    /// Of a model with this chat template, if it is one of these.
    pub fn of(template: &str, tokenizer: &Tokenizer) -> Option<DeepSeek> {
        let control = |mark: &str| tokenizer.id(mark).filter(|&id| tokenizer.kind(id) == Kind::Control);
        let [first, last] = CALLS.map(control);
        let [open, close] = CALL.map(control);
        let tokens = || Some([first?, last?, open?, close?, control(BETWEEN)?]);
        let known = template.contains(CALLS[0]) && template.contains(BETWEEN);
        known.then(|| DeepSeek { block: template.contains(BLOCK), tokens: tokens() })
    }

    /// Whether the marks are control tokens.
    pub fn marks_are_tokens(self) -> bool {
        self.tokens.is_some()
    }

    /// A mark in Lark's notation.
    fn mark(self, at: usize) -> String {
        match self.tokens {
            Some(tokens) => format!("<[{}]>", tokens[at]),
            None => format!("\"{}\"", [CALLS[0], CALLS[1], CALL[0], CALL[1], BETWEEN][at]),
        }
    }

    /// The mark before all calls, in Lark's notation, and what follows it, where the rule `object` is a call.
    pub fn calls(self, more: usize) -> [String; 2] {
        let between = if self.block { "\"\\n\"? " } else { "" };
        [self.mark(0), format!("object ({between}object){{0,{more}}} {}", self.mark(1))]
    }

    /// What stands before the arguments of a call of `name`, and after them, in Lark's notation.
    pub fn around(self, name: &str) -> [String; 2] {
        let [open, close, between] = [2, 3, 4].map(|at| self.mark(at));
        match self.block {
            true => [format!("{open} \"function\" {between} \"{name}\\n{BLOCK}\\n\""), format!("\"\\n```\" {close}")],
            false => [format!("{open} \"{name}\" {between}"), close],
        }
    }

    /// Calls as they are written.
    pub fn written(self, calls: &[(&str, &Value)]) -> String {
        let one = |(name, arguments): &(&str, &Value)| {
            let call = match self.block {
                true => format!("function{BETWEEN}{name}\n{BLOCK}\n{arguments}\n```"),
                false => format!("{name}{BETWEEN}{arguments}"),
            };
            format!("{}{call}{}", CALL[0], CALL[1])
        };
        let all: Vec<String> = calls.iter().map(one).collect();
        format!("{}{}{}", CALLS[0], all.join(if self.block { "\n" } else { "" }), CALLS[1])
    }
}

/// The marks of an answer.
pub const TAGS: super::tagged::Tags = super::tagged::Tags { around: CALLS, open: CALL[0], close: CALL[1] };

/// The name of a call that begins with it, and where its arguments begin.
pub fn head(text: &str) -> Option<(String, usize)> {
    let at = text.find('{')?;
    let before = text[..at].trim_end();
    let before = before.strip_suffix(BLOCK).unwrap_or(before).trim_end();
    // V3.1 has the mark after the name, the others before it.
    let before = before.strip_suffix(BETWEEN).unwrap_or(before);
    let name = before.rsplit(BETWEEN).next().unwrap_or(before);
    Some((name.trim().to_owned(), at))
}
