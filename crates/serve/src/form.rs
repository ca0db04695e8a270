//! Which form an answer must have: `response_format` as OpenAI has it, `structured_outputs` and `guided_…` as vLLM does. It knows
//! no grammar library.

use std::sync::Arc;

use ounce_grammar::{Form, Grammar};
use serde_json::{Map, Value};

use crate::app::App;
use crate::error::ApiError;
use crate::fields::{Fields, kind};

/// A form and the field that asks for it.
#[derive(Debug)]
pub struct Asked {
    pub param: String,
    pub form: Form,
}

/// Kinds of form, as `structured_outputs` names them and, with `guided_` before, as fields of their own.
const KINDS: [&str; 5] = ["json", "regex", "choice", "grammar", "json_object"];

/// The one form that a request asks for; several at once are a fault.
pub fn read(fields: &mut Fields) -> Option<Asked> {
    let mut asked = Vec::new();
    asked.extend(response_format(fields));
    match fields.value("structured_outputs") {
        None => {}
        Some(Value::Object(object)) => {
            for name in KINDS {
                if let Some(value) = object.get(name).filter(|value| !value.is_null()) {
                    asked.extend(form(fields, format!("structured_outputs.{name}"), name, value));
                }
            }
            if object.get("structural_tag").is_some_and(|tag| !tag.is_null()) {
                fields.fault("structured_outputs.structural_tag", "is not supported");
            }
        }
        Some(other) => fields.fault("structured_outputs", format!("must be an object, it is {}", kind(other))),
    }
    for name in KINDS {
        let param = format!("guided_{name}");
        if let Some(value) = fields.value(&param) {
            asked.extend(form(fields, param, name, value));
        }
    }
    if let [_, second, ..] = asked.as_slice() {
        fields.fault(&second.param, format!("cannot be asked for together with {}", asked[0].param));
    }
    asked.into_iter().next()
}

/// The grammar of what was asked for.
///
/// # Errors
/// 400 for a form that is wrong, too large or too complex.
pub async fn compile(app: &Arc<App>, asked: Option<Asked>) -> Result<Option<Grammar>, ApiError> {
    match asked {
        None => Ok(None),
        Some(Asked { param, form }) => app.grammar(&param, form).await.map(Some),
    }
}

fn response_format(fields: &mut Fields) -> Option<Asked> {
    let value = fields.value("response_format")?;
    let Some(object) = value.as_object() else {
        fields.fault("response_format", format!("must be an object, it is {}", kind(value)));
        return None;
    };
    match object.get("type").and_then(Value::as_str) {
        Some("text") => None,
        Some("json_object") => Some(Asked { param: "response_format".into(), form: Form::json_object() }),
        Some("json_schema") => json_schema(fields, object),
        _ => {
            fields.fault("response_format.type", "must be \"text\", \"json_object\" or \"json_schema\"");
            None
        }
    }
}

/// `{"type": "json_schema", "json_schema": {"name": …, "schema": …}}`. Answers are kept to it whether `strict` is set or not.
fn json_schema(fields: &mut Fields, format: &Map<String, Value>) -> Option<Asked> {
    let Some(object) = format.get("json_schema").and_then(Value::as_object) else {
        fields.fault("response_format.json_schema", "must be an object with a name and a schema");
        return None;
    };
    if !object.get("name").is_some_and(Value::is_string) {
        fields.fault("response_format.json_schema.name", "must be a string");
    }
    let param = "response_format.json_schema.schema";
    match object.get("schema") {
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => {
            Some(Asked { param: param.into(), form: Form::JsonSchema(schema.clone()) })
        }
        Some(other) => {
            fields.fault(param, format!("must be an object, it is {}", kind(other)));
            None
        }
        None => {
            fields.fault(param, "is missing");
            None
        }
    }
}

fn form(fields: &mut Fields, param: String, name: &str, value: &Value) -> Option<Asked> {
    let form = match (name, value) {
        // Some clients send a schema as text.
        ("json", Value::String(text)) => match serde_json::from_str(text) {
            Ok(schema) => Form::JsonSchema(schema),
            Err(e) => {
                fields.fault(&param, format!("is no JSON: {e}"));
                return None;
            }
        },
        ("json", schema) => Form::JsonSchema(schema.clone()),
        ("json_object", Value::Bool(wanted)) => wanted.then(Form::json_object)?,
        ("regex", Value::String(text)) => Form::Regex(text.clone()),
        ("grammar", Value::String(text)) => Form::Lark(text.clone()),
        ("choice", Value::Array(list)) if !list.is_empty() && list.iter().all(Value::is_string) => {
            Form::Choice(list.iter().filter_map(Value::as_str).map(String::from).collect())
        }
        _ => {
            let must = match name {
                "json_object" => "true or false",
                "choice" => "a list of strings, not empty",
                _ => "a string",
            };
            fields.fault(&param, format!("must be {must}, it is {}", kind(value)));
            return None;
        }
    };
    Some(Asked { param, form })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_from(body: Value) -> Result<Option<Asked>, String> {
        let mut fields = Fields::of(&body).unwrap();
        let asked = read(&mut fields);
        fields.finish().map_err(|e| e.message)?;
        Ok(asked)
    }

    #[test]
    fn every_way_to_ask_gives_a_form() {
        let schema = json!({"type": "integer"});
        let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": true}});
        for (body, form) in [
            (json!({"response_format": {"type": "text"}, "guided_regex": null}), None),
            (json!({"response_format": {"type": "json_object"}}), Some(Form::json_object())),
            (json!({"response_format": format}), Some(Form::JsonSchema(schema.clone()))),
            (json!({"guided_json": schema.to_string()}), Some(Form::JsonSchema(schema.clone()))),
            (json!({"structured_outputs": {"json": schema, "regex": null}}), Some(Form::JsonSchema(schema))),
            (json!({"structured_outputs": {"regex": "a+"}}), Some(Form::Regex("a+".into()))),
            (json!({"guided_choice": ["a", "b"]}), Some(Form::Choice(vec!["a".into(), "b".into()]))),
            (json!({"guided_grammar": "start: \"a\""}), Some(Form::Lark("start: \"a\"".into()))),
            (json!({"structured_outputs": {"json_object": true}}), Some(Form::json_object())),
        ] {
            assert_eq!(read_from(body.clone()).unwrap().map(|asked| asked.form), form, "{body}");
        }
    }

    #[test]
    fn faults_name_the_field() {
        for (body, says) in [
            (json!({"response_format": "json"}), "response_format must be an object, it is a string"),
            (json!({"response_format": {"type": "xml"}}), "response_format.type must be"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema must be an object"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {}}}),
                "response_format.json_schema.name must be a string; response_format.json_schema.schema is missing",
            ),
            (json!({"guided_choice": []}), "guided_choice must be a list of strings, not empty, it is a list"),
            (json!({"guided_json": "{"}), "guided_json is no JSON"),
            (json!({"structured_outputs": {"regex": 3}}), "structured_outputs.regex must be a string, it is a number"),
            (
                json!({"guided_regex": "a", "guided_grammar": "start: \"a\""}),
                "guided_grammar cannot be asked for together with guided_regex",
            ),
        ] {
            let message = read_from(body.clone()).unwrap_err();
            assert!(message.starts_with(says), "{body}: {message}");
        }
    }
}
