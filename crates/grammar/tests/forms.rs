//! Forms other than schemas, what is refused, and what a constraint promises.

mod common;

use common::{END, Ended, draw, tokenizer};
use ounce_engine::allows;
use ounce_grammar::{Form, Grammars, MAX_FORM_BYTES};
use serde_json::{Value, json};

fn drawn(form: &Form, seed: u64) -> (String, Ended) {
    let tokenizer = tokenizer();
    let grammar = Grammars::new(&tokenizer).unwrap().compile(form).unwrap_or_else(|e| panic!("{e}"));
    draw(&tokenizer, grammar.constraint(), seed, 2000)
}

#[test]
fn a_choice_is_one_of_its_texts() {
    let texts = ["yes", "no", "\"quoted\"\n", "né", "yes or no"].map(String::from);
    let form = Form::Choice(texts.to_vec());
    let mut seen = std::collections::HashSet::new();
    for seed in 0..40 {
        let (text, ended) = drawn(&form, seed);
        assert!(ended == Ended::Whole && texts.contains(&text), "{text:?} {ended:?}");
        seen.insert(text);
    }
    assert!(seen.len() >= 3, "{seen:?}");
}

#[test]
fn an_expression_matches_whole_texts() {
    for seed in 0..20 {
        let (text, ended) = drawn(&Form::Regex("(ab/){2,3}[0-9]".into()), seed);
        assert_eq!(ended, Ended::Whole);
        let digit = text.strip_prefix("ab/ab/").map(|rest| rest.strip_prefix("ab/").unwrap_or(rest)).unwrap();
        assert!(digit.len() == 1 && digit.as_bytes()[0].is_ascii_digit(), "{text}");
    }
}

#[test]
fn a_grammar_counts_what_no_expression_can() {
    let form = Form::Lark("start: \"(\" start? \")\"".into());
    for seed in 0..20 {
        let (text, ended) = drawn(&form, seed);
        let half = text.len() / 2;
        assert_eq!((text.clone(), ended), (format!("{}{}", "(".repeat(half), ")".repeat(half)), Ended::Whole));
    }
}

#[test]
fn any_object_is_an_object() {
    for seed in 0..20 {
        if let (text, Ended::Whole) = drawn(&Form::json_object(), seed) {
            assert!(serde_json::from_str::<Value>(&text).unwrap().is_object(), "{text}");
        }
    }
}

#[test]
fn the_end_is_allowed_only_where_the_answer_is_whole() {
    let tokenizer = tokenizer();
    let grammar = Grammars::new(&tokenizer).unwrap().compile(&Form::Regex("ab+".into())).unwrap();
    let mut constraint = grammar.constraint();
    let id = |text: &str| tokenizer.id(text).unwrap();
    assert!(!constraint.may_stop() && !allows(constraint.allowed().unwrap(), END));
    constraint.accept(id("a")).unwrap();
    assert!(!constraint.may_stop() && !allows(constraint.allowed().unwrap(), END));
    constraint.accept(id("b")).unwrap();
    assert!(constraint.may_stop() && !constraint.is_complete());
    let allowed: Vec<u32> = (0..300).filter(|&t| allows(constraint.allowed().unwrap(), t)).collect();
    assert_eq!(allowed, [END, id("b")]);
    // Another answer of the same grammar begins at its beginning.
    assert!(!grammar.constraint().may_stop());
    // What was not allowed ends it, and does not panic.
    assert!(constraint.accept(id("a")).is_err());
    assert!(constraint.allowed().is_err() && !constraint.is_complete());
}

