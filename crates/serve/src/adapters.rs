//! `POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`, as vLLM has them: for whoever has the admin key. What an adapter
//! is, it does not know.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::body;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::models::AdapterFault;

/// `{lora_name, lora_path}`, and `load_inplace` to put it in the place of one that has the name.
pub async fn load(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let (name, path, replace) = body::read(&app, request, |_, body| {
        let mut fields = Fields::of(body)?;
        let (name, path) = (needed(&mut fields, "lora_name"), needed(&mut fields, "lora_path"));
        let replace = fields.flag("load_inplace").unwrap_or(false);
        fields.finish().map(|()| (name, path, replace))
    })
    .await?;
    let said = format!("Success: LoRA adapter '{name}' added successfully.");
    change(app, move |app| {
        let dir = app.models.allowed(&path)?;
        app.load_adapter(Some(&name), &dir, replace)
    })
    .await?;
    Ok(said.into_response())
}

/// `{lora_name}`.
pub async fn unload(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let name = body::read(&app, request, |_, body| {
        let mut fields = Fields::of(body)?;
        let name = needed(&mut fields, "lora_name");
        fields.finish().map(|()| name)
    })
    .await?;
    let said = format!("Success: LoRA adapter '{name}' removed successfully.");
    change(app, move |app| app.unload_adapter(&name)).await?;
    Ok(said.into_response())
}

fn needed(fields: &mut Fields, name: &str) -> String {
    match fields.value(name) {
        None => {
            fields.fault(name, "is missing");
            String::new()
        }
        Some(_) => fields.text(name).unwrap_or_default().to_owned(),
    }
}

/// Reads files and waits for the engine on a thread of its own.
async fn change(
    app: Arc<App>,
    what: impl FnOnce(&App) -> Result<(), AdapterFault> + Send + 'static,
) -> Result<(), ApiError> {
    if app.desk.is_closed() {
        return Err(ApiError::stopping("the server is about to end and takes no new requests"));
    }
    let done = tokio::task::spawn_blocking(move || what(&app)).await;
    done.map_err(|_| ApiError::internal("the adapter could not be read"))?.map_err(ApiError::from)
}

impl From<AdapterFault> for ApiError {
    fn from(fault: AdapterFault) -> ApiError {
        let message = fault.to_string();
        match fault {
            AdapterFault::Stopped => ApiError::internal(&message),
            AdapterFault::Path(_) => ApiError { param: Some("lora_path".into()), ..ApiError::origin(message) },
            AdapterFault::Files(_) | AdapterFault::Full(_) => ApiError::field("lora_path", message),
            AdapterFault::Name(_) | AdapterFault::Taken(_) => ApiError::field("lora_name", message),
            AdapterFault::Unknown(_) => {
                ApiError { status: StatusCode::NOT_FOUND, ..ApiError::field("lora_name", message) }
            }
        }
    }
}
