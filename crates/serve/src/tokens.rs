//! `POST /tokenize` and `POST /detokenize`, as vLLM has them.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::json;

use crate::app::{App, model_field};
use crate::error::{ApiError, json_response};
use crate::fields::Fields;
use crate::{body, chat};

/// `{prompt, add_special_tokens}` or `{messages}` → the ids that the model would read.
pub async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = body::read(request).await?;
    let mut fields = Fields::of(&body)?;
    model_field(&mut fields);
    let tokens = if fields.value("messages").is_some() {
        let conversation = chat::conversation(&app, &mut fields);
        fields.finish()?;
        chat::encode(&app, conversation.messages, conversation.options).await?
    } else {
        let special = fields.flag("add_special_tokens").unwrap_or(true);
        let Some(text) = fields.text("prompt").map(String::from) else {
            fields.fault("prompt", "must be a string, unless there are messages");
            return fields.finish().and(Err(ApiError::invalid("no prompt")));
        };
        fields.finish()?;
        let app = app.clone();
        let encoded = tokio::task::spawn_blocking(move || app.served.tokenizer.encode(&text, special)).await;
        encoded
            .map_err(|_| ApiError::internal("the text could not be tokenized"))?
            .map_err(|e| ApiError::field("prompt", format!("prompt cannot be tokenized: {e}")))?
    };
    app.check_model(&body)?;
    Ok(json_response(&json!({"count": tokens.len(), "max_model_len": app.context, "tokens": tokens})))
}

/// `{tokens}` → their text, special tokens written out.
pub async fn detokenize(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = body::read(request).await?;
    let mut fields = Fields::of(&body)?;
    model_field(&mut fields);
    let tokens = fields.token_ids("tokens");
    if fields.value("tokens").is_none() {
        fields.fault("tokens", "is missing");
    }
    if let Some(token) = tokens.iter().flatten().find(|&&id| id as usize >= app.vocab) {
        fields.fault("tokens", format!("has {token}, but the vocabulary ends at {}", app.vocab));
    }
    fields.finish()?;
    app.check_model(&body)?;
    let text = app.served.tokenizer.decode(&tokens.unwrap_or_default(), false);
    Ok(json_response(&json!({"prompt": text})))
}
