//! Which path leads where, and the few answers that need no engine.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::endpoints::ENDPOINTS;
use crate::error::{ApiError, json_response};
use crate::{guard, ollama, page};

/// Everything that `app` answers to.
pub fn router(app: Arc<App>) -> Router {
    let mut api = Router::new();
    for endpoint in &ENDPOINTS {
        // A name in a path takes all that follows: names of models have slashes.
        api = api.route(&endpoint.path.replace('{', "{*"), (endpoint.handler)());
    }
    api.merge(page::routes())
        .fallback(|| async { ApiError::path() })
        .method_not_allowed_fallback(|| async { ApiError::method() })
        .layer(from_fn_with_state(app.clone(), guard::guard))
        .layer(from_fn(ollama::errors))
        .with_state(app)
}

pub async fn models(State(app): State<Arc<App>>) -> Response {
    json_response(&json!({"object": "list", "data": cards(&app)}))
}

pub async fn model(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(name) = name.map_err(|_| ApiError::invalid("the name of the model is no text"))?;
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

pub async fn health(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if app.desk.is_closed() {
        return Err(ApiError::stopping("the server is about to end"));
    }
    match app.desk.has_engine() {
        true => Ok(json_response(&json!({"status": "ok"}))),
        false => Err(ApiError::internal("the engine has stopped; restart the server")),
    }
}

pub async fn version() -> Response {
    json_response(&json!({"version": env!("CARGO_PKG_VERSION")}))
}

pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        app.metrics.text() + &app.energy.text() + &app.models.metrics(),
    )
        .into_response()
}
