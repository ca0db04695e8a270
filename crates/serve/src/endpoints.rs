//! Every endpoint of the API, once: where it is, who answers, what goes in and what comes out. The router, the counters and
//! `/openapi.json` are made from this list; to add an endpoint is to add an entry. It knows no field.

use std::sync::Arc;

use axum::routing::{MethodRouter, get, post};
use serde_json::Value;

use crate::app::App;
use crate::openapi::{answers, document, requests};
use crate::{adapters, chat, completions, embeddings, ollama, router, tokens};

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everyone.
    Open,
    /// Who has a key, where the server asks for one.
    Key,
    /// Who has the key of an administrator.
    Admin,
}

/// What an answer with status 200 is.
pub enum Gives {
    Json(Named),
    /// Text of a media type.
    Text(&'static str),
    /// JSON, or a stream of a media type where the request asks for one.
    Stream(Named, &'static str),
}

/// A schema and what it is called.
pub struct Named(pub &'static str, pub fn() -> Value);

pub struct Endpoint {
    /// As OpenAPI writes it. A name in braces takes all that follows, slashes too.
    pub path: &'static str,
    pub does: &'static str,
    pub access: Access,
    /// The body of a POST; without one it is a GET.
    pub takes: Option<Named>,
    pub gives: Gives,
    /// Statuses of errors besides those that every request may meet.
    pub faults: &'static [u16],
    pub handler: fn() -> MethodRouter<Arc<App>>,
}

const EVENTS: &str = "text/event-stream";
const LINES: &str = "application/x-ndjson";
const PLAIN: &str = "text/plain";
/// Of what the engine runs.
const RUNS: &[u16] = &[400, 404, 408, 413, 429, 500, 503];
const READS: &[u16] = &[400, 404, 408, 413, 500];
const CHANGES: &[u16] = &[400, 404, 408, 413, 500, 503];

pub static ENDPOINTS: [Endpoint; 18] = [
    Endpoint {
        path: "/v1/chat/completions",
        does: "Answer a conversation",
        access: Access::Key,
        takes: Some(Named("ChatRequest", requests::chat)),
        gives: Gives::Stream(Named("ChatCompletion", answers::chat), EVENTS),
        faults: RUNS,
        handler: || post(chat::handle),
    },
    Endpoint {
        path: "/v1/completions",
        does: "Continue texts, or score them",
        access: Access::Key,
        takes: Some(Named("CompletionRequest", requests::completion)),
        gives: Gives::Stream(Named("Completion", answers::completion), EVENTS),
        faults: RUNS,
        handler: || post(completions::handle),
    },
    Endpoint {
        path: "/v1/embeddings",
        does: "Turn texts into vectors",
        access: Access::Key,
        takes: Some(Named("EmbeddingRequest", requests::embedding)),
        gives: Gives::Json(Named("Embeddings", answers::embeddings)),
        faults: RUNS,
        handler: || post(embeddings::handle),
    },
    Endpoint {
        path: "/v1/models",
        does: "List the models: the base and its adapters",
        access: Access::Key,
        takes: None,
        gives: Gives::Json(Named("ModelList", answers::models)),
        faults: &[],
        handler: || get(router::models),
    },
    Endpoint {
        path: "/v1/models/{model}",
        does: "Describe a model",
        access: Access::Key,
        takes: None,
        gives: Gives::Json(Named("Model", answers::model)),
        faults: &[400, 404],
        handler: || get(router::model),
    },
    Endpoint {
        path: "/v1/load_lora_adapter",
        does: "Load an adapter beside the base",
        access: Access::Admin,
        takes: Some(Named("LoadAdapterRequest", requests::load_adapter)),
        gives: Gives::Text(PLAIN),
        faults: CHANGES,
        handler: || post(adapters::load),
    },
    Endpoint {
        path: "/v1/unload_lora_adapter",
        does: "Take an adapter away",
        access: Access::Admin,
        takes: Some(Named("UnloadAdapterRequest", requests::unload_adapter)),
        gives: Gives::Text(PLAIN),
        faults: CHANGES,
        handler: || post(adapters::unload),
    },
    Endpoint {
        path: "/tokenize",
        does: "Turn a text or a conversation into token ids",
        access: Access::Key,
        takes: Some(Named("TokenizeRequest", requests::tokenize)),
        gives: Gives::Json(Named("Tokens", answers::tokens)),
        faults: READS,
        handler: || post(tokens::tokenize),
    },
    Endpoint {
        path: "/detokenize",
        does: "Turn token ids into text",
        access: Access::Key,
        takes: Some(Named("DetokenizeRequest", requests::detokenize)),
        gives: Gives::Json(Named("Text", answers::text_of)),
        faults: READS,
        handler: || post(tokens::detokenize),
    },
    Endpoint {
        path: "/api/chat",
        does: "Answer a conversation, as Ollama does",
        access: Access::Key,
        takes: Some(Named("OllamaChatRequest", requests::ollama_chat)),
        gives: Gives::Stream(Named("OllamaChat", answers::ollama_chat), LINES),
        faults: RUNS,
        handler: || post(ollama::chat),
    },
    Endpoint {
        path: "/api/generate",
        does: "Answer a prompt, as Ollama does",
        access: Access::Key,
        takes: Some(Named("OllamaGenerateRequest", requests::ollama_generate)),
        gives: Gives::Stream(Named("OllamaGenerate", answers::ollama_generate), LINES),
        faults: RUNS,
        handler: || post(ollama::generate),
    },
    Endpoint {
        path: "/api/tags",
        does: "List the models, as Ollama does",
        access: Access::Key,
        takes: None,
        gives: Gives::Json(Named("OllamaModels", answers::ollama_models)),
        faults: &[],
        handler: || get(ollama::tags),
    },
    Endpoint {
        path: "/api/show",
        does: "Describe a model, as Ollama does",
        access: Access::Key,
        takes: Some(Named("OllamaShowRequest", requests::ollama_show)),
        gives: Gives::Json(Named("OllamaModel", answers::ollama_model)),
        faults: READS,
        handler: || post(ollama::show),
    },
    Endpoint {
        path: "/api/version",
        does: "Tell this program's version, as Ollama does",
        access: Access::Key,
        takes: None,
        gives: Gives::Json(Named("Version", answers::version)),
        faults: &[],
        handler: || get(router::version),
    },
    Endpoint {
        path: "/health",
        does: "Tell whether the server takes requests",
        access: Access::Open,
        takes: None,
        gives: Gives::Json(Named("Health", answers::health)),
        faults: &[500, 503],
        handler: || get(router::health),
    },
    Endpoint {
        path: "/version",
        does: "Tell this program's version",
        access: Access::Key,
        takes: None,
        gives: Gives::Json(Named("Version", answers::version)),
        faults: &[],
        handler: || get(router::version),
    },
    Endpoint {
        path: "/metrics",
        does: "Count what is done, as Prometheus reads it",
        access: Access::Key,
        takes: None,
        gives: Gives::Text(PLAIN),
        faults: &[],
        handler: || get(router::metrics),
    },
    Endpoint {
        path: "/openapi.json",
        does: "Describe this API",
        access: Access::Open,
        takes: None,
        gives: Gives::Json(Named("Document", answers::document)),
        faults: &[],
        handler: || get(document),
    },
];

/// The endpoint at a path that has no names in braces.
pub fn at(path: &str) -> Option<&'static Endpoint> {
    ENDPOINTS.iter().find(|endpoint| endpoint.path == path)
}
