//! `POST /api/generate`: one prompt, answered through the chat template or, where it is `raw`, continued as it is.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::reply::{Reply, Shape};
use super::request::{Common, check_model, refuse};
use crate::app::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::{body, chat};

pub async fn generate(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let begun = Instant::now();
    let body = body::read(request).await?;
    let mut fields = Fields::of(&body)?;
    let common = Common::read(&app, &mut fields);
    let prompt = fields.text("prompt").unwrap_or_default().to_owned();
    let system = fields.text("system").unwrap_or_default();
    let raw = fields.flag("raw").unwrap_or(false);
    for (name, why) in [
        ("suffix", "must be empty: filling in is not supported"),
        ("template", "must be empty: the model's own template is used; send raw to do without"),
        ("context", "must be empty: send the conversation to /api/chat instead"),
        ("images", "must be empty: this model reads text only"),
    ] {
        refuse(&mut fields, name, why);
    }
    let mut messages = vec![json!({"role": "user", "content": prompt})];
    if !system.is_empty() {
        messages.insert(0, json!({"role": "system", "content": system}));
    }
    fields.finish()?;
    let model = check_model(&app, &body)?;
    let reply = Reply::new(&app, &body, model, Shape::Generate, begun);
    if prompt.is_empty() {
        return Ok(reply.loaded());
    }
    let tokens = match raw {
        true => encode_raw(&app, prompt).await?,
        false => chat::encode(&app, Value::Array(messages), common.template.clone()).await?,
    };
    app.check_prompt("prompt", &tokens)?;
    reply.run(tokens, common, None).await
}

/// The tokens of a text that is the whole prompt, special tokens and all.
async fn encode_raw(app: &Arc<App>, text: String) -> Result<Vec<u32>, ApiError> {
    let app = app.clone();
    let encoded = tokio::task::spawn_blocking(move || app.served.tokenizer.encode(&text, true)).await;
    encoded
        .map_err(|_| ApiError::internal("the prompt could not be made"))?
        .map_err(|e| ApiError::field("prompt", format!("prompt cannot be tokenized: {e}")))
}
