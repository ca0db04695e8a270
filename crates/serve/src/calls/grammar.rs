//! Grammars of answers with calls, in the notation of Lark. They know no text that has been written.

use ounce_grammar::{GrammarError, json_rule};
use serde_json::{Value, json};

use super::parts::{FUNCTIONS, PAIRS};
use super::{Dialect, arguments};
use crate::tools::{Choice, Function, Tools};

/// Most calls of one answer, besides the first: a small model that must call goes on calling.
const MORE: usize = 15;
/// Blanks around a call.
const SPACE: &str = "SPACE: /[ \\n]{1,4}/\n";

/// See [`Dialect::grammar`].
pub fn of(
    dialect: Dialect,
    tools: &Tools,
    answer: Option<&Value>,
    strict: bool,
) -> Result<Option<String>, GrammarError> {
    let auto = tools.choice == Choice::Auto;
    let many = tools.parallel;
    let more = if many { MORE } else { 0 };
    let calls = match dialect {
        Dialect::Tagged | Dialect::Functions | Dialect::Pairs if many => format!("call (SPACE? call){{0,{MORE}}}"),
        Dialect::Tagged | Dialect::Functions | Dialect::Pairs => "call".into(),
        Dialect::DeepSeek(deepseek) => deepseek.calls(more).join(" "),
        Dialect::Mistral(token) if many => format!("<[{token}]> \"[\" object (\",\" SPACE? object){{0,{MORE}}} \"]\""),
        Dialect::Mistral(token) => format!("<[{token}]> \"[\" object \"]\""),
        Dialect::Llama | Dialect::Plain => "object".into(),
    };
    let start = match (auto, answer, dialect) {
        (false, ..) => calls,
        (true, Some(_), _) => format!("answer | {calls}"),
        // Text up to a tag, a call, text again.
        (true, None, Dialect::Tagged | Dialect::Functions | Dialect::Pairs) if many => {
            "(head SPACE? object SPACE? \"</tool_call>\")* tail".into()
        }
        (true, None, Dialect::Tagged | Dialect::Functions | Dialect::Pairs) => {
            "tail | head SPACE? object SPACE? \"</tool_call>\"".into()
        }
        (true, None, Dialect::DeepSeek(deepseek)) => {
            let [mark, calls] = deepseek.calls(more);
            match deepseek.marks_are_tokens() {
                true => format!("tail | TEXT {mark} {calls}"),
                false => format!("tail | head {calls}"),
            }
        }
        (true, None, Dialect::Mistral(_)) => format!("tail | {calls}"),
        // Whether a text that begins like a call is one shows only when it is whole.
        (true, None, Dialect::Llama | Dialect::Plain) => return Ok(None),
    };
    let before = match dialect {
        Dialect::DeepSeek(deepseek) => deepseek.calls(more)[0].clone(),
        _ => "\"<tool_call>\"".into(),
    };
    let mut out = format!("start: {start}\n");
    if let Some(schema) = answer.filter(|_| auto) {
        out += &format!("answer: {}\n", json_rule(schema)?);
    }
    for (part, rule) in [
        ("call", "call: \"<tool_call>\" SPACE? object SPACE? \"</tool_call>\"\n"),
        ("head", &format!("head[lazy]: TEXT {before}\n")),
        ("tail", "tail: TEXT\n"),
    ] {
        if start.split([' ', '(', ')', '?', '*']).any(|word| word == part) {
            out += rule;
        }
    }
    let functions = tools.callable();
    let names: Vec<String> = (0..functions.len()).map(|at| format!("f{at}")).collect();
    out += &format!("object: {}\n", names.join(" | "));
    for (at, function) in functions.iter().enumerate() {
        let at = format!("{at}");
        out += &match dialect {
            Dialect::Functions => arguments::rules(&FUNCTIONS, &at, function, strict)?,
            Dialect::Pairs => arguments::rules(&PAIRS, &at, function, strict)?,
            Dialect::DeepSeek(deepseek) => framed(&at, function, strict, deepseek.around(&function.name))?,
            Dialect::Tagged | Dialect::Llama | Dialect::Mistral(_) | Dialect::Plain => {
                // Lark writes texts as JSON does.
                let before = format!("{{\"name\": \"{}\", \"{}\": ", function.name, dialect.arguments());
                framed(&at, function, strict, [Value::from(before).to_string(), "\"}\"".into()])?
            }
        };
    }
    if out.contains(" KEY ") {
        out += "KEY: /[^<>\\n]{1,64}/\n";
    }
    if out.contains("TEXT") {
        out += "TEXT: /(.|\\n)*/\n";
    }
    if out.contains("SPACE") {
        out += SPACE;
    }
    Ok(Some(out))
}

