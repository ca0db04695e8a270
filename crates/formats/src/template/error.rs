//! Why a chat template could not be compiled or rendered.

use crate::guard::Fault;

/// Each variant says what is wrong and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    #[error("the chat template has {bytes} bytes, the limit is {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("the chat template does not compile: {why}")]
    Compile { why: String },
    /// The template itself refused the conversation with `raise_exception`.
    #[error("the chat template refuses this conversation: {message}")]
    Refused { message: String },
    #[error("the chat template cannot render this conversation: {why}")]
    Render { why: String },
    #[error("the chat template cannot be run: {0}")]
    Guard(#[from] Fault),
    #[error("the chat template writes more than {limit} bytes")]
    OutputTooLarge { limit: usize },
    #[error("messages must be a list of objects, each with a \"role\": {why}")]
    Messages { why: String },
    #[error("\"{name}\" cannot be set for a template: the name is taken")]
    ReservedName { name: String },
    #[error(
        "cannot tell what the assistant says in message {message}: {why}; add {{% generation %}} blocks to the chat \
         template, or train on one assistant turn at a time"
    )]
    NoSpan { message: usize, why: &'static str },
}
