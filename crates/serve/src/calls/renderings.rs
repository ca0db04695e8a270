//! What templates of real models write of calls is what readers find in it, however it comes, and what grammars let through. Of
//! templates where they are at hand, and of what they write as it stands here.

use ounce_formats::template::{ChatTemplate, RenderOptions};
use ounce_formats::tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::grammar::tests::{follow_with, tokenizer};
use super::tests::template;
use super::{Delta, Dialect, Reader};
use crate::tools::{Choice, Function, Tools};

fn tools() -> Tools {
    let all = json!({"type": "object", "properties": {"n": {"type": "integer"}, "on": {"type": "boolean"},
        "list": {"type": "array"}, "text": {"type": "string"}, "maybe": {"type": ["string", "null"]}},
        "required": ["n"], "additionalProperties": false});
    let none = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let functions: Vec<Function> = [("first", all), ("second", none)]
        .map(|(name, parameters)| Function { name: name.into(), parameters, strict: true })
        .into();
    let tool = |f: &Function| json!({"type": "function", "function": {"name": f.name, "description": "d", "parameters": f.parameters}});
    Tools { list: functions.iter().map(tool).collect(), functions, choice: Choice::Auto, parallel: true }
}

/// The arguments of the call of `first`, and the call of `second` has none.
fn arguments() -> Value {
    json!({"n": 12, "on": true, "list": [1, "a"], "text": "12\n<b> \"two\"\n", "maybe": "12"})
}

/// Text and calls, pieces of `size` characters joined.
pub fn joined(mut reader: Reader, text: &str, size: usize) -> (String, Vec<(String, String)>) {
    let (mut said, mut calls) = (String::new(), Vec::<(String, String)>::new());
    let chars: Vec<char> = text.chars().collect();
    let mut deltas: Vec<Delta> =
        chars.chunks(size).flat_map(|piece| reader.push(&piece.iter().collect::<String>())).collect();
    deltas.extend(reader.finish());
    for delta in deltas {
        match delta {
            Delta::Text(text) => said += &text,
            Delta::Call(name) => calls.push((name, String::new())),
            Delta::Arguments(piece) => calls.last_mut().unwrap().1 += &piece,
        }
    }
    (said, calls)
}

/// The same, with arguments as JSON.
fn read(reader: Reader, text: &str, size: usize) -> (String, Vec<(String, Value)>) {
    let (said, calls) = joined(reader, text, size);
    let json = |text: &str| serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    (said, calls.iter().map(|(name, arguments)| (name.clone(), json(arguments))).collect())
}

fn check(dialect: Dialect, tokenizer: &Tokenizer, said: &str, text: &str) {
    let calls = [("first".to_owned(), arguments()), ("second".to_owned(), json!({}))];
    let tools = tools();
    for size in 1..=text.chars().count() {
        let found = read(dialect.reader(&tools), text, size);
        assert_eq!(found, (said.to_owned(), calls.to_vec()), "{dialect:?} by {size}: {text}");
    }
    assert_eq!(follow_with(tokenizer, dialect, &tools, text), (text.to_owned(), true), "{dialect:?}");
    let forced = Tools { choice: Choice::Required, ..tools };
    let only = text[said.len()..].trim();
    assert_eq!(follow_with(tokenizer, dialect, &forced, only), (only.to_owned(), true), "{dialect:?}");
}

const FUNCTIONS: &str = "I look.\n\n<tool_call>\n<function=first>\n<parameter=n>\n12\n</parameter>\n<parameter=on>\nTrue\n\
    </parameter>\n<parameter=list>\n[1, \"a\"]\n</parameter>\n<parameter=text>\n12\n<b> \"two\"\n\n</parameter>\n\
    <parameter=maybe>\n12\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=second>\n</function>\n</tool_call>";

