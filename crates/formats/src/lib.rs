//! Model files: bytes in, checked views out, and back. safetensors, GGUF, Hugging Face directories, PEFT adapters.
//!
//! Everything read here may come from a stranger: sizes are checked against the file before anything is allocated, and
//! no input panics. The crate knows no kernels and computes nothing beyond undoing what converters did to a weight.
//!
//! In memory, tensors have their Hugging Face names and the shape `[n_out, n_in]`. The one family whose files differ is
//! gpt2, whose `Conv1D` weights are stored `[n_in, n_out]`: they are transposed when read and again when written.

#![deny(unsafe_code)]

pub mod bytes;
pub mod checkpoint;
pub mod config;
pub mod direct;
pub mod error;
pub mod gguf;
pub mod group;
pub mod guard;
pub mod hf;
pub mod hub;
pub mod meter;
mod mmap;
pub mod peft;
pub mod prompt;
mod restore;
pub mod safetensors_file;
pub mod save;
pub mod scratch;
pub mod template;
pub mod tensors;
pub mod tokenizer;
pub mod units;
pub mod vfs;

pub use bytes::Bytes;
pub use checkpoint::{Checkpoint, Kind, open};
pub use error::OpenError;
#[cfg(unix)]
pub use mmap::when_lost;
pub use restore::Restore;
pub use save::WriteError;
pub use tensors::{TensorData, Tensors};
