//! What chat and generate requests of Ollama have in common: model, options, stream, think, format, and what is refused. It knows no
//! prompt.

use std::sync::Arc;

use ounce_engine::sampler::SamplingParams;
use ounce_formats::template::RenderOptions;
use ounce_grammar::Form;
use serde_json::{Map, Value, json};

use super::options;
use crate::app::{App, model_field};
use crate::error::ApiError;
use crate::fields::{Fields, kind};
use crate::form;

pub struct Common {
    pub params: SamplingParams,
    pub stream: bool,
    pub template: RenderOptions,
    /// Of the answer.
    pub form: Option<form::Asked>,
}

impl Common {
    pub fn read(app: &App, fields: &mut Fields) -> Common {
        model_field(fields);
        let params = options::read(fields, &app.served.generation, app.context);
        // How long a model stays in memory: here always.
        fields.value("keep_alive");
        Common {
            params,
            stream: fields.flag("stream").unwrap_or(true),
            template: template(fields),
            form: format(fields),
        }
    }
}

/// `"json"`, or a schema.
fn format(fields: &mut Fields) -> Option<form::Asked> {
    let form = match fields.value("format")? {
        Value::String(text) if text.is_empty() => return None,
        Value::String(text) if text == "json" => Form::json_object(),
        schema @ Value::Object(_) => Form::JsonSchema(schema.clone()),
        other => {
            fields.fault("format", format!("must be \"json\" or a JSON schema, it is {}", kind(other)));
            return None;
        }
    };
    Some(form::Asked { param: "format".into(), form })
}

/// `think` is true, false or how much.
fn template(fields: &mut Fields) -> RenderOptions {
    let mut extra = Map::new();
    match fields.value("think") {
        None => {}
        Some(Value::Bool(think)) => drop(extra.insert("enable_thinking".into(), (*think).into())),
        Some(Value::String(effort)) => {
            extra.insert("enable_thinking".into(), true.into());
            extra.insert("reasoning_effort".into(), effort.clone().into());
        }
        Some(other) => fields.fault("think", format!("must be true, false or a string, it is {}", kind(other))),
    }
    RenderOptions { add_generation_prompt: true, extra, ..RenderOptions::default() }
}

/// Notes a fault unless the field is absent or empty.
pub fn refuse(fields: &mut Fields, name: &str, why: &str) {
    let empty = match fields.value(name) {
        None => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    };
    if !empty {
        fields.fault(name, why);
    }
}

/// A model that a request asks for, and what it calls it.
pub struct Asked {
    pub model: Arc<str>,
    pub name: String,
}

impl Asked {
    /// The one that a body names.
    ///
    /// # Errors
    /// As [`check_model`].
    pub fn read(app: &App, body: &Value) -> Result<Asked, ApiError> {
        let name = body["model"].as_str();
        let model = check_model(app, name)?;
        Ok(Asked { name: name.unwrap_or(&model).to_owned(), model })
    }
}

/// The model of this name, if it is here; one that names none asks for the base. Ollama's clients may add the tag `:latest`.
///
/// # Errors
/// 404 where it is not.
pub fn check_model(app: &App, name: Option<&str>) -> Result<Arc<str>, ApiError> {
    app.check_model(&json!({"model": name.map(|name| name.strip_suffix(":latest").unwrap_or(name))}))
}
