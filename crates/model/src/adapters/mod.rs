//! Adapters: small trained parts on a frozen model. One file for each method, and one for what comes from files.

mod adapter;
pub mod lora;

pub use adapter::{Adapter, Layers, take_from_beside};
