//! How models call functions: each family writes calls in a dialect of its own, which its chat template gives away. A dialect
//! knows how calls are written, how a forced one is (a grammar) and how they are found in an answer (a [`Reader`]). It knows no HTTP.

mod arguments;
mod bare;
mod deepseek;
pub mod describe;
mod grammar;
mod parts;
#[cfg(test)]
mod renderings;
mod scan;
mod tagged;
mod values;

use ounce_formats::tokenizer::{Kind, Tokenizer};
use ounce_grammar::GrammarError;
use serde_json::Value;

use crate::tools::{Choice, Function, Tools};
use bare::Bare;
use deepseek::DeepSeek;
use parts::{FUNCTIONS, PAIRS};
use scan::Frame;
use tagged::{Inside, Tagged};

/// How calls are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`, among other text: Hermes, Qwen, Granite, and every model whose
    /// template knows neither tools nor calls.
    Tagged,
    /// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`, among other text: Qwen3-Coder, Qwen 3.5,
    /// Nemotron 3, Step 3.5.
    Functions,
    /// `<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`, among other text: GLM 4.5 and later, Ling 3,
    /// Laguna.
    Pairs,
    /// Marks of its own around name and JSON, after other text: DeepSeek R1, V3, V3.1.
    DeepSeek(DeepSeek),
    /// The whole answer is `{"name": …, "parameters": …}`: Llama 3.
    Llama,
    /// The whole answer is this control token and `[{"name": …, "arguments": …}, …]`: Mistral.
    Mistral(u32),
    /// The whole answer is `{"name": …, "arguments": …}`: what remains.
    Plain,
}

/// What is new in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    Text(String),
    /// A call of the function with this name begins.
    Call(String),
    /// More of the arguments of the call that began last, JSON.
    Arguments(String),
}

impl Dialect {
    /// The dialect of a model whose chat template this is.
    pub fn of(template: &str, tokenizer: &Tokenizer) -> Dialect {
        let holds = |text: &str| template.contains(text);
        let control = |text: &str| tokenizer.id(text).filter(|&id| tokenizer.kind(id) == Kind::Control);
        // A control token is not part of the text, so that no tags are found there.
        let text = |tags: &[&str]| tags.iter().all(|tag| holds(tag) && control(tag).is_none());
        // Formats in tags of their own, which are not read yet: their models are asked for plain calls.
        let in_tags = ["<function=", "arg_key", "[ARGS]"].into_iter().any(holds);
        // Of a template that does not tell of tools, what it knows of calls counts. [`describe`] tells of them then.
        let otherwise = if describe::knows_tools(template) { Dialect::Plain } else { Dialect::Tagged };
        if let Some(deepseek) = DeepSeek::of(template, tokenizer) {
            return Dialect::DeepSeek(deepseek);
        }
        match control("[TOOL_CALLS]") {
            _ if text(&["<tool_call>", "<function=", "<parameter="]) => Dialect::Functions,
            _ if text(&["<tool_call>", "<arg_key>", "<arg_value>"]) => Dialect::Pairs,
            _ if in_tags => otherwise,
            Some(token) if holds("[TOOL_CALLS]") => Dialect::Mistral(token),
            _ if text(&["<tool_call>"]) => Dialect::Tagged,
            _ if holds("\"parameters\": ") => Dialect::Llama,
            _ => otherwise,
        }
    }

    /// Whether calls are marked by control tokens that a reader has to see.
    pub fn marks_are_tokens(self) -> bool {
        matches!(self, Dialect::DeepSeek(deepseek) if deepseek.marks_are_tokens())
    }

    /// The field with a call's arguments.
    fn arguments(self) -> &'static str {
        if self == Dialect::Llama { "parameters" } else { "arguments" }
    }

    /// Calls as a model of this dialect writes them.
    pub fn written(self, calls: &[(&str, &Value)]) -> String {
        let each = |one: &dyn Fn(&str, &Value) -> String, between: &str| {
            calls.iter().map(|(name, arguments)| one(name, arguments)).collect::<Vec<_>>().join(between)
        };
        let bare = |name: &str, arguments: &Value| bare::written(name, self.arguments(), arguments);
        match self {
            Dialect::Tagged => each(&tagged::written, "\n"),
            Dialect::Functions => each(&|name, arguments| FUNCTIONS.written(name, arguments), "\n"),
            Dialect::Pairs => each(&|name, arguments| PAIRS.written(name, arguments), "\n"),
            Dialect::DeepSeek(deepseek) => deepseek.written(calls),
            Dialect::Mistral(_) => format!("[TOOL_CALLS][{}]", each(&bare, ", ")),
            Dialect::Llama | Dialect::Plain => each(&bare, "\n"),
        }
    }

    /// The grammar of an answer, in Lark; `None` where it need not be held to one. `answer` is the schema of an answer without
    /// calls. `strict` takes every schema of arguments at its word, otherwise only those that say so.
    ///
    /// # Errors
    /// A schema that is none.
    pub fn grammar(self, tools: &Tools, answer: Option<&Value>, strict: bool) -> Result<Option<String>, GrammarError> {
        grammar::of(self, tools, answer, strict)
    }

    /// A reader of one answer.
    pub fn reader(self, tools: &Tools) -> Reader {
        let parts = |tags| Inside::Parts(tags, tools.functions.as_slice().into());
        let tagged = |tags, inside| Reader::Tagged(Tagged::new(tags, inside));
        match (self, tools.choice) {
            (Dialect::Tagged, _) => tagged(&tagged::TAGS, Inside::Json(Frame::Object)),
            (Dialect::Functions, _) => tagged(&tagged::TAGS, parts(&FUNCTIONS)),
            (Dialect::Pairs, _) => tagged(&tagged::TAGS, parts(&PAIRS)),
            (Dialect::DeepSeek(_), _) => tagged(&deepseek::TAGS, Inside::Json(Frame::Name)),
            (_, Choice::Auto) => Reader::Bare(Bare::perhaps(tools.functions.clone())),
            _ => Reader::Bare(Bare::certain()),
        }
    }
}

