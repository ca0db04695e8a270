//! Qwen2 (Yang et al. 2024): Llama with biases on q, k and v, which the configuration carries.

pub use super::llama::build;
