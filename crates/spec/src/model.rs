//! What a model is: the facts of `config.json` (or of a GGUF's metadata) in one form for every family.

use serde::{Deserialize, Serialize};

/// One configuration for all families; a family reads the fields it knows. Names follow Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// `llama`, `mistral`, `qwen2`, `qwen3`, `gemma3_text`, `gpt2`.
    pub model_type: String,
    pub architectures: Vec<String>,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    /// `rms_norm_eps` or `layer_norm_epsilon`.
    pub norm_eps: f32,
    pub hidden_act: Activation,
    pub tie_word_embeddings: bool,
    /// Biases on q, k and v (Qwen2; Llama with `attention_bias`).
    pub qkv_bias: bool,
    /// Bias on the attention output (Llama with `attention_bias`).
    pub o_bias: bool,
    pub mlp_bias: bool,
    pub rope: Rope,
    /// The rope of sliding-window layers, where it differs (Gemma 3: base 10,000, no scaling).
    pub rope_local: Option<Rope>,
    /// The window of sliding layers; which layers slide is in `layer_types`.
    pub sliding_window: Option<usize>,
    /// One entry per layer.
    pub layer_types: Vec<LayerType>,
    /// Factor on attention scores: `head_dim^-1/2`, or `query_pre_attn_scalar^-1/2`.
    pub attention_scale: f32,
    /// `cap · tanh(logits / cap)`, where the family has it.
    pub final_logit_softcapping: Option<f32>,
    pub bos_token_id: Option<u32>,
    /// All tokens that end a generation.
    pub eos_token_id: Vec<u32>,
    pub pad_token_id: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    Silu,
    /// `gelu_new`, `gelu_pytorch_tanh`.
    GeluTanh,
    Gelu,
    Relu,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerType {
    FullAttention,
    SlidingAttention,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    pub theta: f32,
    pub scaling: RopeScaling,
}

/// How angles are stretched beyond the trained length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rope_type")]
pub enum RopeScaling {
    None,
    Linear {
        factor: f32,
    },
    /// Llama 3.1.
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_max_position_embeddings: usize,
    },
    /// Peng et al. 2023.
    Yarn {
        factor: f32,
        original_max_position_embeddings: usize,
        beta_fast: f32,
        beta_slow: f32,
        attention_factor: Option<f32>,
    },
    /// Divisors of each frequency as a file gives them (GGUF's `rope_freqs.weight`).
    Factors {
        factors: Vec<f32>,
    },
}

/// `generation_config.json`: how the model's makers sample it. Fields that are absent stay `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationConfig {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub max_new_tokens: Option<usize>,
    pub do_sample: Option<bool>,
    #[serde(skip_deserializing)]
    pub eos_token_id: Vec<u32>,
}
