//! The forms that an answer can be asked to have, each as a grammar of the library. It knows no tokens.

use llguidance::api::TopLevelGrammar;
use serde_json::{Map, Value, json};

use crate::GrammarError;

/// Largest form in bytes: a schema, an expression or a grammar as text.
pub const MAX_FORM_BYTES: usize = 64 << 10;

/// White space between the parts of a JSON text: one space, or a line break with the next line's indentation. Without an end to
/// it a model that has nothing to say writes blanks until its limit.
const JSON_SPACE: &str = r"\x20|\n\x20{0,32}";

/// What an answer must be, whole.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// A JSON text that a schema takes.
    JsonSchema(Value),
    /// A text that a regular expression matches from its beginning to its end.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of a context-free grammar in Lark's notation, which begins with the rule `start`.
    Lark(String),
}

impl Form {
    /// Any JSON object.
    pub fn json_object() -> Form {
        Form::JsonSchema(json!({"type": "object"}))
    }

    pub(crate) fn grammar(&self) -> Result<TopLevelGrammar, GrammarError> {
        let bytes = match self {
            Form::JsonSchema(schema) => schema.to_string().len(),
            Form::Regex(text) | Form::Lark(text) => text.len(),
            Form::Choice(texts) => texts.iter().map(|text| text.len() + 3).sum(),
        };
        if bytes > MAX_FORM_BYTES {
            return Err(GrammarError::TooLarge { bytes });
        }
        let low = match self {
            Form::JsonSchema(schema) => holds_low(schema),
            Form::Lark(text) => text.contains("%json") && writes_low(text),
            Form::Regex(_) | Form::Choice(_) => false,
        };
        if low {
            return Err(GrammarError::LowNumber);
        }
        Ok(match self {
            Form::JsonSchema(schema) => TopLevelGrammar::from_json_schema(schema_with_options(schema)?),
            Form::Regex(text) => TopLevelGrammar::from_regex(text),
            Form::Choice(texts) if texts.is_empty() => return Err(GrammarError::NoChoice),
            Form::Choice(texts) => {
                // Lark writes texts as JSON does.
                let texts: Vec<String> = texts.iter().map(|text| Value::from(text.as_str()).to_string()).collect();
                TopLevelGrammar::from_lark(format!("start: {}", texts.join(" | ")))
            }
            Form::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        })
    }
}

/// The library (1.9) negates bounds as i64. Of the least number that fails, and it recurses until the stack is full, which ends
/// the process. Floats below it are taken for it.
fn is_low(number: f64) -> bool {
    number <= -9.2e18
}

/// Whether a schema has a number that is too low, wherever it stands.
fn holds_low(schema: &Value) -> bool {
    match schema {
        Value::Number(number) => number.as_f64().is_some_and(is_low),
        Value::Array(list) => list.iter().any(holds_low),
        Value::Object(object) => object.values().any(holds_low),
        _ => false,
    }
}

/// Whether a text writes one out.
fn writes_low(text: &str) -> bool {
    const MOST_BYTES: usize = 400;
    text.match_indices('-').any(|(at, _)| {
        let in_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
        let end = text[at + 1..].find(|c| !in_number(c)).map_or(text.len(), |end| at + 1 + end);
        let run = &text[at..end.min(at + MOST_BYTES)];
        (2..=run.len()).any(|end| run[..end].parse().is_ok_and(is_low)) || run.len() == MOST_BYTES
    })
}

/// The right side of a Lark rule for JSON texts that `schema` takes.
///
/// # Errors
/// Something that is no schema.
pub fn json_rule(schema: &Value) -> Result<String, GrammarError> {
    Ok(format!("%json {}", schema_with_options(schema)?))
}

/// A schema with the library's options, which stand in the schema itself. A request may not set them.
fn schema_with_options(schema: &Value) -> Result<Value, GrammarError> {
    let mut object = match schema {
        Value::Object(object) => object.clone(),
        Value::Bool(true) => Map::new(),
        Value::Bool(false) => Map::from_iter([("not".to_owned(), json!({}))]),
        Value::Null => return Err(GrammarError::NoSchema { found: "null" }),
        Value::Number(_) => return Err(GrammarError::NoSchema { found: "a number" }),
        Value::String(_) => return Err(GrammarError::NoSchema { found: "a string" }),
        Value::Array(_) => return Err(GrammarError::NoSchema { found: "a list" }),
    };
    object.insert("x-guidance".to_owned(), json!({"whitespace_pattern": JSON_SPACE}));
    Ok(object.into())
}
