//! The functions that a request offers: `tools`, `tool_choice` and `parallel_tool_calls`, read and checked. It knows neither how
//! a model is told of them nor how it calls them.

use serde_json::{Value, json};

use crate::fields::{Fields, kind};

pub const MAX_TOOLS: usize = 128;
/// Largest list of tools, as JSON.
const MAX_TOOLS_BYTES: usize = 64 << 10;
const MAX_NAME_BYTES: usize = 64;

/// Functions that may be called in an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Tools {
    /// As they were sent: what a template shows to the model.
    pub list: Value,
    pub functions: Vec<Function>,
    pub choice: Choice,
    /// Several calls in one answer are welcome.
    pub parallel: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    pub name: String,
    /// The schema of its arguments.
    pub parameters: Value,
    /// A schema that answers cannot be kept to is an error, and not a hint.
    pub strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The model decides whether it calls one.
    Auto,
    /// It must call one or more.
    Required,
    /// It must call this one.
    Named(usize),
}

impl Tools {
    /// The functions that may be called.
    pub fn callable(&self) -> &[Function] {
        match self.choice {
            Choice::Auto | Choice::Required => &self.functions,
            Choice::Named(at) => &self.functions[at..=at],
        }
    }
}

/// The tools of a request; `None` where there are none, or none may be called.
pub fn read(fields: &mut Fields) -> Option<Tools> {
    let functions = functions(fields);
    let parallel = fields.flag("parallel_tool_calls").unwrap_or(true);
    let choice = choice(fields, &functions)?;
    let list = fields.value("tools").filter(|_| !functions.is_empty())?.clone();
    Some(Tools { list, functions, choice, parallel })
}

/// The functions of a request that only offers them: the model decides what it calls.
pub fn offered(fields: &mut Fields) -> Option<Tools> {
    let functions = functions(fields);
    let list = fields.value("tools").filter(|_| !functions.is_empty())?.clone();
    Some(Tools { list, functions, choice: Choice::Auto, parallel: true })
}

fn functions(fields: &mut Fields) -> Vec<Function> {
    let list = match fields.value("tools") {
        None => return Vec::new(),
        Some(Value::Array(list)) if list.len() > MAX_TOOLS => {
            fields.fault("tools", format!("has {} entries, at most {MAX_TOOLS} are allowed", list.len()));
            return Vec::new();
        }
        Some(Value::Array(list)) => list,
        Some(other) => {
            fields.fault("tools", format!("must be a list, it is {}", kind(other)));
            return Vec::new();
        }
    };
    let bytes: usize = list.iter().map(|tool| tool.to_string().len()).sum();
    if bytes > MAX_TOOLS_BYTES {
        fields.fault("tools", format!("has {bytes} bytes, at most {MAX_TOOLS_BYTES} are allowed"));
        return Vec::new();
    }
    let mut functions: Vec<Function> = Vec::with_capacity(list.len());
    for (at, tool) in list.iter().enumerate() {
        match function(tool) {
            Ok(function) if functions.iter().any(|f| f.name == function.name) => {
                fields.fault(&format!("tools[{at}].function.name"), format!("is {} a second time", function.name));
            }
            Ok(function) => functions.push(function),
            Err((field, what)) => fields.fault(&format!("tools[{at}]{field}"), what),
        }
    }
    functions
}

/// A function, or the field at fault and what is wrong with it.
fn function(tool: &Value) -> Result<Function, (&'static str, String)> {
    if !tool.is_object() {
        return Err(("", format!("must be an object, it is {}", kind(tool))));
    }
    if tool["type"] != "function" {
        return Err((".type", "must be \"function\": there are no other tools".into()));
    }
    let Some(function) = tool["function"].as_object() else {
        return Err((".function", "must be an object with a name".into()));
    };
    let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(plain) {
        return Err((
            ".function.name",
            format!("must have 1 to {MAX_NAME_BYTES} of the characters a-z, A-Z, 0-9, _ - ."),
        ));
    }
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(other) => return Err((".function.parameters", format!("must be an object, it is {}", kind(other)))),
    };
    if !function.get("description").is_none_or(|text| text.is_string() || text.is_null()) {
        return Err((".function.description", "must be a string".into()));
    }
    let strict = function.get("strict") == Some(&Value::Bool(true));
    Ok(Function { name: name.into(), parameters, strict })
}

