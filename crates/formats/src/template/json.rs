//! JSON to template values and back, as Python writes it: the `tojson` filter of Hugging Face is `json.dumps` with
//! `ensure_ascii=False`, and templates were written against its spaces and number formats.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use serde_json::Value as Json;

/// Deepest nesting that is written; JSON from outside is no deeper.
const MAX_DEPTH: usize = 128;
/// Longest text that one `tojson` writes, in bytes.
const MAX_BYTES: usize = 16 << 20;

/// A JSON value as the template engine sees it.
pub(super) fn to_template(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(v) => Value::from(*v),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(v), _) => Value::from(v),
            (_, Some(v)) => Value::from(v),
            _ => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(v) => Value::from(v.as_str()),
        Json::Array(values) => Value::from(values.iter().map(to_template).collect::<Vec<_>>()),
        Json::Object(entries) => {
            Value::from_pairs(entries.iter().map(|(key, value)| (key.as_str(), to_template(value))))
        }
    }
}

/// Names under which messages carry the assistant's thoughts.
const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A message as the template engine sees it. As in Hugging Face, thoughts are there under both names that templates read.
pub(super) fn message(json: &Json) -> Value {
    let thoughts = THOUGHTS.iter().map(|name| &json[name]).find(|thoughts| !thoughts.is_null());
    let (Some(thoughts), Some(entries)) = (thoughts, json.as_object()) else { return to_template(json) };
    let mut entries = entries.clone();
    entries.entry("thinking").or_insert_with(|| thoughts.clone());
    entries.insert("reasoning_content".into(), thoughts.clone());
    to_template(&Json::Object(entries))
}

/// The `tojson` filter.
pub(super) fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    let indent = match indent.filter(|v| !v.is_none() && !v.is_undefined()) {
        None => None,
        Some(v) => match (v.as_str(), v.as_i64()) {
            (Some(text), _) => Some(text.to_string()),
            (_, Some(n)) => Some(" ".repeat(n.clamp(0, 32) as usize)),
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: indent must be a number or a string")),
        },
    };
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let (item, key) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two strings")),
    };
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut writer = Writer { out: String::new(), indent, item, key, sort_keys, ascii };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

struct Writer {
    out: String,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
    ascii: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH || self.out.len() > MAX_BYTES {
            return Err(Error::new(ErrorKind::BadSerialization, "tojson: the value is too deep or too large"));
        }
        match value.kind() {
            ValueKind::None => self.out += "null",
            ValueKind::Bool => self.out += if value.is_true() { "true" } else { "false" },
            ValueKind::Number if value.is_integer() => self.out += &value.to_string(),
            ValueKind::Number => self.out += &float(f64::try_from(value.clone())?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.open('[');
                for (i, item) in items.iter().enumerate() {
                    self.next(i, depth);
                    self.value(item, depth + 1)?;
                }
                self.close(']', items.is_empty(), depth);
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.open('{');
                for (i, key) in keys.iter().enumerate() {
                    self.next(i, depth);
                    match key.kind() {
                        ValueKind::String => self.string(key.as_str().unwrap_or_default()),
                        ValueKind::Number | ValueKind::Bool | ValueKind::None => {
                            self.out.push('"');
                            self.value(key, depth + 1)?;
                            self.out.push('"');
                        }
                        kind => return Err(not_json(kind)),
                    }
                    self.out += &self.key;
                    self.value(&value.get_item(key)?, depth + 1)?;
                }
                self.close('}', keys.is_empty(), depth);
            }
            kind => return Err(not_json(kind)),
        }
        Ok(())
    }

    fn open(&mut self, bracket: char) {
        self.out.push(bracket);
    }

    fn next(&mut self, i: usize, depth: usize) {
        if i > 0 {
            self.out += &self.item;
        }
        self.line(depth + 1);
    }

    fn close(&mut self, bracket: char, empty: bool, depth: usize) {
        if !empty {
            self.line(depth);
        }
        self.out.push(bracket);
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out += &indent.repeat(depth);
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out += "\\\"",
                '\\' => self.out += "\\\\",
                '\n' => self.out += "\\n",
                '\r' => self.out += "\\r",
                '\t' => self.out += "\\t",
                '\u{8}' => self.out += "\\b",
                '\u{c}' => self.out += "\\f",
                c if (c as u32) < 0x20 || (self.ascii && c as u32 > 0x7e) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out += &format!("\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn not_json(kind: ValueKind) -> Error {
    Error::new(ErrorKind::BadSerialization, format!("tojson: a value of type {kind} has no JSON form"))
}

/// A float as Python's `repr` writes it.
fn float(v: f64) -> String {
    if v.is_nan() {
        return "NaN".into();
    }
    if v.is_infinite() {
        return if v > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{v:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if v != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let text = format!("{v}");
    if text.contains('.') { text } else { text + ".0" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumps(json: &str, options: &[(&str, Value)]) -> String {
        let value = to_template(&serde_json::from_str(json).unwrap());
        let options: Kwargs = options.iter().cloned().collect();
        tojson(&value, None, options).unwrap().to_string()
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let text = r#"{"b":[1,2.0,{"ü":"<'&\u0001\n"}],"a":null,"c":[],"d":{}}"#;
        assert_eq!(
            dumps(text, &[]),
            "{\"b\": [1, 2.0, {\"ü\": \"<'&\\u0001\\n\"}], \"a\": null, \"c\": [], \"d\": {}}"
        );
        assert_eq!(
            dumps(text, &[("indent", Value::from(2)), ("sort_keys", Value::from(true))]),
            "{\n  \"a\": null,\n  \"b\": [\n    1,\n    2.0,\n    {\n      \"ü\": \"<'&\\u0001\\n\"\n    }\n  ],\n  \"c\": [],\n  \"d\": {}\n}"
        );
        assert_eq!(dumps("[1,2]", &[("separators", Value::from(vec![",", ":"]))]), "[1,2]");
        assert_eq!(dumps("\"é😀\"", &[("ensure_ascii", Value::from(true))]), "\"\\u00e9\\ud83d\\ude00\"");
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let cases = [
            (0.1, "0.1"),
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (1e-4, "0.0001"),
            (1e100, "1e+100"),
        ];
        for (value, text) in cases {
            assert_eq!(float(value), text);
        }
    }
}
