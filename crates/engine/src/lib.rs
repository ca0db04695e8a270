//! Runs requests on a model: sequences, their key-value memory, sampling. One [`Engine::step`] schedules, runs the model once
//! over a ragged batch, and accepts what came out.
//!
//! What this crate must not know: HTTP, files, printing, tokenizers (text comes in through a closure), grammars (they come in
//! through a trait), where a draft model comes from.
#![forbid(unsafe_code)]

mod adapters;
mod blocks;
mod constraint;
mod embedding;
mod engine;
mod prefix;
mod refusal;
mod rehearsal;
pub mod sampler;
mod scheduler;
mod sequence;
mod speculation;
mod text;

pub use constraint::{Constraint, Unmet, allows};
pub use embedding::{Embedding, Pooling};
pub use engine::{Engine, Settings};
pub use ounce_model::adapters::{Adapter, Layers};
pub use ounce_tensor::{AdapterId, BLOCK};
pub use refusal::{Failure, Refusal};
pub use rehearsal::Asks;
pub use sequence::{Finish, Output, Request, Scored, SeqId};
pub use speculation::{ShortDraft, Speculated};
pub use text::{Piece, TextStream};
