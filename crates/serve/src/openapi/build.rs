//! Small parts that schemas are put together from. It knows no field.

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

/// A field of an object, with what it is.
pub type Field = (&'static str, Value);

/// An object with these fields; others are let be. Each field may be null but the `needed` ones.
pub fn request(needed: &[&str], fields: Vec<Field>, examples: Value) -> Value {
    let nullable = |(name, schema): Field| {
        let schema = if needed.contains(&name) { schema } else { or_null(schema) };
        (name.to_owned(), schema)
    };
    let properties: Map<String, Value> = fields.into_iter().map(nullable).collect();
    json!({"type": "object", "properties": properties, "required": needed, "examples": examples})
}

/// An object in an answer: every field is there.
pub fn answer(fields: Vec<Field>) -> Value {
    let required: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    let properties: Map<String, Value> =
        fields.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({"type": "object", "properties": properties, "required": required})
}

/// An object within a request; its fields may be absent or null.
pub fn object(fields: Vec<Field>) -> Value {
    let properties: Map<String, Value> =
        fields.into_iter().map(|(name, schema)| (name.into(), or_null(schema))).collect();
    json!({"type": "object", "properties": properties})
}

/// The same, or null.
pub fn or_null(mut schema: Value) -> Value {
    if let Some(any) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        any.push(json!({"type": "null"}));
        return schema;
    }
    match schema.get("type").cloned() {
        Some(Value::String(kind)) if kind != "null" => {
            schema["type"] = json!([kind, "null"]);
            schema
        }
        Some(kind) if kind == "null" => schema,
        _ => any(vec![schema, json!({"type": "null"})]),
    }
}

pub fn any(of: Vec<Value>) -> Value {
    json!({"anyOf": of})
}

pub fn number(range: RangeInclusive<f64>) -> Value {
    json!({"type": "number", "minimum": range.start(), "maximum": range.end()})
}

/// Above 0, at most `most`.
pub fn positive(most: f64) -> Value {
    json!({"type": "number", "exclusiveMinimum": 0, "maximum": most})
}

pub fn integer(range: RangeInclusive<i64>) -> Value {
    json!({"type": "integer", "minimum": range.start(), "maximum": range.end()})
}

/// A number of something.
pub fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

pub fn text() -> Value {
    json!({"type": "string"})
}

pub fn flag() -> Value {
    json!({"type": "boolean"})
}

pub fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

/// A schema with a sentence about it.
pub fn said(mut schema: Value, what: &str) -> Value {
    schema["description"] = what.into();
    schema
}

pub fn token_ids() -> Value {
    list(integer(0..=i64::from(u32::MAX)))
}
