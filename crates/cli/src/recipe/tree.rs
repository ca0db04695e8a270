//! YAML text → a tree in which every key and value knows its line. Knows no recipe.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A value as it was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A value and the line it stands on, from 1; 0 where there is no line (a flag).
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub line: u64,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub line: u64,
    pub name: String,
}

/// Largest recipe that is read, in bytes: a hundred times the longest real one.
pub const MAX_BYTES: usize = 256 << 10;

/// Why a text is no YAML mapping.
#[derive(Debug, PartialEq)]
pub struct ParseError {
    pub line: Option<u64>,
    pub what: String,
}

/// Reads a whole document. An empty one is an empty map.
pub fn parse(text: &str) -> Result<Vec<(Key, Node)>, ParseError> {
    if text.len() > MAX_BYTES {
        let what = format!("the file has {} bytes, a recipe has at most {MAX_BYTES}", text.len());
        return Err(ParseError { line: None, what });
    }
    match parse_value(text)?.value {
        Value::Map(entries) => Ok(entries),
        Value::Null => Ok(Vec::new()),
        other => {
            let what = format!("a recipe is a mapping of keys to values, this is {}", other.kind());
            Err(ParseError { line: Some(1), what })
        }
    }
}

/// Reads one value, such as the right side of `--set key=value`.
pub fn parse_value(text: &str) -> Result<Node, ParseError> {
    let options = serde_saphyr::options! {
        strict_booleans: false,
        budget: serde_saphyr::budget! {
            max_depth: 16,
            max_events: 50_000,
            max_aliases: 100,
        },
    };
    if text.trim().is_empty() {
        return Ok(Node { line: 1, value: Value::Null });
    }
    serde_saphyr::from_str_with_options(text, options).map_err(|e| ParseError {
        line: e.location().map(|at| at.line()).filter(|&line| line > 0),
        what: first_line(&e.without_snippet().to_string()),
    })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().trim_start_matches("error: ").to_owned()
}

impl Value {
    /// What it is, for messages.
    pub fn kind(&self) -> String {
        match self {
            Value::Null => "nothing".into(),
            Value::Bool(b) => format!("{b}"),
            Value::Int(n) => format!("the number {n}"),
            Value::Float(x) => format!("the number {x}"),
            Value::Text(text) if text.chars().count() > 40 => {
                format!("the text {:?}…", text.chars().take(40).collect::<String>())
            }
            Value::Text(text) => format!("the text {text:?}"),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Node { line: spanned.referenced.line(), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
                Ok(Value::Bool(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
                Ok(Value::Int(v.into()))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
                Ok(Value::Int(v.into()))
            }
            fn visit_i128<E>(self, v: i128) -> Result<Value, E> {
                Ok(Value::Int(v))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
                Ok(Value::Float(v))
            }
            fn visit_str<E>(self, v: &str) -> Result<Value, E> {
                Ok(Value::Text(v.to_owned()))
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
                Value::deserialize(d)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Value::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    let key = Key { line: key.referenced.line(), name: key.value };
                    entries.push((key, map.next_value()?));
                }
                Ok(Value::Map(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_know_their_lines() {
        let entries =
            parse("# head\nmodel: m\nlora:\n  rank: 8\n  target:\n  - q_proj\n\nlr: 2e-4\non: true\n").unwrap();
        let (lora, node) = &entries[1];
        assert_eq!((lora.line, lora.name.as_str()), (3, "lora"));
        let Value::Map(inner) = &node.value else { panic!("lora is {:?}", node.value) };
        assert_eq!((inner[0].0.line, inner[0].1.line, &inner[0].1.value), (4, 4, &Value::Int(8)));
        let Value::List(items) = &inner[1].1.value else { panic!("no list") };
        assert_eq!((items[0].line, &items[0].value), (6, &Value::Text("q_proj".into())));
        assert_eq!((entries[2].0.line, &entries[2].1.value), (8, &Value::Float(2e-4)));
        assert_eq!(entries[3].1.value, Value::Bool(true));
    }

    #[test]
    fn faults_of_the_text_have_a_line() {
        assert!(parse("a: 1\nb: [1,\n").unwrap_err().line.is_some());
        let e = parse("a: 1\na: 2\n").unwrap_err();
        assert_eq!(e.line, Some(2), "{}", e.what);
        assert!(parse("- a\n").unwrap_err().what.contains("a list"));
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(parse("# nothing\n").unwrap(), []);
        assert!(parse(&format!("a: {}", "x".repeat(MAX_BYTES))).unwrap_err().what.contains("bytes"));
        assert!(parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn scalars_are_read_as_yaml_1_2() {
        for (text, value) in [
            ("2e-4", Value::Float(2e-4)),
            ("1", Value::Int(1)),
            ("-1", Value::Int(-1)),
            ("18446744073709551615", Value::Int(u64::MAX.into())),
            ("false", Value::Bool(false)),
            ("null", Value::Null),
            ("", Value::Null),
            ("q_proj", Value::Text("q_proj".into())),
            ("'8'", Value::Text("8".into())),
        ] {
            assert_eq!(parse_value(text).unwrap().value, value, "{text}");
        }
    }
}
