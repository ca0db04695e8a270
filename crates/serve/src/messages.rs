//! The messages of a chat request: checked, and with contents in parts joined to texts. It knows no template.

use serde_json::{Value, json};

use crate::fields::{Fields, kind};

const MAX_MESSAGES: usize = 2048;

/// `messages` as templates take them; an empty list where it has faults.
pub fn read(fields: &mut Fields) -> Value {
    let list = match fields.value("messages") {
        Some(Value::Array(list)) if list.is_empty() => {
            fields.fault("messages", "is empty");
            return json!([]);
        }
        Some(Value::Array(list)) if list.len() > MAX_MESSAGES => {
            fields.fault("messages", format!("has {} entries, at most {MAX_MESSAGES} are allowed", list.len()));
            return json!([]);
        }
        Some(Value::Array(list)) => list,
        Some(other) => {
            fields.fault("messages", format!("must be a list, it is {}", kind(other)));
            return json!([]);
        }
        None => {
            fields.fault("messages", "is missing");
            return json!([]);
        }
    };
    let mut out = Vec::with_capacity(list.len());
    for (at, entry) in list.iter().enumerate() {
        match message(entry) {
            Ok(message) => out.push(message),
            Err((field, what)) => fields.fault(&format!("messages[{at}]{field}"), what),
        }
    }
    Value::Array(out)
}

/// A message with its content as one text, or the field at fault and what is wrong with it.
fn message(entry: &Value) -> Result<Value, (String, String)> {
    let Some(object) = entry.as_object() else {
        return Err((String::new(), format!("must be an object, it is {}", kind(entry))));
    };
    match object.get("role") {
        Some(Value::String(_)) => {}
        Some(other) => return Err((".role".into(), format!("must be a string, it is {}", kind(other)))),
        None => return Err((".role".into(), "is missing".into())),
    }
    let content = match object.get("content") {
        Some(Value::String(text)) => text.clone(),
        // An assistant that only called a function has said nothing.
        None | Some(Value::Null) if object.contains_key("tool_calls") => String::new(),
        Some(Value::Array(parts)) => joined(parts)?,
        Some(other) => return Err((".content".into(), format!("must be a string or a list, it is {}", kind(other)))),
        None => return Err((".content".into(), "is missing".into())),
    };
    let mut message = object.clone();
    message.insert("content".into(), content.into());
    Ok(Value::Object(message))
}

fn joined(parts: &[Value]) -> Result<String, (String, String)> {
    let mut text = String::new();
    for (at, part) in parts.iter().enumerate() {
        let field = |name: &str| format!(".content[{at}]{name}");
        match part["type"].as_str() {
            Some("text") => match part["text"].as_str() {
                Some(piece) => text += piece,
                None => return Err((field(".text"), "must be a string".into())),
            },
            _ => return Err((field(".type"), "must be \"text\": this model reads nothing else".into())),
        }
    }
    Ok(text)
}
