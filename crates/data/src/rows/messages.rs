//! The `messages` layout of OpenAI and TRL: `messages[{role, content, tool_calls, tool_call_id, name}]`, `tools`.

use serde_json::{Map, Value};

use super::{Content, Row, kind, tools};

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

pub fn parse(row: &Row) -> Result<Content, String> {
    let messages = normalise(&row["messages"], "messages")?;
    Ok(Content::Chat { messages, tools: tools(row)?, given_answers: 0 })
}

/// Checks a list of messages and brings it to one layout: `content` is a string or null, never a list of parts.
pub fn normalise(value: &Value, field: &str) -> Result<Value, String> {
    let parsed;
    let list = match value {
        Value::Array(list) => list,
        // A CSV cell.
        Value::String(s) => match serde_json::from_str::<Value>(s) {
            Ok(Value::Array(list)) => {
                parsed = list;
                &parsed
            }
            _ => return Err(format!("`{field}` is a string that does not hold a JSON list")),
        },
        other => return Err(format!("`{field}` is {}, not a list", kind(other))),
    };
    if list.is_empty() {
        return Err(format!("`{field}` is empty"));
    }
    let mut out = Vec::with_capacity(list.len());
    for (i, item) in list.iter().enumerate() {
        out.push(Value::Object(one(item).map_err(|why| format!("{field}[{i}]: {why}"))?));
    }
    Ok(Value::Array(out))
}

fn one(item: &Value) -> Result<Map<String, Value>, String> {
    let Value::Object(fields) = item else {
        return Err(format!("{}, not an object with `role` and `content`", kind(item)));
    };
    let role = match fields.get("role") {
        Some(Value::String(role)) => role.as_str(),
        Some(other) => return Err(format!("`role` is {}, not a string", kind(other))),
        None => return Err("no `role`".into()),
    };
    if !ROLES.contains(&role) {
        let role: String = role.chars().take(40).collect();
        return Err(format!("unknown role `{role}`; known: {}", ROLES.join(", ")));
    }
    let calls = match fields.get("tool_calls") {
        None | Some(Value::Null) => false,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(other) => return Err(format!("`tool_calls` is {}, not a list", kind(other))),
    };
    let content = match fields.get("content") {
        Some(Value::String(text)) => Value::String(text.clone()),
        Some(Value::Array(parts)) => Value::String(joined(parts)?),
        None | Some(Value::Null) if calls => Value::Null,
        None => return Err("no `content`".into()),
        Some(other) => return Err(format!("`content` is {}, not a string", kind(other))),
    };
    let mut out = Map::new();
    for (key, value) in fields {
        // Parquet writes every absent field as null; templates test for presence.
        if key == "content" {
            out.insert(key.clone(), content.clone());
        } else if !value.is_null() && (calls || key != "tool_calls") {
            out.insert(key.clone(), value.clone());
        }
    }
    out.entry("content").or_insert(content);
    Ok(out)
}

/// The text of `[{type: text, text}]`. Other parts need a model that sees or hears.
fn joined(parts: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    for part in parts {
        match (part.get("type").and_then(Value::as_str), part.get("text")) {
            (Some("text") | None, Some(Value::String(text))) => out.push_str(text),
            (Some(other), _) if other != "text" => {
                let other: String = other.chars().take(40).collect();
                return Err(format!("`content` has a part of type `{other}`; only text can be used"));
            }
            _ => return Err("`content` has a part without `text`".into()),
        }
    }
    Ok(out)
}

/// How many assistant turns a list of messages has.
pub(crate) fn assistant_turns(messages: &Value) -> usize {
    let list = messages.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter(|m| m["role"] == "assistant").count()
}

/// Whether an assistant turn says nothing: no text and no call.
pub(crate) fn is_empty_answer(message: &Value) -> bool {
    message["role"] == "assistant"
        && message["content"].as_str().is_none_or(|text| text.trim().is_empty())
        && message.get("tool_calls").is_none()
}
