//! Qwen3 (Yang et al. 2025): Llama with RMSNorm on each head of q and k instead of biases.

use ounce_spec::ModelConfig;

use super::llama::{self, Llama};
use crate::load::Loader;

pub fn build(config: &ModelConfig, loader: &mut Loader, context: usize) -> Llama {
    let d = config.head_dim;
    llama::build_with(config, loader, context, |loader, name, segment| {
        let q = loader.vector(&format!("{name}.self_attn.q_norm.weight"), d, segment);
        let k = loader.vector(&format!("{name}.self_attn.k_norm.weight"), d, segment);
        Some((q, k, 0.0))
    })
}
