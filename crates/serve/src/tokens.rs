//! `POST /tokenize` and `POST /detokenize`, as vLLM has them.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};

use crate::app::{App, model_field};
use crate::chat::Conversation;
use crate::error::{ApiError, json_response};
use crate::fields::Fields;
use crate::{body, chat};

/// `{prompt, add_special_tokens}` or `{messages}` → the ids that the model would read.
pub async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let tokens = match body::read(&app, request, Wanted::read).await? {
        Wanted::Messages(conversation) => chat::encode(&app, conversation.messages, conversation.options).await?,
        Wanted::Prompt { text, special } => encode(&app, text, special).await?,
    };
    Ok(json_response(&json!({"count": tokens.len(), "max_model_len": app.context, "tokens": tokens})))
}

/// What is to be tokenized.
enum Wanted {
    Messages(Box<Conversation>),
    Prompt { text: String, special: bool },
}

impl Wanted {
    fn read(app: &App, body: &Value) -> Result<Wanted, ApiError> {
        let mut fields = Fields::of(body)?;
        model_field(&mut fields);
        let wanted = if fields.value("messages").is_some() {
            Wanted::Messages(Box::new(chat::conversation(app, &mut fields)))
        } else {
            let special = fields.flag("add_special_tokens").unwrap_or(true);
            let text = fields.text("prompt").map(String::from);
            if text.is_none() {
                fields.fault("prompt", "must be a string, unless there are messages");
            }
            Wanted::Prompt { text: text.unwrap_or_default(), special }
        };
        fields.finish()?;
        app.check_model(body)?;
        Ok(wanted)
    }
}

/// The tokens of the text that the field `prompt` gave, made on a thread of its own.
pub async fn encode(app: &Arc<App>, text: String, special: bool) -> Result<Vec<u32>, ApiError> {
    let of = app.clone();
    let encoded = app.texts.run(text.len(), move || of.served.tokenizer.encode(&text, special)).await;
    encoded
        .ok_or_else(|| ApiError::internal("the text could not be tokenized"))?
        .map_err(|e| ApiError::field("prompt", format!("prompt cannot be tokenized: {e}")))
}

/// `{tokens}` → their text, special tokens written out.
pub async fn detokenize(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let text = body::read(&app, request, |app, body| {
        let mut fields = Fields::of(body)?;
        model_field(&mut fields);
        let tokens = fields.token_ids("tokens");
        if fields.value("tokens").is_none() {
            fields.fault("tokens", "is missing");
        }
        if let Some(token) = tokens.iter().flatten().find(|&&id| id as usize >= app.vocab) {
            fields.fault("tokens", format!("has {token}, but the vocabulary ends at {}", app.vocab));
        }
        fields.finish()?;
        app.check_model(body)?;
        Ok(app.served.tokenizer.decode(&tokens.unwrap_or_default(), false))
    });
    Ok(json_response(&json!({"prompt": text.await?})))
}
