//! A thin layer for programs that speak Ollama's API: `/api/chat`, `/api/generate`, `/api/tags`, `/api/show`, `/api/version`.
//! It translates requests and answers; the engine does not know it.

mod calls;
mod chat;
mod generate;
mod models;
mod options;
mod reply;
mod request;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use serde_json::json;

pub use chat::chat;
pub use generate::generate;
pub use models::{show, tags};

use crate::error::{ApiError, json_response};

/// Gives errors of these paths the form that Ollama's clients read: `{"error": "…"}`, with the same status.
pub async fn errors(request: Request, next: Next) -> Response {
    let ours = request.uri().path().starts_with("/api/");
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions().get::<ApiError>().filter(|_| ours) {
        *response.body_mut() = json_response(&json!({"error": error.message})).into_body();
    }
    response
}
