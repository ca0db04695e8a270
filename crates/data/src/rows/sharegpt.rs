//! The ShareGPT layout: `conversations[{from, value}]`, with `system` and `tools` beside it (LLaMA-Factory).

use serde_json::{Value, json};

use super::{Content, Row, kind, message, optional, tools};

pub fn parse(row: &Row) -> Result<Content, String> {
    let Value::Array(turns) = &row["conversations"] else {
        return Err(format!("`conversations` is {}, not a list", kind(&row["conversations"])));
    };
    let mut messages = Vec::new();
    if let Some(system) = optional(row, "system")? {
        messages.push(message("system", system));
    }
    for (i, turn) in turns.iter().enumerate() {
        messages.push(one(turn).map_err(|why| format!("conversations[{i}]: {why}"))?);
    }
    if turns.is_empty() {
        return Err("`conversations` is empty".into());
    }
    Ok(Content::Chat { messages: Value::Array(messages), tools: tools(row)?, given_answers: 0 })
}

fn one(turn: &Value) -> Result<Value, String> {
    let text = |field: &str| match turn.get(field) {
        Some(Value::String(s)) => Ok(s.as_str()),
        Some(other) => Err(format!("`{field}` is {}, not a string", kind(other))),
        None => Err(format!("no `{field}`")),
    };
    let (from, value) = (text("from")?, text("value")?);
    Ok(match from {
        "human" | "user" => message("user", value),
        "gpt" | "assistant" | "chatgpt" => message("assistant", value),
        "system" => message("system", value),
        "observation" | "tool" | "function_response" => message("tool", value),
        "function_call" => json!({ "role": "assistant", "content": Value::Null, "tool_calls": calls(value)? }),
        other => {
            let other: String = other.chars().take(40).collect();
            return Err(format!("unknown `from` `{other}`; known: human, gpt, system, function_call, observation"));
        }
    })
}

/// `{"name", "arguments"}`, or a list of them, as the OpenAI layout has it. Arguments stay an object: templates write
/// them out as JSON.
fn calls(value: &str) -> Result<Value, String> {
    let parsed: Value = serde_json::from_str(value).map_err(|e| format!("a function_call that is not JSON: {e}"))?;
    let list = if let Value::Array(list) = parsed { list } else { vec![parsed] };
    let mut out = Vec::with_capacity(list.len());
    for call in list {
        let Some(name) = call.get("name").and_then(Value::as_str) else {
            return Err("a function_call without `name`".into());
        };
        let arguments = call.get("arguments").cloned().unwrap_or_else(|| json!({}));
        out.push(json!({ "type": "function", "function": { "name": name, "arguments": arguments } }));
    }
    if out.is_empty() {
        return Err("a function_call that calls nothing".into());
    }
    Ok(Value::Array(out))
}
