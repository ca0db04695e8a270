//! `/openapi.json`: an OpenAPI 3.1 document, made from the list of endpoints. It knows no endpoint by name.

pub mod answers;
mod build;
pub mod requests;
#[cfg(test)]
mod tests;

use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::endpoints::{Access, ENDPOINTS, Endpoint, Gives, Named};
use crate::error::json_response;

/// What any request to this server may be answered with.
const ALWAYS: [u16; 2] = [403, 405];

/// `GET /openapi.json`.
pub async fn document() -> Response {
    json_response(&describe())
}

fn describe() -> Value {
    let (mut paths, mut schemas, mut faults) = (Map::new(), Map::new(), Map::new());
    let mut name = |Named(name, schema): &Named| {
        schemas.entry(*name).or_insert_with(schema);
        json!({"$ref": format!("#/components/schemas/{name}")})
    };
    for endpoint in &ENDPOINTS {
        let method = if endpoint.takes.is_some() { "post" } else { "get" };
        let mut operation = json!({
            "operationId": format!("{method}{}", endpoint.path.replace(['/', '{', '}', '.'], "_")),
            "summary": endpoint.does,
            "responses": {"200": {"description": "What was asked for.", "content": content(&endpoint.gives, &mut name)}},
            "security": security(endpoint.access),
        });
        if let Some(body) = &endpoint.takes {
            let content = json!({"application/json": {"schema": name(body)}});
            operation["requestBody"] = json!({"required": true, "content": content});
        }
        let parameters: Vec<Value> = names_in_braces(endpoint.path).map(parameter).collect();
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        for status in statuses(endpoint) {
            let (key, fault) = fault(status, endpoint.path.starts_with("/api/"));
            operation["responses"][status.to_string()] = json!({"$ref": format!("#/components/responses/{key}")});
            faults.insert(key, fault);
        }
        paths.insert(endpoint.path.into(), json!({method: operation}));
    }
    schemas.insert("Error".into(), answers::error());
    schemas.insert("OllamaError".into(), answers::ollama_error());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Ounce",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The OpenAI API, parts of vLLM's and of Ollama's. Fields that are not listed are ignored; null \
                stands for a field that is absent.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": faults,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "Where the server was started with keys."},
                "admin": {"type": "http", "scheme": "bearer", "description": "The key of an administrator."},
            },
        },
    })
}

fn content(gives: &Gives, name: &mut impl FnMut(&Named) -> Value) -> Value {
    match gives {
        Gives::Json(schema) => json!({"application/json": {"schema": name(schema)}}),
        Gives::Text(kind) => json!({*kind: {}}),
        Gives::Stream(schema, kind) => json!({"application/json": {"schema": name(schema)}, *kind: {}}),
    }
}

fn security(access: Access) -> Value {
    match access {
        Access::Open => json!([]),
        Access::Key => json!([{}, {"key": []}]),
        Access::Admin => json!([{"admin": []}]),
    }
}

fn statuses(endpoint: &Endpoint) -> Vec<u16> {
    let mut statuses: Vec<u16> = endpoint.faults.iter().copied().chain(ALWAYS).collect();
    if endpoint.access != Access::Open {
        statuses.push(401);
    }
    statuses.sort_unstable();
    statuses
}

fn names_in_braces(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
}

fn parameter(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}})
}

/// What an error of this status is called among the components, and what it is.
fn fault(status: u16, ollama: bool) -> (String, Value) {
    let what = match status {
        400 => "The request is wrong; the message says where.",
        401 => "The key is missing or wrong.",
        403 => "Not from this page, under this name, or with this key.",
        404 => "There is no such model or path.",
        405 => "The path is not for this method.",
        408 => "The body did not arrive in time.",
        413 => "The body is too large.",
        429 => "The queue is full.",
        503 => "The server is about to end, or the answer took too long.",
        _ => "A fault of the server.",
    };
    let (key, schema) = if ollama { ("OllamaFault", "OllamaError") } else { ("Fault", "Error") };
    let schema = json!({"$ref": format!("#/components/schemas/{schema}")});
    let mut fault = json!({"description": what, "content": {"application/json": {"schema": schema}}});
    if matches!(status, 429 | 503) {
        fault["headers"] = json!({"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}});
    }
    (format!("{key}{status}"), fault)
}
