//! What a grammar says of how an answer goes on, before a model is asked.

mod common;

use common::tokenizer;
use ounce_engine::Constraint;
use ounce_formats::tokenizer::Tokenizer;
use ounce_grammar::{Form, Grammars};
use serde_json::json;

fn constraint(tokenizer: &Tokenizer, form: &Form) -> Box<dyn Constraint> {
    Grammars::new(tokenizer).unwrap().compile(form).unwrap().constraint()
}

/// What is foreseen after a text.
fn after(form: &Form, text: &str, most: usize) -> String {
    let tokenizer = tokenizer();
    let mut constraint = constraint(&tokenizer, form);
    for id in tokenizer.encode(text, false).unwrap() {
        constraint.accept(id).unwrap();
    }
    let foreseen = constraint.foresee(most);
    // Whoever asks again is told the same, also where the first of it has come.
    assert_eq!(constraint.fork().foresee(most), foreseen);
    if let Some((first, rest)) = foreseen.split_first() {
        constraint.accept(*first).unwrap();
        assert!(constraint.foresee(most).starts_with(rest), "{text}");
    }
    tokenizer.decode(&foreseen, false)
}

fn person() -> Form {
    let names = json!({"type": "array", "items": {"type": "string"}, "minItems": 1});
    Form::JsonSchema(json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"},
        "kind": {"enum": ["person", "pet"]}, "names": names, "known": {"type": "boolean"}}, "additionalProperties": false,
        "required": ["name", "age", "kind", "names", "known"]}))
}

#[test]
fn keys_and_what_stands_around_them_are_foreseen() {
    for (text, next) in [
        ("", r#"{"name": ""#),
        (r#"{"na"#, r#"me": ""#),
        (r#"{"name": ""#, ""),
        (r#"{"name": "A "#, ""),
        (r#"{"name": "A""#, r#", "age":"#),
        (r#"{"name": "A", "age": 1"#, ""),
        (r#"{"name": "A", "age": 1,"#, r#" "kind": "pe"#),
        (r#"{"name": "A", "age": 1, "kind": "per"#, r#"son", "names": [""#),
        (r#"{"name": "A", "age": 1, "kind": "pet", "names": ["a""#, ""),
        (r#"{"name": "A", "age": 1, "kind": "pet", "names": ["a"], "known": t"#, "rue}"),
    ] {
        assert_eq!(after(&person(), text, 60), next, "after {text}");
        assert_eq!(after(&person(), text, 2), next.chars().take(2).collect::<String>(), "after {text}");
    }
}

#[test]
fn blanks_are_foreseen_as_they_were_set_before() {
    for (text, next) in [
        (r#"{"name":"#, " \""),
        (r#"{"name":"A","#, r#" "age":"#),
        (r#"{"name":"A","age":1,"#, r#""kind":"pe"#),
        ("{\n", "\"name\": \""),
        ("{\n   ", "\"name\": \""),
        ("{\n   \"name\": \"A\"", ",\n   \"age\":"),
        (
            "{\n \"name\": \"A\",\n \"age\": 1,\n \"kind\": \"pet\",\n \"names\": [\n  \"a\"\n ],\n \"known\": true",
            "\n}",
        ),
    ] {
        assert_eq!(after(&person(), text, 60), next, "after {text}");
    }
}

#[test]
fn what_is_no_json_is_foreseen_where_there_is_one_text() {
    assert_eq!(after(&Form::Regex("(one|two) and three".into()), "t", 9), "wo and th");
    assert_eq!(after(&Form::Regex("a( b)?".into()), "a", 9), "");
    assert_eq!(after(&Form::Choice(vec!["left é side".into(), "right".into()]), "l", 60), "eft é side");
    assert_eq!(after(&Form::Lark("start: <[1]> \"ab\" <s> \"c\"".into()), "", 60), "<s>ab<s>c");
}

/// Where a blank or an end is as good as the one byte that may follow it, nobody knows.
#[test]
fn where_it_may_go_on_in_two_ways_nothing_is_foreseen() {
    let lark = |text: &str| Form::Lark(text.into());
    // It may be whole.
    assert_eq!(after(&lark(r#"start: "a" /( |\n)*/ "b"?"#), "a", 9), "");
    // Blanks that are no matter of style: a line break and no space, and those of a string.
    assert_eq!(after(&lark(r#"start: "a" /\n?/ "b""#), "a", 9), "");
    let spaced = json!({"type": "string", "pattern": "^a *b$"});
    assert_eq!(after(&Form::JsonSchema(spaced), "\"a", 9), "");
    // The same, where they are.
    assert_eq!(after(&lark(r#"start: "a" /( |\n)*/ "b""#), "a", 9), "b");
}

#[test]
fn what_was_foreseen_and_did_not_come_is_forgotten() {
    let tokenizer = tokenizer();
    let mut constraint = constraint(&tokenizer, &person());
    for (text, next) in [(r#"{"name": "A""#, r#", "age":"#), (",\n", r#""age":"#), (r#""age": 7, "#, r#""kind": "pe"#)]
    {
        tokenizer.encode(text, false).unwrap().into_iter().for_each(|id| constraint.accept(id).unwrap());
        assert_eq!(tokenizer.decode(&constraint.foresee(60), false), next, "after {text}");
    }
}

/// A text of any length is not gone through for each of its tokens.
#[test]
fn a_long_text_is_foreseen_piece_by_piece() {
    let text = "so it goes on ".repeat(1000);
    let tokenizer = tokenizer();
    let mut constraint = constraint(&tokenizer, &Form::Choice(vec![text.clone()]));
    let (mut tokens, mut asked) = (Vec::new(), 0);
    while !constraint.is_complete() {
        let foreseen = constraint.foresee(31);
        assert!(!foreseen.is_empty(), "after {}", tokens.len());
        foreseen.iter().for_each(|&token| constraint.accept(token).unwrap());
        tokens.extend(foreseen);
        asked += 1;
    }
    assert_eq!(tokenizer.decode(&tokens, false), text);
    assert!(asked < text.len() / 25, "{asked}");
}
