//! Ten thousand schemas made to break something: keywords with values of any kind, in any place. Whatever comes is compiled or
//! refused with a reason, and what was compiled can be followed; nothing panics, nothing goes on without an end.

mod common;

use std::time::{Duration, Instant};

use common::{draw, tokenizer};
use ounce_engine::sampler::Dice;
use ounce_grammar::{Form, Grammars};
use serde_json::{Map, Value, json};

const SCHEMAS: u64 = 10_000;
const KEYWORDS: [&str; 34] = [
    "type",
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "minProperties",
    "maxProperties",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "uniqueItems",
    "enum",
    "const",
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "if",
    "$ref",
    "$defs",
    "$schema",
    "$id",
    "pattern",
    "format",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "multipleOf",
    "x-guidance",
    "title",
    "a",
];

fn value(dice: &mut Dice, depth: usize) -> Value {
    let texts = [
        "object",
        "string",
        "integer",
        "number",
        "array",
        "null",
        "boolean",
        "#",
        "#/",
        "#/$defs/a",
        "#/properties/a",
        "(a|b)*c",
        "(",
        "^[^\\x00-\\u{10ffff}]$",
        "(?=a)b",
        "\\p{L}+$",
        "(x+x+)+y",
        "date-time",
        "uuid",
        "nonsense",
        "",
        "\u{0}é\u{ffff}",
        "http://json-schema.org/draft-07/schema#",
    ];
    let numbers = [
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(0.1),
        json!(-0.0),
        json!(1e308),
        json!(1e-308),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(100_000),
    ];
    match dice.roll(if depth == 0 { 5 } else { 10 }) {
        0 | 1 => texts[dice.roll(texts.len())].into(),
        2 | 3 => numbers[dice.roll(numbers.len())].clone(),
        4 => [Value::Null, true.into(), false.into()][dice.roll(3)].clone(),
        5 | 6 => (0..dice.roll(4)).map(|_| value(dice, depth - 1)).collect(),
        _ => object(dice, depth),
    }
}

fn object(dice: &mut Dice, depth: usize) -> Value {
    let entries = (0..dice.roll(5)).map(|_| (KEYWORDS[dice.roll(KEYWORDS.len())].to_owned(), value(dice, depth - 1)));
    entries.collect::<Map<String, Value>>().into()
}

#[test]
fn ten_thousand_hostile_schemas_are_compiled_or_refused() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let (mut compiled, mut refused, mut slowest) = (0, 0, Duration::ZERO);
    for seed in 0..SCHEMAS {
        let mut dice = Dice::new(seed ^ 0x5eed);
        let mut schema = object(&mut dice, 4);
        if dice.roll(2) == 0 {
            // Half of them make some sense.
            schema["type"] = ["object", "string", "array", "integer"][dice.roll(4)].into();
        }
        let started = Instant::now();
        match grammars.compile(&Form::JsonSchema(schema)) {
            Ok(grammar) => {
                draw(&tokenizer, grammar.constraint(), seed, 10);
                compiled += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
        slowest = slowest.max(started.elapsed());
    }
    assert!(compiled > SCHEMAS / 20 && refused > SCHEMAS / 20, "{compiled} compiled, {refused} refused");
    // The limit is two seconds; the rest is for a machine that does other things, too.
    assert!(slowest < Duration::from_secs(60), "{slowest:?}");
    println!("{compiled} compiled, {refused} refused, the slowest took {slowest:?}");
}
