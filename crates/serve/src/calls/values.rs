//! How the value of one argument is written where arguments stand one by one: strings as they are, everything else as JSON. Which
//! it is, the schema says. It knows no tags.

use serde_json::Value;

const NULL: u8 = 1;
const BOOLEAN: u8 = 2;
const INTEGER: u8 = 4;
const NUMBER: u8 = 8;
const STRING: u8 = 16;
const ARRAY: u8 = 32;
const OBJECT: u8 = 64;
const ALL: u8 = 127;
/// References that are followed, one from another.
const MOST_DEPTH: usize = 16;

/// How a value is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// As it is: a string.
    Text,
    /// As it is: one of these strings.
    Choice(Vec<String>),
    /// As JSON, or as Python writes it.
    Boolean,
    /// As JSON.
    Json,
    /// As JSON if it is that and of one of these types, otherwise as it is.
    Either(u8),
}

impl Written {
    /// A value that `schema`, a part of `root`, takes. A string that has to have a form is written as JSON where that must be kept
    /// to (`strict`): the library knows such forms of JSON only.
    pub fn of(schema: &Value, root: &Value, strict: bool) -> Written {
        let schema = resolved(schema, root);
        let fixed = match (schema.get("const"), schema.get("enum")) {
            (Some(one), _) => Some(std::slice::from_ref(one)),
            (None, Some(Value::Array(list))) => Some(list.as_slice()),
            _ => None,
        };
        if let Some(strings) = fixed.and_then(|fixed| fixed.iter().map(Value::as_str).collect::<Option<Vec<_>>>()) {
            // What looks like a tag, or like the line break before one, would end the value.
            if !strings.is_empty() && strings.iter().all(|text| !text.contains(['<', '\n'])) {
                return Written::Choice(strings.into_iter().map(String::from).collect());
            }
        }
        match types(schema, root, MOST_DEPTH) {
            BOOLEAN if fixed.is_none() => Written::Boolean,
            of if of & STRING == 0 => Written::Json,
            STRING if !strict || plain(schema, root, MOST_DEPTH) => Written::Text,
            of if !strict || of == STRING | NULL && plain(schema, root, MOST_DEPTH) => Written::Either(of),
            _ => Written::Json,
        }
    }

    /// The JSON of a value that is written like this.
    pub fn json(&self, text: &str) -> String {
        let string = || Value::from(text).to_string();
        match self {
            Written::Text | Written::Choice(_) => string(),
            Written::Boolean | Written::Json => literal(text).map_or_else(string, |(json, _)| json),
            Written::Either(of) => {
                literal(text).filter(|(_, is)| is & of != 0 && *is != STRING).map_or_else(string, |l| l.0)
            }
        }
    }
}

/// A text that is JSON, and its type. Templates in Python write `True`, `False` and `None`, and models learn that.
fn literal(text: &str) -> Option<(String, u8)> {
    let text = match text.trim() {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        other => other,
    };
    let value: Value = serde_json::from_str(text).ok()?;
    Some((text.to_owned(), type_of(&value)))
}

fn type_of(value: &Value) -> u8 {
    match value {
        Value::Null => NULL,
        Value::Bool(_) => BOOLEAN,
        Value::Number(n) if n.is_f64() => NUMBER,
        Value::Number(_) => INTEGER,
        Value::String(_) => STRING,
        Value::Array(_) => ARRAY,
        Value::Object(_) => OBJECT,
    }
}

/// What a schema refers to, if it does, within `root`.
fn resolved<'a>(mut schema: &'a Value, root: &'a Value) -> &'a Value {
    for _ in 0..MOST_DEPTH {
        let target = schema.get("$ref").and_then(Value::as_str).and_then(|to| root.pointer(to.strip_prefix('#')?));
        match target {
            Some(target) => schema = target,
            None => break,
        }
    }
    schema
}