/// Finds calls in an answer that comes piece by piece.
pub enum Reader {
    /// There are none to be found.
    Text,
    Tagged(Tagged),
    Bare(Bare),
}

impl Reader {
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        match self {
            Reader::Text if text.is_empty() => Vec::new(),
            Reader::Text => vec![Delta::Text(text.into())],
            Reader::Tagged(reader) => reader.push(text),
            Reader::Bare(reader) => reader.push(text),
        }
    }

    /// What was held back, at the end of the answer.
    pub fn finish(&mut self) -> Vec<Delta> {
        match self {
            Reader::Text => Vec::new(),
            Reader::Tagged(reader) => reader.finish(),
            Reader::Bare(reader) => reader.finish(),
        }
    }
}

/// A reader of calls between tags, for the tests of who reads along.
#[cfg(test)]
pub fn tagged_reader() -> Reader {
    Reader::Tagged(Tagged::new(&tagged::TAGS, Inside::Json(Frame::Object)))
}

/// A call as JSON to a function that was offered: its name and its arguments.
fn call_of(value: &Value, functions: &[Function]) -> Option<(String, String)> {
    let object = value.get("function").filter(|function| function.is_object()).unwrap_or(value);
    let name = object.get("name")?.as_str()?;
    functions.iter().find(|f| f.name == name)?;
    let arguments = match object.get("arguments").or(object.get("parameters")) {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(arguments @ Value::Object(_)) => arguments.to_string(),
        // JSON within JSON, as the API has it.
        Some(Value::String(text)) if serde_json::from_str::<Value>(text).is_ok_and(|v| v.is_object()) => text.clone(),
        Some(_) => return None,
    };
    Some((name.to_owned(), arguments))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The template of a real model, where they are at hand.
    pub fn template(name: &str) -> Option<String> {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets");
        let assets = std::env::var("OUNCE_ASSETS").unwrap_or_else(|_| here.into());
        let templates = std::path::Path::new(&assets).join("templates");
        let read = || std::fs::read_to_string(templates.join(format!("{name}.jinja"))).unwrap();
        templates.is_dir().then(read)
    }

    /// On templates of real models where they are at hand.
    #[test]
    fn templates_give_their_dialect_away() {
        let plain = r#"{"version": "1.0", "added_tokens": [{"id": 0, "content": "[TOOL_CALLS]", "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}],
            "model": {"type": "BPE", "vocab": {"[TOOL_CALLS]": 0, "a": 1}, "merges": []}}"#;
        let tokenizer = Tokenizer::from_hf(plain.as_bytes(), None, None).unwrap();
        let dialect = |template: &str| Dialect::of(template, &tokenizer);
        assert_eq!(dialect("{{ messages }}"), Dialect::Tagged);
        assert_eq!(dialect("{{ tools }} {\"name\": <function-name>} <tool_call>"), Dialect::Tagged);
        assert_eq!(dialect("{{ tools }} <tool_call>\n<function=example>"), Dialect::Plain);
        assert_eq!(dialect("{{ tools }} <tool_call>\n<function=f>\n<parameter=p>"), Dialect::Functions);
        assert_eq!(dialect("{{ tools }} <tool_call>f\n<arg_key>k</arg_key>\n<arg_value>v"), Dialect::Pairs);
        assert_eq!(dialect("{{ tools }} {\"name\": f, \"parameters\": p}"), Dialect::Llama);
        assert_eq!(dialect("{{ tools }} [TOOL_CALLS]["), Dialect::Mistral(0));
        assert_eq!(dialect("{{ tools }}"), Dialect::Plain);
        for (name, expected) in [
            ("Qwen-Qwen2.5-7B-Instruct", Dialect::Tagged),
            ("Qwen-Qwen3-0.6B", Dialect::Tagged),
            ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", Dialect::Tagged),
            ("ibm-granite-granite-4.0", Dialect::Tagged),
            ("meta-llama-Llama-3.1-8B-Instruct", Dialect::Llama),
            ("meta-llama-Llama-3.2-3B-Instruct", Dialect::Llama),
            ("mistralai-Mistral-Nemo-Instruct-2407", Dialect::Mistral(0)),
            ("Qwen3-Coder", Dialect::Functions),
            ("Qwen3.5-4B", Dialect::Functions),
            ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", Dialect::Functions),
            ("StepFun3.5-Flash", Dialect::Functions),
            ("GLM-4.6", Dialect::Pairs),
            ("GLM-4.7-Flash", Dialect::Pairs),
            ("inclusionai-ling-3.0-flash", Dialect::Pairs),
            ("poolside-Laguna-S-2.1", Dialect::Pairs),
            // Tags of its own.
            ("tencent-Hy3", Dialect::Plain),
            ("ByteDance-Seed-OSS", Dialect::Plain),
            ("google-gemma-2-2b-it", Dialect::Tagged),
        ] {
            let Some(template) = template(name) else { return };
            assert_eq!(dialect(&template), expected, "{name}");
        }
    }
}
