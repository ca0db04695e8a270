//! `POST /api/chat`: a conversation goes on, as Ollama has it.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::calls::paired;
use super::reply::{Reply, Shape};
use super::request::{Asked, Common};
use crate::app::App;
use crate::chat::{composed, encode};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::{body, messages, tools};

pub async fn chat(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let begun = Instant::now();
    let (common, model, conversation) = body::read(&app, request, |app, body| {
        let mut fields = Fields::of(body)?;
        let common = Common::read(app, &mut fields);
        let tools = tools::offered(&mut fields);
        let messages = read_messages(&mut fields);
        fields.finish()?;
        let model = Asked::read(app, body)?;
        let conversation = messages.map(|messages| composed(app, messages, tools, common.template.clone()));
        Ok((common, model, conversation))
    })
    .await?;
    let reply = Reply::new(&app, model, Shape::Chat, begun);
    let Some(conversation) = conversation else { return Ok(reply.loaded()) };
    let prompt = encode(&app, conversation.messages, conversation.options).await?;
    app.check_prompt("messages", &prompt)?;
    reply.run(prompt, common, conversation.tools).await
}

/// Nothing where there are none: then Ollama only loads the model.
fn read_messages(fields: &mut Fields) -> Option<Vec<Value>> {
    match fields.value("messages") {
        None => return None,
        Some(list) if *list == json!([]) => return None,
        Some(Value::Array(list)) => {
            for (at, message) in list.iter().enumerate() {
                if message.get("images").and_then(Value::as_array).is_some_and(|images| !images.is_empty()) {
                    fields.fault(&format!("messages[{at}].images"), "must be empty: this model reads text only");
                }
            }
        }
        Some(_) => {}
    }
    let mut messages = messages::read(fields);
    paired(&mut messages);
    Some(messages)
}