/// The types of values that a schema may take.
fn types(schema: &Value, root: &Value, depth: usize) -> u8 {
    let (schema, Some(depth)) = (resolved(schema, root), depth.checked_sub(1)) else { return ALL };
    let Some(object) = schema.as_object() else { return if *schema == Value::Bool(false) { 0 } else { ALL } };
    let named = |name: &Value| match name.as_str() {
        Some("null") => NULL,
        Some("boolean") => BOOLEAN,
        Some("integer") => INTEGER,
        // A whole number is one, too.
        Some("number") => NUMBER | INTEGER,
        Some("string") => STRING,
        Some("array") => ARRAY,
        Some("object") => OBJECT,
        _ => ALL,
    };
    let any = |list: &Value, of: &dyn Fn(&Value) -> u8| {
        list.as_array().map_or(ALL, |l| l.iter().fold(0, |all, v| all | of(v)))
    };
    let inner = |schema: &Value| types(schema, root, depth);
    let mut out = match object.get("type") {
        None => ALL,
        Some(list @ Value::Array(_)) => any(list, &named),
        Some(name) => named(name),
    };
    for (key, value) in object {
        out &= match key.as_str() {
            "const" => type_of(value),
            "enum" => any(value, &type_of),
            "anyOf" | "oneOf" => any(value, &inner),
            "allOf" => value.as_array().map_or(ALL, |list| list.iter().fold(ALL, |all, v| all & inner(v))),
            _ => ALL,
        };
    }
    out
}

/// Whether any string will do where a string may stand.
fn plain(schema: &Value, root: &Value, depth: usize) -> bool {
    let (schema, Some(depth)) = (resolved(schema, root), depth.checked_sub(1)) else { return false };
    schema.as_object().is_none_or(|object| {
        object.iter().all(|(key, value)| match key.as_str() {
            "type" | "title" | "description" | "default" | "examples" | "deprecated" => true,
            "anyOf" | "oneOf" => value.as_array().is_some_and(|list| list.iter().all(|s| plain(s, root, depth))),
            _ => false,
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_says_how_its_values_are_written() {
        let root = json!({"$defs": {"name": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"}}});
        let of = |schema: Value, strict| Written::of(&schema, &root, strict);
        let choice = |list: &[&str]| Written::Choice(list.iter().map(|s| s.to_string()).collect());
        let optional = json!({"anyOf": [{"type": "string"}, {"type": "null"}], "default": null});
        for (schema, free, strict) in [
            (json!({"type": "string", "description": "d"}), Written::Text, Written::Text),
            (json!({"$ref": "#/$defs/name"}), Written::Text, Written::Text),
            (json!({"type": "string", "pattern": "a+"}), Written::Text, Written::Json),
            (json!({"enum": ["a", "b"]}), choice(&["a", "b"]), choice(&["a", "b"])),
            (json!({"const": "a"}), choice(&["a"]), choice(&["a"])),
            (json!({"enum": ["a", 1]}), Written::Either(STRING | INTEGER), Written::Json),
            (json!({"enum": ["</a>"]}), Written::Text, Written::Json),
            (json!({"type": "boolean"}), Written::Boolean, Written::Boolean),
            (json!({"enum": [true]}), Written::Json, Written::Json),
            (json!({"type": "number"}), Written::Json, Written::Json),
            (json!({"enum": [1, 2]}), Written::Json, Written::Json),
            (json!({"type": ["string", "null"]}), Written::Either(STRING | NULL), Written::Either(STRING | NULL)),
            (optional, Written::Either(STRING | NULL), Written::Either(STRING | NULL)),
            (json!({"type": ["string", "integer"]}), Written::Either(STRING | INTEGER), Written::Json),
            (json!({}), Written::Either(ALL), Written::Json),
            (json!({"$ref": "#/$defs/loop"}), Written::Either(ALL), Written::Json),
            (json!({"allOf": [{"type": "string"}]}), Written::Text, Written::Json),
        ] {
            assert_eq!((of(schema.clone(), false), of(schema.clone(), true)), (free, strict), "{schema}");
        }
    }

    #[test]
    fn values_get_the_type_of_their_schema() {
        for (schema, text, json) in [
            (json!({"type": "string"}), "12", "\"12\""),
            (json!({"type": "string"}), "a \"b\"\n<c>", "\"a \\\"b\\\"\\n<c>\""),
            (json!({"type": "integer"}), "12", "12"),
            (json!({"type": "number"}), " 1.50 ", "1.50"),
            (json!({"type": "boolean"}), "True", "true"),
            (json!({"type": "array"}), "[1, \"a\"]", "[1, \"a\"]"),
            (json!({"type": ["string", "null"]}), "None", "null"),
            (json!({"type": ["string", "null"]}), "12", "\"12\""),
            (json!({"type": ["string", "number"]}), "12", "12"),
            (json!({"type": ["string", "number"]}), "\"12\"", "\"\\\"12\\\"\""),
            (json!({}), "{\"a\": 1}", "{\"a\": 1}"),
            (json!({}), "word", "\"word\""),
            // What is wrong comes through as well as it can.
            (json!({"type": "integer"}), "twelve", "\"twelve\""),
        ] {
            assert_eq!(Written::of(&schema, &schema, false).json(text), json, "{schema} {text}");
        }
    }
}
