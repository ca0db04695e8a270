//! Serves a model over HTTP as the OpenAI API does: chat and text completions with streaming, models, tokens, health, metrics.
//! The only async crate. One thread runs the engine, one the sockets; rendering and tokenizing have threads of their own.
//!
//! What this crate must not know: how models are opened, the command line, printing. What people send is never logged.
#![forbid(unsafe_code)]

// Tests in here use the server of the tests out there.
#[cfg(test)]
extern crate self as ounce_serve;

mod adapters;
mod answers;
mod app;
mod audit;
mod body;
mod calls;
mod chat;
mod choices;
mod completions;
mod connection;
mod desk;
mod embedder;
mod embeddings;
mod endpoints;
mod energy;
mod error;
mod facts;
mod fields;
mod form;
mod guard;
mod held;
mod limits;
mod messages;
mod metrics;
mod models;
mod ollama;
mod openapi;
mod page;
mod reply;
mod router;
mod sampling;
mod server;
mod sse;
mod texts;
mod tokens;
mod tools;
mod worker;

pub use app::{App, Options, Served};
pub use limits::Limits;
pub use metrics::MetricsCompat;
pub use models::{AdapterFault, AdapterLimits, Loaded, Models};
pub use router::router;
pub use server::{ServeError, run};
