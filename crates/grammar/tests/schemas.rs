//! A thousand JSON schemas, made at random from a seed, and answers drawn from random logits at high temperature: every
//! answer that ends is JSON that its schema takes. What "takes" means is written here once more, straight from the standard
//! (JSON Schema 2020-12, the keywords that the generator uses); `tests/parity/schemas.py` asks another program.

mod common;

use common::{Asked, Ended, draw, tokenizer};
use ounce_engine::sampler::Dice;
use ounce_grammar::{Form, Grammars};
use serde_json::{Map, Value, json};

const SCHEMAS: u64 = 1000;
const MOST_TOKENS: usize = 1500;

/// Patterns with what they mean.
const PATTERNS: [(&str, fn(&str) -> bool); 4] = [
    ("^[a-f]{2,4}$", |s| (2..=4).contains(&s.len()) && s.bytes().all(|b| (b'a'..=b'f').contains(&b))),
    ("^\\d{4}-\\d{2}$", |s| {
        s.len() == 7 && s.bytes().enumerate().all(|(i, b)| if i == 4 { b == b'-' } else { b.is_ascii_digit() })
    }),
    ("^(yes|no)!?$", |s| ["yes", "no", "yes!", "no!"].contains(&s)),
    ("x", |s| s.contains('x')),
];

/// A schema no deeper than `depth`; `refs` is the number of `$defs` it may point at.
fn schema(dice: &mut Dice, depth: usize, refs: usize) -> Value {
    match dice.roll(if depth == 0 { 8 } else { 12 }) {
        0 => json!({"type": "boolean"}),
        1 => json!({"type": ["null", "integer"]}),
        2 => {
            let low = dice.roll(200) as i64 - 100;
            json!({"type": "integer", "minimum": low, "exclusiveMaximum": low + 1 + dice.roll(1000) as i64})
        }
        3 => json!({"type": "number", "minimum": -2.5, "maximum": dice.roll(100)}),
        4 => {
            let least = dice.roll(5);
            json!({"type": "string", "minLength": least, "maxLength": least + dice.roll(8)})
        }
        5 => json!({"type": "string", "pattern": PATTERNS[dice.roll(PATTERNS.len())].0}),
        6 => {
            let all = json!(["a", "é\"\\\n", 3, -1.5, null, true, ["x"], {"k": 1}]);
            json!({"enum": all.as_array().unwrap()[..1 + dice.roll(8)]})
        }
        7 if refs > 0 => json!({"$ref": format!("#/$defs/d{}", dice.roll(refs))}),
        7 => json!({"const": {"fixed": [1, "two"]}}),
        8 => json!({"anyOf": (0..2 + dice.roll(2)).map(|_| schema(dice, depth - 1, refs)).collect::<Vec<_>>()}),
        9 => {
            let least = dice.roll(3);
            json!({"type": "array", "items": schema(dice, depth - 1, refs), "minItems": least,
                "maxItems": least + dice.roll(3)})
        }
        _ => object(dice, depth, refs),
    }
}

fn object(dice: &mut Dice, depth: usize, refs: usize) -> Value {
    const NAMES: [&str; 6] = ["name", "age", "a b", "ключ", "x\"y", "z"];
    let names = &NAMES[..dice.roll(NAMES.len())];
    let properties: Map<String, Value> =
        names.iter().map(|name| (name.to_string(), schema(dice, depth - 1, refs))).collect();
    let required: Vec<&str> = names.iter().filter(|_| dice.roll(2) == 0).copied().collect();
    let additional = match dice.roll(3) {
        0 => json!({"type": "integer"}),
        1 => json!(true),
        _ => json!(false),
    };
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": additional})
}

fn whole(dice: &mut Dice) -> Value {
    let refs = dice.roll(3);
    let mut root = if dice.roll(2) == 0 { object(dice, 3, refs) } else { schema(dice, 3, refs) };
    // Definitions point at none, so that every schema can be fulfilled.
    let defs: Map<String, Value> = (0..refs).map(|i| (format!("d{i}"), schema(dice, 1, 0))).collect();
    root["$defs"] = defs.into();
    root
}

