//! For templates that know no functions: what a model is told of them, and how calls and their results stand in a conversation.
//! The words are Hermes', which many models have seen: calls between `<tool_call>` tags, results between `<tool_response>` tags
//! in a message of the user. It knows no answer.

use serde_json::{Value, json};

/// Whether a chat template does all this itself.
pub fn knows_tools(template: &str) -> bool {
    template.contains("tools")
}

/// Whether a chat template takes messages of the system.
pub fn takes_system(template: &str) -> bool {
    // As Gemma's says it.
    !template.contains("System role not supported")
}

/// Writes functions, calls and results into the texts of a conversation. `system` is false for templates that refuse messages
/// of the system.
pub fn written_out(messages: Vec<Value>, tools: Option<&Value>, system: bool) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::with_capacity(messages.len() + 1);
    for message in messages {
        match message["role"].as_str() {
            Some("tool") => {
                let result = format!("<tool_response>\n{}\n</tool_response>", text(&message));
                // Results of several calls are one message: many templates want user and assistant in turn.
                match out.last_mut().filter(|last| last["role"] == "user" && ends_with_result(last)) {
                    Some(last) => last["content"] = format!("{}\n{result}", text(last)).into(),
                    None => out.push(json!({"role": "user", "content": result})),
                }
            }
            Some("assistant") if message["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty()) => {
                let mut content = text(&message).to_owned();
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    let function = &call["function"];
                    let (name, arguments) = (&function["name"], &function["arguments"]);
                    let between = if content.is_empty() { "" } else { "\n" };
                    content += &format!(
                        "{between}<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>"
                    );
                }
                out.push(json!({"role": "assistant", "content": content}));
            }
            _ => out.push(message),
        }
    }
    let Some(tools) = tools else { return out };
    let described = described(tools);
    let first = out.first().and_then(|first| first["role"].as_str()).unwrap_or_default().to_owned();
    match first.as_str() {
        "system" => out[0]["content"] = format!("{}\n\n{described}", text(&out[0])).into(),
        "user" if !system => out[0]["content"] = format!("{described}\n\n{}", text(&out[0])).into(),
        _ => out.insert(0, json!({"role": if system { "system" } else { "user" }, "content": described})),
    }
    out
}

/// What a model is told.
fn described(tools: &Value) -> String {
    let tools: Vec<String> = tools.as_array().into_iter().flatten().map(Value::to_string).collect();
    format!(
        "You can call functions to find or do what the user asks for. These are the functions, as JSON schemas:\n<tools>\n{}\n\
         </tools>\nTo call one, write its name and its arguments as JSON between tags, like this:\n<tool_call>\n{{\"name\": \
         \"function name\", \"arguments\": {{\"argument\": \"value\"}}}}\n</tool_call>\nYou then get the results between \
         <tool_response> tags.",
        tools.join("\n")
    )
}

fn text(message: &Value) -> &str {
    message["content"].as_str().unwrap_or_default()
}

fn ends_with_result(message: &Value) -> bool {
    text(message).ends_with("</tool_response>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_with_calls_becomes_text() {
        let call =
            |name: &str| json!({"id": "1", "type": "function", "function": {"name": name, "arguments": {"x": 1}}});
        let messages = vec![
            json!({"role": "user", "content": "hi"}),
            json!({"role": "assistant", "content": "", "tool_calls": [call("f"), call("g")]}),
            json!({"role": "tool", "content": "1", "tool_call_id": "1"}),
            json!({"role": "tool", "content": "2", "tool_call_id": "2"}),
        ];
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let out = written_out(messages.clone(), Some(&tools), true);
        let roles: Vec<&str> = out.iter().map(|m| m["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        assert!(text(&out[0]).contains(&format!("<tools>\n{}\n</tools>", tools[0])), "{}", out[0]);
        let written =
            |name: &str| format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {{\"x\":1}}}}\n</tool_call>");
        assert_eq!(text(&out[2]), format!("{}\n{}", written("f"), written("g")));
        assert_eq!(text(&out[3]), "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>");
        // Where the system may not speak, the user does.
        let out = written_out(messages.clone(), Some(&tools), false);
        assert!(text(&out[0]).ends_with("<tool_response> tags.\n\nhi") && out[0]["role"] == "user", "{}", out[0]);
        assert_eq!(written_out(messages, None, true).len(), 3);
        let system = vec![json!({"role": "system", "content": "Be kind."})];
        let out = written_out(system, Some(&tools), true);
        assert!(text(&out[0]).starts_with("Be kind.\n\nYou can call") && out.len() == 1, "{out:?}");
    }
}
