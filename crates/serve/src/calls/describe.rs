//! For templates that tell a model of no functions: what it is told of them, and, where the template does not write those either, how
//! calls and their results stand in a conversation. Calls are in the model's own dialect; for the others the words are Hermes', which
//! many models have seen: results between `<tool_response>` tags in a message of the user. It knows no answer.

use ounce_formats::template::{ChatTemplate, RenderOptions};
use serde_json::{Value, json};

use super::Dialect;

/// Whether a chat template tells of tools itself.
pub fn knows_tools(template: &str) -> bool {
    template.contains("tools")
}

/// Whether a chat template takes messages of the system.
pub fn takes_system(template: &str) -> bool {
    // As Gemma's says it.
    !template.contains("System role not supported")
}

/// Whether a chat template writes calls of a dialect, and their results: tried, since some do so only for messages of another shape.
pub fn writes_calls(template: &ChatTemplate, dialect: Dialect) -> bool {
    if dialect == Dialect::Tagged && !template.source().contains("<tool_call>") {
        return false;
    }
    let call =
        json!({"id": "000000000", "type": "function", "function": {"name": "called", "arguments": {"key": "given"}}});
    let messages = json!([
        {"role": "user", "content": "asked"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "returned", "name": "called", "tool_call_id": "000000000"},
    ]);
    let rendered = template.render(&messages, &RenderOptions::default());
    rendered.is_ok_and(|text| ["called", "key", "given", "returned"].iter().all(|word| text.contains(word)))
}

/// Tells of functions in the first message. `system` is false for templates that refuse messages of the system; `results` says that
/// results are [`written_out`].
pub fn told(mut messages: Vec<Value>, tools: &Value, dialect: Dialect, system: bool, results: bool) -> Vec<Value> {
    let told = words(tools, dialect, results);
    let first = messages.first().and_then(|first| first["role"].as_str()).unwrap_or_default().to_owned();
    match first.as_str() {
        "system" => messages[0]["content"] = format!("{}\n\n{told}", text(&messages[0])).into(),
        "user" if !system => messages[0]["content"] = format!("{told}\n\n{}", text(&messages[0])).into(),
        _ => messages.insert(0, json!({"role": if system { "system" } else { "user" }, "content": told})),
    }
    messages
}

/// Writes calls and results into the texts of a conversation.
pub fn written_out(messages: Vec<Value>, dialect: Dialect) -> Vec<Value> {
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
                let functions = message["tool_calls"].as_array().into_iter().flatten().map(|call| &call["function"]);
                let calls: Vec<(&str, &Value)> =
                    functions.map(|f| (f["name"].as_str().unwrap_or_default(), &f["arguments"])).collect();
                let said = text(&message);
                let between = if said.is_empty() { "" } else { "\n" };
                let content = format!("{said}{between}{}", dialect.written(&calls));
                out.push(json!({"role": "assistant", "content": content}));
            }
            _ => out.push(message),
        }
    }
    out
}

