//! Models: forward code only. A family is a file in `families/`, named by its `model_type`; what families share (linear
//! layers with adapters, attention, the gated feed-forward, rope, the KV cache) stands beside it.
//!
//! What this crate must not know: backward passes, parallelism, which device it runs on, optimizers, sampling.
#![forbid(unsafe_code)]

pub mod adapters;
mod attention;
mod error;
pub mod families;
mod hidden;
mod kv;
mod linear;
mod load;
mod mlp;
mod model;
mod rope;
mod stream;

pub use attention::Attention;
pub use error::LoadError;
pub use families::Family;
pub use hidden::Hidden;
pub use kv::{Kv, Part};
pub use linear::{Beside, Linear};
pub use mlp::GatedMlp;
pub use model::{Model, Training};