/// What may be called; `None`: nothing.
fn choice(fields: &mut Fields, functions: &[Function]) -> Option<Choice> {
    let choice = match fields.value("tool_choice") {
        None => return Some(Choice::Auto),
        Some(Value::String(text)) => match text.as_str() {
            "none" => return None,
            "auto" => return Some(Choice::Auto),
            "required" => Some(Choice::Required),
            _ => None,
        },
        Some(Value::Object(object)) if object.get("type").is_some_and(|t| t == "function") => {
            // OpenAI's form, and the shorter one of its responses.
            let name = object.get("function").unwrap_or(&Value::Null).get("name").or(object.get("name"));
            let name = name.and_then(Value::as_str).unwrap_or_default();
            match functions.iter().position(|f| f.name == name) {
                Some(at) => Some(Choice::Named(at)),
                None => {
                    fields.fault("tool_choice", "names no function of tools");
                    return None;
                }
            }
        }
        Some(_) => None,
    };
    match choice {
        None => fields.fault(
            "tool_choice",
            "must be \"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": …}}",
        ),
        Some(_) if functions.is_empty() => fields.fault("tool_choice", "needs tools"),
        Some(_) => {}
    }
    choice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
    }

    fn read_from(body: &Value) -> Result<Option<Tools>, String> {
        let mut fields = Fields::of(body).unwrap();
        let tools = read(&mut fields);
        fields.finish().map_err(|e| e.message)?;
        Ok(tools)
    }

    #[test]
    fn choices_are_understood() {
        let tools = [tool("a"), tool("b")];
        let named = json!({"type": "function", "function": {"name": "b"}});
        for (choice, expected) in [
            (Value::Null, Some(Choice::Auto)),
            (json!("none"), None),
            (json!("auto"), Some(Choice::Auto)),
            (json!("required"), Some(Choice::Required)),
            (named, Some(Choice::Named(1))),
        ] {
            let body = json!({"tools": tools, "tool_choice": choice, "parallel_tool_calls": false});
            let read = read_from(&body).unwrap();
            assert_eq!(read.as_ref().map(|tools| tools.choice), expected, "{choice}");
            if let Some(Tools { choice: Choice::Named(_), .. }) = read {
                assert_eq!(read.unwrap().callable()[0].name, "b");
            }
        }
        assert_eq!(read_from(&json!({"tools": [], "tool_choice": "auto"})).unwrap(), None);
    }

    #[test]
    fn faults_name_the_tool() {
        let many: Vec<Value> = (0..129).map(|i| tool(&format!("f{i}"))).collect();
        let large = json!({"type": "function", "function": {"name": "f", "description": "x".repeat(MAX_TOOLS_BYTES)}});
        for (body, says) in [
            (json!({"tools": 1}), "tools must be a list, it is a number"),
            (json!({"tools": many}), "tools has 129 entries, at most 128"),
            (json!({"tools": [large]}), "tools has 65"),
            (json!({"tools": [tool("a"), 3]}), "tools[1] must be an object"),
            (json!({"tools": [{}]}), "tools[0].type must be \"function\""),
            (json!({"tools": [{"type": "function"}]}), "tools[0].function must be an object"),
            (json!({"tools": [tool("a b")]}), "tools[0].function.name must have 1 to 64"),
            (json!({"tools": [tool("a"), tool("a")]}), "tools[1].function.name is a a second time"),
            (
                json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}),
                "tools[0].function.parameters must be an object, it is a list",
            ),
            (json!({"tool_choice": "required"}), "tool_choice needs tools"),
            (json!({"tools": [tool("a")], "tool_choice": "maybe"}), "tool_choice must be \"none\""),
            (
                json!({"tools": [tool("a")], "tool_choice": {"type": "function", "function": {"name": "c"}}}),
                "tool_choice names no function of tools",
            ),
        ] {
            let message = read_from(&body).unwrap_err();
            assert!(message.starts_with(says), "{message}");
        }
    }
}
