//! Model families: one file each, named by its `model_type`. To add one: its file and a line in [`build`].

mod gemma3_text;
mod gpt2;
mod llama;
mod qwen2;
mod qwen3;

use ounce_spec::ModelConfig;
use ounce_spec::model::{Activation, LayerType};
use ounce_tensor::kernels::{Act, AttnShape};
use ounce_tensor::{Elem, Graph, ParamId, Rows, Var};

use crate::error::LoadError;
use crate::kv::Kv;
use crate::linear::Linear;
use crate::load::Loader;

/// What every family can do: forward code only.
pub trait Family: Send + Sync {
    fn blocks(&self) -> usize;
    /// Token (and position) embeddings `[t, c]` of type `elem`.
    fn embed(&self, g: &mut Graph, rows: &Rows, elem: Elem) -> Var;
    /// The first part of block `i`, in which rows see each other: `[t, c] -> [t, h·d]`, up to its heads. With `kv`, attention sees earlier
    /// positions.
    fn attend(&self, g: &mut Graph, i: usize, x: Var, rows: &Rows, kv: Option<&mut Kv>) -> Var;
    /// The rest of block `i`, in which each row is for itself: from its input `[t, c]` and heads `[t, h·d]` to its output `[t, c]`.
    fn finish(&self, g: &mut Graph, i: usize, x: Var, heads: Var, rows: &Rows) -> Var;
    /// Block `i`: `[t, c] -> [t, c]`.
    fn block(&self, g: &mut Graph, i: usize, x: Var, rows: &Rows, kv: Option<&mut Kv>) -> Var {
        let heads = self.attend(g, i, x, rows, kv);
        self.finish(g, i, x, heads, rows)
    }
    /// The norm before the output layer.
    fn final_norm(&self, g: &mut Graph, x: Var) -> Var;
    /// `[v, c]`
    fn output_weight(&self) -> ParamId;
    /// All linear layers of the blocks: where adapters go.
    fn linears(&self) -> Vec<&Linear>;
    fn linears_mut(&mut self) -> Vec<&mut Linear>;
}

/// The names `build` knows.
pub const SUPPORTED: &[&str] = &["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt2"];

/// The family that `config.model_type` names.
pub fn build(config: &ModelConfig, loader: &mut Loader, context: usize) -> Result<Box<dyn Family>, LoadError> {
    Ok(match config.model_type.as_str() {
        // Mistral is Llama with a sliding window, which the layer types carry.
        "llama" | "mistral" => Box::new(llama::build(config, loader, context)),
        "qwen2" => Box::new(qwen2::build(config, loader, context)),
        "qwen3" => Box::new(qwen3::build(config, loader, context)),
        "gemma3_text" => Box::new(gemma3_text::build(config, loader, context)),
        "gpt2" => Box::new(gpt2::build(config, loader, context)),
        other => return Err(LoadError::UnknownFamily { model_type: other.into() }),
    })
}

fn act(config: &ModelConfig) -> Act {
    match config.hidden_act {
        Activation::Silu => Act::Silu,
        Activation::GeluTanh => Act::GeluTanh,
        Activation::Gelu => Act::Gelu,
        Activation::Relu => Act::Relu,
    }
}

/// The attention shape of layer `i`.
fn attention_shape(config: &ModelConfig, i: usize) -> AttnShape {
    let slides = config.layer_types.get(i) == Some(&LayerType::SlidingAttention);
    AttnShape {
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        scale: config.attention_scale,
        causal: true,
        window: if slides { config.sliding_window } else { None },
    }
}
