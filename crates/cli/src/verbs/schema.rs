//! `ounce schema`: the recipe's JSON Schema from the table of keys, and the table of errors.

use ounce_spec::Recipe;
use serde_json::{Map, Value, json};

use super::Context;
use crate::codes;
use crate::codes::Exit;
use crate::error::Result;
use crate::flags::schema::{Args, Of};
use crate::recipe::{self, Kind};

pub fn run(context: &Context, args: Args) -> Result<Exit> {
    match args.of {
        Of::Recipe => context.out.value(&recipe_schema()),
        Of::Errors if context.out.json => {
            let rows: Vec<Value> =
                codes::ALL.iter().map(|c| json!({"code": c.id, "exit": c.exit.code(), "meaning": c.meaning})).collect();
            context.out.value(&rows);
        }
        Of::Errors => {
            for code in codes::ALL {
                context.out.data(format!("{}  exit {:<3}  {}", code.id, code.exit.code(), code.meaning));
            }
        }
    }
    Ok(Exit::Done)
}

/// JSON Schema (2020-12) of a recipe, with our own names; the aliases of other programs are listed beside them.
pub fn recipe_schema() -> Value {
    let defaults = serde_json::to_value(Recipe::default()).expect("plain data with text keys");
    let mut root = Map::new();
    for key in recipe::KEYS {
        let default = defaults.pointer(&format!("/{}", key.path.replace('.', "/"))).cloned().unwrap_or(Value::Null);
        let mut schema = kind_schema(key.kind);
        schema.insert("description".into(), Value::from(key.doc));
        schema.insert("default".into(), default);
        match key.path.split_once('.') {
            None => root.insert(key.path.into(), Value::Object(schema)),
            Some((section, name)) => {
                let section = root
                    .entry(section)
                    .or_insert_with(|| json!({"type": "object", "additionalProperties": false, "properties": {}}));
                section["properties"][name] = Value::Object(schema);
                None
            }
        };
    }
    for (name, to) in recipe::aliases() {
        root.entry(name).or_insert_with(|| json!({"description": format!("another name of {to}")}));
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ounce recipe",
        "description": "everything that decides a run of ounce tune",
        "type": "object",
        "additionalProperties": false,
        "properties": root,
    })
}

fn kind_schema(kind: Kind) -> Map<String, Value> {
    let value = match kind {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Count { min } => json!({"type": "integer", "minimum": min}),
        Kind::OptionalCount { min } => json!({"type": ["integer", "null"], "minimum": min}),
        Kind::Number { min, max } => json!({"type": "number", "minimum": min, "maximum": max}),
        Kind::Text => json!({"type": "string"}),
        Kind::OptionalText => json!({"type": ["string", "null"]}),
        Kind::Texts => json!({"type": ["string", "array"], "items": {"type": "string"}}),
        Kind::Choice(words) => json!({"enum": words}),
    };
    match value {
        Value::Object(map) => map,
        _ => unreachable!("every arm is an object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_the_schema_with_its_default() {
        let schema = recipe_schema();
        let rank = &schema["properties"]["lora"]["properties"]["rank"];
        assert_eq!((rank["type"].as_str(), rank["default"].as_u64()), (Some("integer"), Some(8)));
        let lr = &schema["properties"]["optimizer"]["properties"]["learning_rate"];
        assert_eq!((lr["type"].as_str(), lr["default"].as_f64()), (Some("number"), Some(2e-4)));
        assert_eq!(schema["properties"]["lora_rank"]["description"], "another name of lora.rank");
        // A name that is a section of ours and a word of others keeps our form.
        assert_eq!(schema["properties"]["optimizer"]["type"], json!("object"));
    }
}