/// The rules of a call whose arguments are JSON, between two texts.
fn framed(at: &str, function: &Function, strict: bool, [before, after]: [String; 2]) -> Result<String, GrammarError> {
    let any = json!({"type": "object"});
    let schema = if strict || function.strict { &function.parameters } else { &any };
    Ok(format!("f{at}: {before} a{at} {after}\na{at}: {}\n", json_rule(schema)?))
}

#[cfg(test)]
pub mod tests {
    use ounce_engine::allows;
    use ounce_formats::tokenizer::Tokenizer;
    use ounce_grammar::{Form, Grammars};
    use serde_json::Map;

    use super::*;

    const MARKS: [&str; 5] = [
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>",
    ];

    /// Printable ASCII and the line break, a token each; 0 is a control token, 2 to 6 are DeepSeek's marks, which may be some.
    pub fn tokenizer(marks_are_control: bool) -> Tokenizer {
        let letter = |c: u8| match c {
            b' ' => "Ġ".to_owned(),
            b'\n' => "Ċ".to_owned(),
            other => char::from(other).to_string(),
        };
        let names = ["[TOOL_CALLS]", "</s>"].into_iter().chain(MARKS);
        let words = names.clone().map(String::from).chain((b' '..=b'~').chain([b'\n']).map(letter));
        let vocab: Map<String, Value> = words.enumerate().map(|(id, word)| (word, id.into())).collect();
        let added: Vec<Value> = names
            .enumerate()
            .map(|(id, text)| {
                let special = id < 2 || marks_are_control;
                json!({"id": id, "content": text, "special": special, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false})
            })
            .collect();
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let file = json!({"version": "1.0", "added_tokens": added, "pre_tokenizer": bytes, "decoder": bytes,
            "model": {"type": "BPE", "unk_token": null, "vocab": vocab, "merges": []}});
        Tokenizer::from_hf(file.to_string().as_bytes(), None, None).unwrap().with_eos_ids(&[1])
    }

    fn tools(choice: Choice, parallel: bool) -> Tools {
        let schema = json!({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"],
            "additionalProperties": false});
        let functions = ["f", "g"].map(|name| Function { name: name.into(), parameters: schema.clone(), strict: true });
        Tools { list: json!([]), functions: functions.to_vec(), choice, parallel }
    }

    /// How far a text goes under a grammar, and whether it may end there.
    fn follow(dialect: Dialect, tools: &Tools, text: &str) -> (String, bool) {
        follow_with(&tokenizer(false), dialect, tools, text)
    }

    pub fn follow_with(tokenizer: &Tokenizer, dialect: Dialect, tools: &Tools, text: &str) -> (String, bool) {
        let grammar = of(dialect, tools, None, true).unwrap().unwrap();
        let grammar = Grammars::new(tokenizer).unwrap().compile(&Form::Lark(grammar)).unwrap_or_else(|e| panic!("{e}"));
        let mut constraint = grammar.constraint();
        let mut gone = Vec::new();
        for id in tokenizer.encode(text, false).unwrap() {
            if constraint.is_complete() || !allows(constraint.allowed().unwrap(), id) {
                break;
            }
            constraint.accept(id).unwrap();
            gone.push(id);
        }
        (tokenizer.decode(&gone, false), constraint.may_stop())
    }