/// Whether `schema` takes `value`; the first keyword that does not, with its place.
fn takes(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Some(schema) = schema.as_object() else {
        return if schema == &json!(false) { Err("false".into()) } else { Ok(()) };
    };
    for (keyword, rule) in schema {
        let ok = match (keyword.as_str(), value) {
            ("$ref", _) => {
                let target = root.pointer(&rule.as_str().unwrap()[1..]).unwrap();
                takes(root, target, value).is_ok()
            }
            ("type", _) => match rule {
                Value::Array(types) => types.iter().any(|t| is(value, t)),
                one => is(value, one),
            },
            ("enum", _) => rule.as_array().unwrap().iter().any(|one| equal(one, value)),
            ("const", _) => equal(rule, value),
            ("anyOf", _) => rule.as_array().unwrap().iter().any(|one| takes(root, one, value).is_ok()),
            ("minimum", Value::Number(n)) => n.as_f64() >= rule.as_f64(),
            ("maximum", Value::Number(n)) => n.as_f64() <= rule.as_f64(),
            ("exclusiveMaximum", Value::Number(n)) => n.as_f64() < rule.as_f64(),
            ("minLength", Value::String(s)) => s.chars().count() as u64 >= rule.as_u64().unwrap(),
            ("maxLength", Value::String(s)) => s.chars().count() as u64 <= rule.as_u64().unwrap(),
            ("pattern", Value::String(s)) => PATTERNS.iter().find(|(p, _)| rule == p).unwrap().1(s),
            ("minItems", Value::Array(list)) => list.len() as u64 >= rule.as_u64().unwrap(),
            ("maxItems", Value::Array(list)) => list.len() as u64 <= rule.as_u64().unwrap(),
            ("items", Value::Array(list)) => list.iter().all(|item| takes(root, rule, item).is_ok()),
            ("required", Value::Object(map)) => {
                rule.as_array().unwrap().iter().all(|name| map.contains_key(name.as_str().unwrap()))
            }
            ("properties", Value::Object(map)) => {
                map.iter().all(|(name, value)| rule.get(name).is_none_or(|rule| takes(root, rule, value).is_ok()))
            }
            ("additionalProperties", Value::Object(map)) => map
                .iter()
                .all(|(name, value)| schema["properties"].get(name).is_some() || takes(root, rule, value).is_ok()),
            _ => true,
        };
        if !ok {
            return Err(format!("{keyword} {rule} does not take {value}"));
        }
    }
    Ok(())
}

fn is(value: &Value, kind: &Value) -> bool {
    match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no such type: {other}"),
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        _ => a == b,
    }
}

#[test]
fn every_finished_answer_is_what_its_schema_takes() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let (mut finished, mut longest) = (0, 0);
    for seed in 0..SCHEMAS {
        let schema = whole(&mut Dice::new(seed));
        let grammar =
            grammars.compile(&Form::JsonSchema(schema.clone())).unwrap_or_else(|e| panic!("{seed}: {e}: {schema}"));
        let (text, ended) = draw(&tokenizer, grammar.constraint(), seed, MOST_TOKENS);
        match ended {
            Ended::Cut => continue,
            Ended::Unmet(unmet) => panic!("{seed}: {unmet} after {text} for {schema}"),
            Ended::Whole => {}
        }
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{seed}: {e}: {text:?} for {schema}"));
        takes(&schema, &schema, &value).unwrap_or_else(|e| panic!("{seed}: {e}: {text} for {schema}"));
        finished += 1;
        longest = longest.max(text.len());
    }
    // Long and short answers were among them, and nearly all ended.
    assert!(finished > SCHEMAS * 95 / 100 && longest > 200, "{finished} finished, the longest with {longest} bytes");
}

/// To ask what comes next changes no answer, and what is said may come.
#[test]
fn what_is_foreseen_is_what_schemas_take() {
    let tokenizer = tokenizer();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let mut foreseen = 0;
    for seed in 0..SCHEMAS / 4 {
        let schema = whole(&mut Dice::new(seed));
        let grammar = grammars.compile(&Form::JsonSchema(schema.clone())).unwrap();
        let plain = draw(&tokenizer, grammar.constraint(), seed, MOST_TOKENS / 5);
        let asked = draw(&tokenizer, Box::new(Asked::new(grammar.constraint())), seed, MOST_TOKENS / 5);
        assert_eq!(asked, plain, "{seed}: {schema}");
        foreseen += usize::from(!grammar.constraint().foresee(1).is_empty());
    }
    assert!(foreseen > SCHEMAS as usize / 16, "{foreseen}");
}

#[test]
fn the_check_itself_finds_faults() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"],
        "additionalProperties": false});
    for (value, taken) in [
        (json!({"a": 3}), true),
        (json!({"a": 2}), false),
        (json!({"a": 3.5}), false),
        (json!({}), false),
        (json!({"a": 3, "b": 1}), false),
        (json!([]), false),
    ] {
        assert_eq!(takes(&schema, &schema, &value).is_ok(), taken, "{value}");
    }
}
