//! `POST /api/generate`: one prompt, answered through the chat template or, where it is `raw`, continued as it is.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::reply::{Reply, Shape};
use super::request::{Asked, Common, refuse};
use crate::app::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::{body, chat, tokens};

pub async fn generate(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let begun = Instant::now();
    let Wanted { common, model, prompt, system, raw } = body::read(&app, request, Wanted::read).await?;
    let reply = Reply::new(&app, model, Shape::Generate, begun);
    if prompt.is_empty() {
        return Ok(reply.loaded());
    }
    let tokens = if raw {
        // The text is the whole prompt, special tokens and all.
        tokens::encode(&app, prompt, true).await?
    } else {
        let mut messages = vec![json!({"role": "user", "content": prompt})];
        if !system.is_empty() {
            messages.insert(0, json!({"role": "system", "content": system}));
        }
        chat::encode(&app, Value::Array(messages), common.template.clone()).await?
    };
    app.check_prompt("prompt", &tokens)?;
    reply.run(tokens, common, None).await
}

/// What a request asks for.
struct Wanted {
    common: Common,
    model: Asked,
    prompt: String,
    system: String,
    raw: bool,
}

impl Wanted {
    fn read(app: &App, body: &Value) -> Result<Wanted, ApiError> {
        let mut fields = Fields::of(body)?;
        let common = Common::read(app, &mut fields);
        let prompt = fields.text("prompt").unwrap_or_default().to_owned();
        let system = fields.text("system").unwrap_or_default().to_owned();
        let raw = fields.flag("raw").unwrap_or(false);
        for (name, why) in [
            ("suffix", "must be empty: filling in is not supported"),
            ("template", "must be empty: the model's own template is used; send raw to do without"),
            ("context", "must be empty: send the conversation to /api/chat instead"),
            ("images", "must be empty: this model reads text only"),
        ] {
            refuse(&mut fields, name, why);
        }
        fields.finish()?;
        Ok(Wanted { common, model: Asked::read(app, body)?, prompt, system, raw })
    }
}
