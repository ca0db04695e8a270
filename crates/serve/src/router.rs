//! Which path leads where, and the few answers that need no engine.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, json_response};
use crate::{adapters, chat, completions, embeddings, guard, ollama, page, tokens};

/// Everything that `app` answers to.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/embeddings", post(embeddings::handle))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route(guard::LOAD_ADAPTER, post(adapters::load))
        .route(guard::UNLOAD_ADAPTER, post(adapters::unload))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/health", get(health))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .route("/api/chat", post(ollama::chat))
        .route("/api/generate", post(ollama::generate))
        .route("/api/tags", get(ollama::tags))
        .route("/api/show", post(ollama::show))
        .route("/api/version", get(ollama::version))
        .merge(page::routes())
        .fallback(|| async { ApiError::path() })
        .method_not_allowed_fallback(|| async { ApiError::method() })
        .layer(from_fn_with_state(app.clone(), guard::guard))
        .layer(from_fn(ollama::errors))
        .with_state(app)
}

async fn models(State(app): State<Arc<App>>) -> Response {
    json_response(&json!({"object": "list", "data": cards(&app)}))
}

async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let card = cards(&app).into_iter().find(|card| card["id"] == *name);
    card.map(|card| json_response(&card)).ok_or_else(|| ApiError::model(&name, &app.served.name))
}

/// The base, then the adapters beside it: `root` is where an adapter was read, `parent` what it is on.
fn cards(app: &App) -> Vec<Value> {
    let base = app.models.base();
    let card = |name: &str, created: u64, root: &str, parent: Option<&str>| {
        json!({
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "ounce",
            "root": root,
            "parent": parent,
            "max_model_len": app.context,
        })
    };
    let mut cards = vec![card(base, app.created, base, None)];
    for (name, loaded) in app.models.adapters() {
        cards.push(card(&name, loaded.created, &loaded.path.display().to_string(), Some(base)));
    }
    cards
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
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        app.metrics.text() + &app.energy.text() + &app.models.metrics(),
    )
        .into_response()
}
