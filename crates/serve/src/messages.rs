//! The messages of a chat request: checked, and with contents in parts joined to texts. It knows no template.

use serde_json::{Value, json};

use crate::fields::{Fields, kind};

/// Most messages of a conversation.
pub const MAX_MESSAGES: usize = 2048;
const MAX_CALLS: usize = 128;

/// `messages` as templates take them; none where the list has faults.
pub fn read(fields: &mut Fields) -> Vec<Value> {
    let list = match fields.value("messages") {
        Some(Value::Array(list)) if list.is_empty() => {
            fields.fault("messages", "is empty");
            return Vec::new();
        }
        Some(Value::Array(list)) if list.len() > MAX_MESSAGES => {
            fields.fault("messages", format!("has {} entries, at most {MAX_MESSAGES} are allowed", list.len()));
            return Vec::new();
        }
        Some(Value::Array(list)) => list,
        Some(other) => {
            fields.fault("messages", format!("must be a list, it is {}", kind(other)));
            return Vec::new();
        }
        None => {
            fields.fault("messages", "is missing");
            return Vec::new();
        }
    };
    let mut out = Vec::with_capacity(list.len());
    for (at, entry) in list.iter().enumerate() {
        match message(entry) {
            Ok(message) => out.push(message),
            Err((field, what)) => fields.fault(&format!("messages[{at}]{field}"), what),
        }
    }
    out
}

/// A message with its content as one text, or the field at fault and what is wrong with it.
fn message(entry: &Value) -> Result<Value, (String, String)> {
    let Some(object) = entry.as_object() else {
        return Err((String::new(), format!("must be an object, it is {}", kind(entry))));
    };
    let role = match object.get("role") {
        // A newer name for the same.
        Some(Value::String(role)) if role == "developer" => "system",
        Some(Value::String(role)) => role,
        Some(other) => return Err((".role".into(), format!("must be a string, it is {}", kind(other)))),
        None => return Err((".role".into(), "is missing".into())),
    };
    let content = match object.get("content") {
        Some(Value::String(text)) => text.clone(),
        // An assistant that only called a function has said nothing.
        None | Some(Value::Null) if object.contains_key("tool_calls") => String::new(),
        Some(Value::Array(parts)) => joined(parts)?,
        Some(other) => return Err((".content".into(), format!("must be a string or a list, it is {}", kind(other)))),
        None => return Err((".content".into(), "is missing".into())),
    };
    let mut message = object.clone();
    message.insert("role".into(), role.into());
    message.insert("content".into(), content.into());
    match object.get("tool_calls") {
        // Templates take a field that is there for calls that are there.
        None | Some(Value::Null) => message.remove("tool_calls"),
        Some(calls) if calls.as_array().is_some_and(Vec::is_empty) => message.remove("tool_calls"),
        Some(calls) => message.insert("tool_calls".into(), tool_calls(calls)?),
    };
    Ok(Value::Object(message))
}

/// The calls of an assistant, with their arguments as objects: the API has them as JSON texts, templates write them out as JSON.
fn tool_calls(calls: &Value) -> Result<Value, (String, String)> {
    let Some(list) = calls.as_array() else {
        return Err((".tool_calls".into(), format!("must be a list, it is {}", kind(calls))));
    };
    if list.len() > MAX_CALLS {
        return Err((".tool_calls".into(), format!("has {} entries, at most {MAX_CALLS} are allowed", list.len())));
    }
    let mut out = list.clone();
    for (at, call) in out.iter_mut().enumerate() {
        let fault = |name: &str, what: &str| Err((format!(".tool_calls[{at}]{name}"), what.to_owned()));
        let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) else {
            return fault(".function", "must be an object with a name and arguments");
        };
        if !function.get("name").is_some_and(Value::is_string) {
            return fault(".function.name", "must be a string");
        }
        match function.get_mut("arguments") {
            None | Some(Value::Null) => {
                function.insert("arguments".into(), json!({}));
            }
            Some(arguments) => match arguments.as_str().map(serde_json::from_str::<Value>) {
                Some(Ok(object @ Value::Object(_))) => *arguments = object,
                None if arguments.is_object() => {}
                // An earlier answer that was cut short is still part of the conversation.
                Some(_) => {}
                None => return fault(".function.arguments", "must be a JSON text"),
            },
        }
    }
    Ok(out.into())
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
