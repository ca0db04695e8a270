//! The Stanford Alpaca layout with LLaMA-Factory's additions: `instruction, input, output, system, history[[q, a]]`.

use serde_json::Value;

use super::{Content, Row, kind, message, optional, string, tools};

pub fn parse(row: &Row) -> Result<Content, String> {
    let mut messages = Vec::new();
    if let Some(system) = optional(row, "system")? {
        messages.push(message("system", system));
    }
    match row.get("history") {
        None | Some(Value::Null) => {}
        Some(Value::Array(turns)) => {
            for (i, turn) in turns.iter().enumerate() {
                match turn.as_array().map(Vec::as_slice) {
                    Some([Value::String(question), Value::String(answer)]) => {
                        messages.push(message("user", question));
                        messages.push(message("assistant", answer));
                    }
                    _ => return Err(format!("history[{i}] is not a pair of strings")),
                }
            }
        }
        Some(other) => return Err(format!("`history` is {}, not a list", kind(other))),
    }
    let instruction = optional(row, "instruction")?;
    let input = optional(row, "input")?;
    let question = match (instruction, input) {
        (Some(instruction), Some(input)) => format!("{instruction}\n{input}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => return Err("`instruction` and `input` are both empty".into()),
    };
    messages.push(message("user", &question));
    messages.push(message("assistant", string(row, "output")?));
    Ok(Content::Chat { messages: Value::Array(messages), tools: tools(row)?, given_answers: 0 })
}
