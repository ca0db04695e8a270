//! Which path leads where, and the few answers that need no engine.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, json_response};
use crate::{chat, completions, guard, tokens};

/// Everything that `app` answers to.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/health", get(health))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .fallback(|| async { ApiError::path() })
        .method_not_allowed_fallback(|| async { ApiError::method() })
        .layer(from_fn_with_state(app.clone(), guard::guard))
        .with_state(app)
}

async fn models(State(app): State<Arc<App>>) -> Response {
    json_response(&json!({"object": "list", "data": [card(&app)]}))
}

async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    match name == app.served.name {
        true => Ok(json_response(&card(&app))),
        false => Err(ApiError::model(&name, &app.served.name)),
    }
}

fn card(app: &App) -> Value {
    json!({
        "id": app.served.name,
        "object": "model",
        "created": app.created,
        "owned_by": "ounce",
        "max_model_len": app.context,
    })
}

async fn health(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if app.desk.is_closed() {
        return Err(ApiError::stopping("the server is about to end"));
    }
    match app.desk.has_engine() {
        true => Ok(json_response(&json!({"status": "ok"}))),
        false => Err(ApiError::internal("the engine has stopped; restart the server")),
    }
}

async fn version() -> Response {
    json_response(&json!({"version": env!("CARGO_PKG_VERSION")}))
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics.text()).into_response()
}