#[test]
fn calls_are_read_and_let_through_as_models_write_them() {
    let text = tokenizer(false);
    let pairs = "I look.\n<tool_call>first\n<arg_key>n</arg_key>\n<arg_value>12</arg_value>\n<arg_key>on</arg_key>\n\
        <arg_value>true</arg_value>\n<arg_key>list</arg_key>\n<arg_value>[1, \"a\"]</arg_value>\n<arg_key>text</arg_key>\n\
        <arg_value>12\n<b> \"two\"\n</arg_value>\n<arg_key>maybe</arg_key>\n<arg_value>12</arg_value>\n</tool_call>\n\
        <tool_call>second\n</tool_call>";
    check(Dialect::Functions, &text, "I look.", FUNCTIONS);
    check(Dialect::Pairs, &text, "I look.", pairs);
    check(Dialect::Pairs, &text, "I look.", &pairs.replace("\n<arg", "<arg").replace("\n</tool", "</tool"));
    let first = arguments().to_string();
    for control in [false, true] {
        let tokenizer = tokenizer(control);
        let v3 = format!(
            "I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>first<｜tool▁sep｜>{first}<｜tool▁call▁end｜>\
             <｜tool▁call▁begin｜>second<｜tool▁sep｜>{{}}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        );
        let r1 = format!(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>first\n```json\n{first}\n```<｜tool▁call▁end｜>\n\
             <｜tool▁call▁begin｜>function<｜tool▁sep｜>second\n```json\n{{}}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        );
        for (said, text) in [("I look.", v3), ("", r1)] {
            let dialect = Dialect::of(&format!("{{{{ tools }}}} {text}"), &tokenizer);
            assert!(matches!(dialect, Dialect::DeepSeek(_)) && dialect.marks_are_tokens() == control);
            check(dialect, &tokenizer, said, &text);
        }
    }
}

/// What a model is told, and what it called before where its template does not say so, is what it is read by.
#[test]
fn calls_as_they_are_written_here_are_read_and_let_through() {
    let (first, second) = (arguments(), json!({}));
    let calls = [("first", &first), ("second", &second)];
    for control in [false, true] {
        let tokenizer = tokenizer(control);
        let deepseek = |text: &str| Dialect::of(&format!("<｜tool▁calls▁begin｜><｜tool▁sep｜>{text}"), &tokenizer);
        for dialect in [deepseek(""), deepseek("```json"), Dialect::Tagged, Dialect::Functions, Dialect::Pairs] {
            check(dialect, &tokenizer, "", &dialect.written(&calls));
        }
        for dialect in [Dialect::Llama, Dialect::Plain, Dialect::Mistral(0)] {
            let forced = Tools { choice: Choice::Required, ..tools() };
            let calls = if dialect == Dialect::Mistral(0) { &calls[..] } else { &calls[..1] };
            let text = dialect.written(calls);
            assert_eq!(follow_with(&tokenizer, dialect, &forced, &text), (text.clone(), true), "{dialect:?}");
            // The token before them is no text.
            let text = text.trim_start_matches("[TOOL_CALLS]");
            for tools in [forced, tools()] {
                let expected = calls.iter().map(|(name, arguments)| (name.to_string(), Value::clone(arguments)));
                assert_eq!(read(dialect.reader(&tools), text, 3), (String::new(), expected.collect()), "{dialect:?}");
            }
        }
    }
}

#[test]
fn a_call_that_is_cut_short_is_told_as_far_as_it_came() {
    let tools = tools();
    for (cut, arguments) in [
        ("<parameter=n>", ""),
        ("</parameter>\n<parameter=on>", "{\"n\": "),
        ("\n<parameter=list>", "{\"n\": 12, \"on\": true"),
        ("<b>", "{\"n\": 12, \"on\": true, \"list\": [1, \"a\"], \"text\": \"12"),
    ] {
        let mut reader = Dialect::Functions.reader(&tools);
        let mut deltas = reader.push(&FUNCTIONS[..FUNCTIONS.find(cut).unwrap()]);
        deltas.extend(reader.finish());
        let told: String =
            deltas.iter().filter_map(|d| if let Delta::Arguments(a) = d { Some(a.as_str()) } else { None }).collect();
        assert_eq!(told, arguments, "{cut}");
    }
}

#[test]
fn what_templates_write_is_read_and_let_through() {
    let (tools, tokenizer) = (tools(), tokenizer(false));
    let call = |name: &str, arguments: Value| json!({"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}});
    let calls = [call("first", arguments()), call("second", json!({}))];
    for (name, said, end) in [
        ("Qwen3-Coder", "I look.", "<|im_end|>"),
        ("Qwen3.5-4B", "I look.", "<|im_end|>"),
        ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "I look.", "<|im_end|>"),
        ("StepFun3.5-Flash", "I look.", "<|im_end|>"),
        ("GLM-4.6", "I look.", ""),
        ("GLM-4.7-Flash", "I look.", ""),
        ("llama-cpp-deepseek-r1", "", "<｜end▁of▁sentence｜>"),
    ] {
        let Some(source) = template(name) else { return };
        let dialect = Dialect::of(&source, &tokenizer);
        let own = ChatTemplate::new(&source, Some("<s>"), Some("</s>")).unwrap();
        let messages =
            json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": said, "tool_calls": calls}]);
        let options = RenderOptions { tools: Some(tools.list.clone()), ..RenderOptions::default() };
        let text = own.render(&messages, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let from = if said.is_empty() { text.rfind("<｜tool▁calls▁begin｜>") } else { text.rfind(said) };
        let text = &text[from.unwrap_or_else(|| panic!("{name}: {text}"))..];
        let text = if end.is_empty() { text } else { &text[..text.find(end).unwrap()] };
        check(dialect, &tokenizer, said, text.trim_end());
    }
}