#[test]
fn what_cannot_be_kept_to_is_refused_with_a_reason() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let deep = |open: &str, close: &str, n: usize| format!("{}a{}", open.repeat(n), close.repeat(n));
    for (form, says) in [
        (Form::Regex("(".into()), "unclosed group"),
        (Form::Regex(deep("(", ")", 20_000)), ""),
        (Form::Regex("a".repeat(MAX_FORM_BYTES + 1)), "at most 65536"),
        (Form::Lark("start: missing".into()), ""),
        (Form::Lark(format!("start: {}", deep("(", ")", 20_000).replace('a', "\"a\""))), ""),
        (Form::Lark("start: start".into()), ""),
        (Form::Lark(String::new()), ""),
        (Form::Choice(Vec::new()), "nothing to choose from"),
        (Form::JsonSchema(json!(3)), "it is a number"),
        (Form::JsonSchema(json!(false)), ""),
        (Form::JsonSchema(json!({"type": "strange"})), ""),
        (Form::JsonSchema(json!({"type": 5})), ""),
        (Form::JsonSchema(json!({"type": "string", "pattern": "("})), ""),
        (Form::JsonSchema(json!({"type": "string", "pattern": 7})), ""),
        (Form::JsonSchema(json!({"$ref": "#/$defs/none"})), ""),
        (Form::JsonSchema(json!({"$ref": "https://example.org/schema"})), ""),
        (Form::JsonSchema(json!({"type": "integer", "minimum": 5, "maximum": 4})), ""),
        (Form::JsonSchema(json!({"type": "array", "uniqueItems": true})), "uniqueItems"),
        (Form::JsonSchema(json!({"required": "x"})), ""),
        // These once ended the process.
        (Form::JsonSchema(json!({"const": i64::MIN})), "-9.2e18"),
        (Form::JsonSchema(json!({"properties": {"a": {"enum": [[-1e300]]}}})), "-9.2e18"),
        (Form::Lark("start: %json {\"const\": -9223372036854775808}".into()), "-9.2e18"),
        (Form::Lark("start: %json {\"type\": \"integer\", \"minimum\": -1e30, \"maximum\": -1e30}".into()), "-9.2e18"),
    ] {
        let shown: String = format!("{form:?}").chars().take(100).collect();
        match grammars.compile(&form) {
            Ok(_) => panic!("{shown} was taken"),
            Err(e) => assert!(e.to_string().contains(says) && e.to_string().len() < 600, "{shown}: {e}"),
        }
    }
}

/// Long and repetitive forms: whatever happens, it happens soon and is no panic.
#[test]
fn large_forms_end_in_time() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let wide: serde_json::Map<String, Value> =
        (0..1500).map(|i| (format!("property{i}"), json!({"type": ["string", "integer"]}))).collect();
    let mut nested = json!({"type": "string"});
    for _ in 0..60 {
        nested = json!({"type": "array", "items": nested});
    }
    let rules: String = (0..3000).map(|i| format!("r{i}: \"a\" r{}\n", i + 1)).collect();
    for form in [
        Form::JsonSchema(json!({"type": "object", "properties": wide})),
        Form::JsonSchema(nested),
        Form::JsonSchema(json!({"type": "string", "minLength": 100_000_000})),
        Form::JsonSchema(json!({"type": "array", "minItems": 1_000_000_000})),
        Form::JsonSchema(json!({"type": "string", "pattern": "^(a?){500}b{500}$"})),
        Form::JsonSchema(json!({"$defs": {"t": {"type": "object", "properties": {"t": {"$ref": "#/$defs/t"}}}},
            "$ref": "#/$defs/t"})),
        Form::Regex("a?".repeat(20_000)),
        Form::Regex("a|".repeat(30_000) + "b"),
        Form::Regex("(((((a{1,99}){1,99}){1,99}){1,99}){1,99}){1,99}".into()),
        Form::Regex("(x+x+)+y".into()),
        Form::Regex(".*.*.*.*.*.*=.*".into()),
        Form::Choice((0..5000).map(|i| format!("choice {i}")).collect()),
        Form::Lark(format!("start: r0\n{rules}r3000: \"b\"")),
        Form::Lark("start: start start | \"a\" | \"\"".into()),
    ] {
        let shown: String = format!("{form:?}").chars().take(80).collect();
        let started = std::time::Instant::now();
        let what = match grammars.compile(&form) {
            Ok(grammar) => format!("{:?}", draw(&tokenizer, grammar.constraint(), 1, 60).1),
            Err(e) => e.to_string(),
        };
        let seconds = started.elapsed().as_secs_f64();
        // The limit is two seconds; the rest is for a machine that does other things, too.
        assert!(seconds < 60.0, "{seconds:.1} s for {shown}: {what}");
        println!("{seconds:6.3} s {shown}: {what}");
    }
}
