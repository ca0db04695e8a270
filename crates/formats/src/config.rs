//! `config.json` and `generation_config.json` of Hugging Face to `ModelConfig` and back. Defaults are those of each
//! family's configuration class in transformers 5; older spellings are read too.

mod families;
mod fields;
mod generation;
mod rope;
mod write;

pub use families::parse;
pub(crate) use families::{alternating, check};
pub use generation::{parse_generation, write_generation};
pub use rope::{llama3_factors, recognize_llama3};
pub(crate) use write::dtype_name;
pub use write::to_json;

/// The families that can be opened, by `model_type`.
pub const MODEL_TYPES: [&str; 6] = ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt2"];

/// The class name that transformers gives a family's causal language model.
pub fn architecture(model_type: &str) -> Option<&'static str> {
    Some(match model_type {
        "llama" => "LlamaForCausalLM",
        "mistral" => "MistralForCausalLM",
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        "gemma3_text" => "Gemma3ForCausalLM",
        "gpt2" => "GPT2LMHeadModel",
        _ => return None,
    })
}

/// Most layers, and the largest value of any other size: what a broken or hostile file may ask memory for.
pub(crate) const MAX_LAYERS: usize = 4096;
pub(crate) const MAX_SIZE: usize = 1 << 31;
