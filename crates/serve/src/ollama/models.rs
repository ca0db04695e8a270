//! `/api/tags`, `/api/show`: which model is here and what it is, as Ollama tells it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::reply::timestamp;
use super::request::check_model;
use crate::app::{App, model_field};
use crate::body;
use crate::error::{ApiError, json_response};
use crate::fields::Fields;

/// `GET /api/tags`: the base, then the adapters beside it.
pub async fn tags(State(app): State<Arc<App>>) -> Response {
    let entry = |name: &str, since: u64| {
        // Ollama's digest is that of a file. Here it is that of the description: it changes when the model does.
        let described = format!("{name}\n{since}\n{}", Value::Object(model_info(&app)));
        let digest: String = Sha256::digest(described.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        json!({
            "name": name,
            "model": name,
            "modified_at": served_since(since),
            "size": app.facts.bytes,
            "digest": digest,
            "details": details(&app, name),
        })
    };
    let mut models = vec![entry(app.models.base(), app.created)];
    models.extend(app.models.adapters().iter().map(|(name, loaded)| entry(name, loaded.created)));
    json_response(&json!({"models": models}))
}

/// `POST /api/show`.
pub async fn show(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let name = body::read(&app, request, |app, body| {
        let mut fields = Fields::of(body)?;
        model_field(&mut fields);
        // What the field was called once.
        let old = fields.text("name");
        fields.flag("verbose");
        fields.finish()?;
        check_model(app, body["model"].as_str().or(old))
    })
    .await?;
    Ok(json_response(&json!({
        "modelfile": format!("FROM {name}\n"),
        "parameters": parameters(&app),
        "template": app.served.template.source(),
        "details": details(&app, &name),
        "model_info": model_info(&app),
        "capabilities": ["completion", "tools"],
        "modified_at": served_since(app.created),
    })))
}

fn served_since(seconds: u64) -> String {
    timestamp(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn details(app: &App, name: &str) -> Value {
    let base = app.models.base();
    let family = &app.facts.config.model_type;
    json!({
        "parent_model": if name == base { "" } else { base },
        "family": family,
        "families": [family],
        "parameter_size": size(app.facts.parameters as f64),
        "quantization_level": format!("{:?}", app.facts.storage),
    })
}

/// `134.5M`, `1.7B`.
fn size(parameters: f64) -> String {
    match parameters {
        n if n >= 1e9 => format!("{:.1}B", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n => format!("{:.1}K", n / 1e3),
    }
}

/// The keys of GGUF files.
fn model_info(app: &App) -> Map<String, Value> {
    let (config, family) = (&app.facts.config, &app.facts.config.model_type);
    let mut info = Map::new();
    info.insert("general.architecture".into(), family.as_str().into());
    info.insert("general.parameter_count".into(), app.facts.parameters.into());
    for (key, value) in [
        // What there is room for here, not what the model was made for.
        ("context_length", app.context),
        ("embedding_length", config.hidden_size),
        ("block_count", config.num_hidden_layers),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
        ("vocab_size", config.vocab_size),
    ] {
        info.insert(format!("{family}.{key}"), value.into());
    }
    info
}

/// What the model's makers recommend, one a line.
fn parameters(app: &App) -> String {
    let made = &app.served.generation;
    let top_k = made.top_k.map(|k| k as f32);
    let mut out = String::new();
    for (name, value) in [
        ("temperature", made.temperature),
        ("top_k", top_k),
        ("top_p", made.top_p),
        ("min_p", made.min_p),
        ("repeat_penalty", made.repetition_penalty),
    ] {
        if let Some(value) = value {
            let _ = writeln!(out, "{name:<30} {value}");
        }
    }
    out.trim_end().to_owned()
}