/// What a model is told.
fn words(tools: &Value, dialect: Dialect, results: bool) -> String {
    let tools: Vec<String> = tools.as_array().into_iter().flatten().map(Value::to_string).collect();
    let how = if dialect == Dialect::Tagged { " as JSON between tags," } else { "" };
    let arguments = json!({"argument": "value"});
    let then = if results { "\nYou then get the results between <tool_response> tags." } else { "" };
    format!(
        "You can call functions to find or do what the user asks for. These are the functions, as JSON schemas:\n<tools>\n{}\n\
         </tools>\nTo call one, write its name and its arguments{how} like this:\n{}{then}",
        tools.join("\n"),
        dialect.written(&[("function name", &arguments)]),
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
    use crate::calls::grammar::tests::tokenizer;
    use crate::calls::tests::template;

    fn conversation() -> Vec<Value> {
        let call =
            |name: &str| json!({"id": "1", "type": "function", "function": {"name": name, "arguments": {"x": 1}}});
        vec![
            json!({"role": "user", "content": "hi"}),
            json!({"role": "assistant", "content": "", "tool_calls": [call("f"), call("g")]}),
            json!({"role": "tool", "content": "1", "tool_call_id": "1"}),
            json!({"role": "tool", "content": "2", "tool_call_id": "2"}),
        ]
    }

    #[test]
    fn a_conversation_with_calls_becomes_text() {
        let out = written_out(conversation(), Dialect::Tagged);
        let roles: Vec<&str> = out.iter().map(|m| m["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["user", "assistant", "user"]);
        let written =
            |name: &str| format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {{\"x\":1}}}}\n</tool_call>");
        assert_eq!(text(&out[1]), format!("{}\n{}", written("f"), written("g")));
        assert_eq!(text(&out[2]), "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>");
        let out = written_out(conversation(), Dialect::Mistral(0));
        let calls = ["f", "g"].map(|name| format!("{{\"name\": \"{name}\", \"arguments\": {{\"x\":1}}}}"));
        assert_eq!(text(&out[1]), format!("[TOOL_CALLS][{}]", calls.join(", ")));
        // What was said beside the calls stays, and a result joins no message but one of results.
        let mut talk = conversation();
        talk[1]["content"] = "Let me see.".into();
        let out = written_out(talk, Dialect::Tagged);
        assert_eq!(text(&out[1]), format!("Let me see.\n{}\n{}", written("f"), written("g")));
        let out = written_out([&conversation()[..1], &conversation()[2..3]].concat(), Dialect::Tagged);
        assert_eq!([text(&out[0]), text(&out[1])], ["hi", "<tool_response>\n1\n</tool_response>"]);
    }

    #[test]
    fn tools_are_told_in_the_first_message() {
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let tagged = |messages, system, results| told(messages, &tools, Dialect::Tagged, system, results);
        let out = tagged(conversation(), true, true);
        assert!(text(&out[0]).contains(&format!("<tools>\n{}\n</tools>", tools[0])) && out[0]["role"] == "system");
        assert!(text(&out[0]).contains("like this:\n<tool_call>\n{\"name\": \"function name\", "), "{}", out[0]);
        assert!(text(&out[0]).contains("as JSON between tags, like this"), "{}", out[0]);
        assert!(!takes_system("{{ raise_exception('System role not supported') }}") && takes_system("{{ messages }}"));
        // Where the system may not speak, the user does.
        let out = tagged(conversation(), false, true);
        assert!(text(&out[0]).ends_with("<tool_response> tags.\n\nhi") && out[0]["role"] == "user", "{}", out[0]);
        let out = tagged(vec![json!({"role": "system", "content": "Be kind."})], true, false);
        assert!(text(&out[0]).starts_with("Be kind.\n\nYou can call") && out.len() == 1, "{out:?}");
        assert!(text(&out[0]).ends_with("</tool_call>"), "the template writes results: {}", out[0]);
    }

    const MARKS: &str = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function name<｜tool▁sep｜>{\"argument\":\"value\"}\
        <｜tool▁call▁end｜><｜tool▁calls▁end｜>";

    /// Templates of DeepSeek's models write calls and results, but tell of no tools.
    #[test]
    fn a_model_is_told_in_the_dialect_that_its_template_writes() {
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let tokenizer = tokenizer(true);
        let own = "{% for m in messages %}{{ m['content'] }}{% for c in m['tool_calls'] or [] %}<｜tool▁calls▁begin｜>\
            <｜tool▁call▁begin｜>{{ c['function']['name'] }}<｜tool▁sep｜>{{ c['function']['arguments'] | tojson }}\
            <｜tool▁call▁end｜><｜tool▁calls▁end｜>{% endfor %}{% endfor %}";
        let results_only =
            "{% for m in messages %}{{ m['content'] }}{% endfor %}{# <｜tool▁calls▁begin｜><｜tool▁sep｜> #}";
        let calls_only = own.replace("{{ m['content'] }}", "{{ m['content'] if m['role'] != 'tool' }}");
        let mut sources = vec![(own.to_owned(), true), (results_only.to_owned(), false), (calls_only, false)];
        for (name, writes) in [
            ("deepseek-ai-DeepSeek-V3.1", true),
            ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", true),
            // Only where a message with calls has no content at all.
            ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", false),
        ] {
            sources.extend(template(name).map(|source| (source, writes)));
        }
        for (source, writes) in sources {
            let template = ChatTemplate::new(&source, Some("<s>"), Some("</s>")).unwrap();
            let dialect = Dialect::of(&source, &tokenizer);
            assert!(matches!(dialect, Dialect::DeepSeek(_)) && !knows_tools(&source), "{source}");
            assert_eq!(writes_calls(&template, dialect), writes, "{source}");
            let out = told(conversation(), &tools, dialect, true, !writes);
            let says = text(&out[0]);
            assert!(says.contains("<｜tool▁calls▁begin｜>") && !says.contains("<tool_call>"), "{says}");
            assert_eq!(says.ends_with("<tool_response> tags."), !writes);
            assert!(!says.contains("between tags,"), "{says}");
            if !source.contains("```json") {
                assert!(says.contains(MARKS), "{says}");
            }
        }
    }

    #[test]
    fn what_knows_no_calls_is_told_in_hermes_words() {
        let plain = "{% for m in messages %}{{ m['content'] }}{{ m['tool_calls'] }}{% endfor %}";
        let template = ChatTemplate::new(plain, Some("<s>"), Some("</s>")).unwrap();
        let dialect = Dialect::of(plain, &tokenizer(true));
        assert_eq!((dialect, writes_calls(&template, dialect)), (Dialect::Tagged, false));
    }
}