    #[test]
    fn free_answers_may_say_anything_but_wrong_calls() {
        let call = |name: &str, x: &str| {
            format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {{\"x\": {x}}}}}\n</tool_call>")
        };
        let auto = tools(Choice::Auto, true);
        let good = [
            "Just text, <b>bold</b>, {\"a\": 1}.\n".to_owned(),
            "a <tool_ or <tool_calls> is none".into(),
            call("f", "12"),
            format!("I look.\n{}\n{}\nDone.", call("f", "1"), call("g", "-2")),
        ];
        for text in good {
            assert_eq!(follow(Dialect::Tagged, &auto, &text), (text.clone(), true));
        }
        for (text, up_to) in [
            (call("h", "1"), "<tool_call>\n{\"name\": \""),
            (call("f", "true"), "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": "),
            ("so <tool_call>{\"a\": 1}</tool_call>".into(), "so <tool_call>{\""),
            ("<tool_call></tool_call>".into(), "<tool_call>"),
        ] {
            assert_eq!(follow(Dialect::Tagged, &auto, &text), (up_to.to_owned(), false));
        }
        let one = tools(Choice::Auto, false);
        let two = format!("{} {}", call("f", "1"), call("f", "2"));
        assert_eq!(follow(Dialect::Tagged, &one, &two), (call("f", "1"), true));
        assert_eq!(follow(Dialect::Tagged, &one, "only text"), ("only text".into(), true));
    }

    #[test]
    fn forced_answers_are_calls_and_nothing_else() {
        let forced = tools(Choice::Required, true);
        let named = tools(Choice::Named(1), false);
        assert_eq!(follow(Dialect::Tagged, &forced, "I"), (String::new(), false));
        for (dialect, text) in [
            (Dialect::Llama, "{\"name\": \"g\", \"parameters\": {\"x\":1}}"),
            (Dialect::Plain, "{\"name\": \"g\", \"arguments\": {\"x\":1}}"),
            (Dialect::Mistral(0), "[TOOL_CALLS][{\"name\": \"g\", \"arguments\": {\"x\":1}}]"),
            (Dialect::Tagged, "<tool_call>{\"name\": \"g\", \"arguments\": {\"x\":1}}</tool_call>"),
            (
                Dialect::Functions,
                "<tool_call>\n<function=g>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>",
            ),
            (Dialect::Pairs, "<tool_call>g\n<arg_key>x</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"),
            (Dialect::Pairs, "<tool_call>g<arg_key>x</arg_key><arg_value>1</arg_value></tool_call>"),
        ] {
            for tools in [&forced, &named] {
                assert_eq!(follow(dialect, tools, text), (text.to_owned(), true), "{dialect:?}");
            }
            let other = text.replace("\"g\"", "\"f\"").replace("=g", "=f").replace(">g", ">f");
            assert_eq!(follow(dialect, &forced, &other), (other.clone(), true), "{dialect:?}");
            let differs = other.bytes().zip(text.bytes()).position(|(a, b)| a != b).unwrap();
            assert_eq!(follow(dialect, &named, &other).0, other[..differs], "{dialect:?}");
        }
        // Where the model is free, these come to light only when they are whole.
        let auto = tools(Choice::Auto, true);
        assert_eq!(of(Dialect::Llama, &auto, None, true).unwrap(), None);
        assert_eq!(follow(Dialect::Mistral(0), &auto, "[TOOL_CALLS]x").0, "[TOOL_CALLS]");
        assert_eq!(follow(Dialect::Mistral(0), &auto, "[1] text").0, "[1] text");
    }

    #[test]
    fn arguments_one_by_one_are_those_of_the_schema() {
        let parameters = json!({"type": "object", "properties": {"s": {"type": "string"}, "n": {"type": "integer"},
            "e": {"enum": ["up", "down"]}, "o": {"$ref": "#/$defs/o"}}, "required": ["s"], "additionalProperties": false,
            "$defs": {"o": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
            "additionalProperties": false}}});
        let function = |strict| Function { name: "f".into(), parameters: parameters.clone(), strict };
        let tools = |strict| Tools {
            list: json!([]),
            functions: vec![function(strict)],
            choice: Choice::Required,
            parallel: false,
        };
        let call = |arguments: &[(&str, &str)]| {
            let one = |(key, value): &(&str, &str)| format!("<parameter={key}>\n{value}\n</parameter>\n");
            let all: String = arguments.iter().map(one).collect();
            format!("<tool_call>\n<function=f>\n{all}</function>\n</tool_call>")
        };
        for arguments in [
            &[("s", "")][..],
            &[("s", "12 <b>\n\n</parameters>")],
            &[("s", "a"), ("n", "-3"), ("e", "down"), ("o", "{\"a\": true}")],
        ] {
            let text = call(arguments);
            assert_eq!(follow(Dialect::Functions, &tools(true), &text), (text.clone(), true));
        }
        for (arguments, up_to) in [
            (&[][..], "<tool_call>\n<function=f>\n<"),
            (&[("n", "1")], "<tool_call>\n<function=f>\n<parameter="),
            (&[("s", ""), ("n", "x")], "<parameter=n>\n"),
            (&[("s", ""), ("e", "left")], "<parameter=e>\n"),
            (&[("s", ""), ("o", "{\"b\": 1}")], "<parameter=o>\n{\""),
            (&[("s", ""), ("x", "1")], "</parameter>\n<parameter="),
        ] {
            let (gone, ended) = follow(Dialect::Functions, &tools(true), &call(arguments));
            assert!(gone.ends_with(up_to) && !ended, "{gone}");
        }
        // Where the schema is a hint only, any arguments are.
        let grammar = of(Dialect::Functions, &tools(false), None, false).unwrap().unwrap();
        assert!(grammar.contains("KEY") && !grammar.contains("parameter=s"), "{grammar}");
        let strange = json!({"type": "object", "properties": {"s": {"type": "string"}}, "minProperties": 1});
        let mut strange = Tools { functions: vec![Function { parameters: strange, ..function(true) }], ..tools(true) };
        assert!(of(Dialect::Pairs, &strange, None, true).is_err());
        strange.functions[0].strict = false;
        assert!(of(Dialect::Pairs, &strange, None, false).is_ok());
    }
}
