//! Named formats: how a row's fields become a conversation, a prompt and its completion, or plain text.
//!
//! One file per format. To add one: a file with `fn parse(&Row) -> Result<Content, String>`, a variant, and its line in
//! each of the matches below.

mod alpaca;
mod messages;
mod prompt_completion;
mod sharegpt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use messages::{assistant_turns, is_empty_answer};

/// The fields of one row.
pub type Row = Map<String, Value>;

/// What an example says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// A conversation in the OpenAI layout.
    Chat {
        /// A JSON list of messages, each with `role` and, as a string or null, `content`.
        messages: Value,
        tools: Option<Value>,
        /// Leading assistant turns that belong to the prompt and bear no loss.
        given_answers: usize,
    },
    PromptCompletion {
        prompt: String,
        completion: String,
    },
    /// A whole document.
    Text(String),
}

/// A data format, named as in recipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Messages,
    Alpaca,
    Sharegpt,
    PromptCompletion,
    Text,
}

impl Format {
    pub const ALL: [Format; 5] =
        [Format::Messages, Format::Sharegpt, Format::Alpaca, Format::PromptCompletion, Format::Text];

    pub fn name(self) -> &'static str {
        match self {
            Format::Messages => "messages",
            Format::Alpaca => "alpaca",
            Format::Sharegpt => "sharegpt",
            Format::PromptCompletion => "prompt_completion",
            Format::Text => "text",
        }
    }

    pub fn from_name(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|f| f.name() == name)
    }

    /// The fields without which a row is not of this format.
    pub fn needs(self) -> &'static [&'static str] {
        match self {
            Format::Messages => &["messages"],
            Format::Alpaca => &["instruction", "output"],
            Format::Sharegpt => &["conversations"],
            Format::PromptCompletion => &["prompt", "completion"],
            Format::Text => &["text"],
        }
    }

    /// Reads one row. The error is a reason without place.
    pub fn parse(self, row: &Row) -> Result<Content, String> {
        for field in self.needs() {
            if !row.contains_key(*field) {
                return Err(format!("no `{field}`; fields: {}", field_names(row)));
            }
        }
        match self {
            Format::Messages => messages::parse(row),
            Format::Alpaca => alpaca::parse(row),
            Format::Sharegpt => sharegpt::parse(row),
            Format::PromptCompletion => prompt_completion::parse(row),
            Format::Text => Ok(Content::Text(string(row, "text")?.to_owned())),
        }
    }

    /// The format of a set of rows, and the sentence that says why.
    ///
    /// A format is taken when nearly all rows have its fields, or else when most have and fewer have those of any other:
    /// broken rows must not hide what the rest are, they are reported by their line instead.
    pub fn detect<'a>(rows: impl Iterator<Item = &'a Row>) -> Result<(Format, String), Undetected> {
        let mut n = 0usize;
        let mut hits = [0usize; Format::ALL.len()];
        let mut preference = 0usize;
        let mut fields: Vec<String> = Vec::new();
        for row in rows {
            n += 1;
            for (format, hit) in Format::ALL.into_iter().zip(&mut hits) {
                *hit += usize::from(format.needs().iter().all(|field| row.contains_key(*field)));
            }
            preference += usize::from(row.contains_key("chosen") && row.contains_key("rejected"));
            for key in row.keys() {
                if fields.len() < 20 && !fields.iter().any(|f| f == key) {
                    fields.push(key.chars().take(40).collect());
                }
            }
        }
        if preference * 10 >= n * 9 && n > 0 {
            let hint = "these are preference pairs (`chosen`, `rejected`), which tuning on answers cannot use";
            return Err(Undetected { fields, hint: hint.into() });
        }
        let counted = || Format::ALL.into_iter().zip(hits);
        let best = hits.iter().copied().max().unwrap_or(0);
        let most = (best * 2 > n && hits.iter().filter(|&&hit| hit == best).count() == 1).then_some(best);
        let nearly_all = counted().find(|&(_, hit)| n > 0 && hit * 10 >= n * 9);
        if let Some((format, hit)) = nearly_all.or_else(|| counted().find(|&(_, hit)| Some(hit) == most)) {
            let needs: Vec<String> = format.needs().iter().map(|f| format!("`{f}`")).collect();
            let every = if hit == n { "every row has".into() } else { format!("{hit} of {n} rows have") };
            return Ok((format, format!("{}: {every} {}", format.name(), needs.join(" and "))));
        }
        let hint = "name a format, or rename the fields to messages | conversations | instruction, output | \
                    prompt, completion | text";
        Err(Undetected { fields, hint: hint.into() })
    }
}

/// No format fits most rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Undetected {
    pub fields: Vec<String>,
    pub hint: String,
}

pub(crate) fn field_names(row: &Row) -> String {
    let mut names: Vec<String> = row.keys().take(8).map(|k| k.chars().take(40).collect()).collect();
    if row.len() > 8 {
        names.push("…".into());
    }
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// The JSON type of a value, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A field that must be a string.
pub(crate) fn string<'a>(row: &'a Row, field: &str) -> Result<&'a str, String> {
    match row.get(field) {
        Some(Value::String(s)) => Ok(s),
        Some(other) => Err(format!("`{field}` is {}, not a string", kind(other))),
        None => Err(format!("no `{field}`")),
    }
}

/// A field that may be absent, null or an empty string: all three mean nothing.
pub(crate) fn optional<'a>(row: &'a Row, field: &str) -> Result<Option<&'a str>, String> {
    match row.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) if s.is_empty() => Ok(None),
        Some(Value::String(s)) => Ok(Some(s)),
        Some(other) => Err(format!("`{field}` is {}, not a string", kind(other))),
    }
}

/// `tools`: a list, or a string that holds one as JSON (LLaMA-Factory, CSV).
pub(crate) fn tools(row: &Row) -> Result<Option<Value>, String> {
    match row.get("tools") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) if s.trim().is_empty() => Ok(None),
        Some(Value::String(s)) => match serde_json::from_str::<Value>(s) {
            Ok(Value::Array(list)) if list.is_empty() => Ok(None),
            Ok(list @ Value::Array(_)) => Ok(Some(list)),
            Ok(other) => Err(format!("`tools` holds {}, not a list", kind(&other))),
            Err(error) => Err(format!("`tools` is not JSON: {error}")),
        },
        Some(Value::Array(list)) if list.is_empty() => Ok(None),
        Some(list @ Value::Array(_)) => Ok(Some(list.clone())),
        Some(other) => Err(format!("`tools` is {}, not a list", kind(other))),
    }
}

pub(crate) fn message(role: &str, content: &str) -> Value {
    serde_json::json!({ "role": role, "content": content })
}
