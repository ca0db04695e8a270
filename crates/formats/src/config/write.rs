//! `ModelConfig` to the `config.json` that transformers 5 reads.

use ounce_spec::{
    DType, ModelConfig,
    model::{Activation, LayerType},
};
use serde_json::{Map, Value, json};

use super::{generation::decimal, rope};

/// The text of a `config.json` for weights of type `dtype`. On failure, everything that it cannot say.
pub fn to_json(config: &ModelConfig, dtype: DType) -> Result<String, Vec<String>> {
    let mut problems = Vec::new();
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| {
        out.insert(key.to_owned(), value);
    };
    let Some(architecture) = super::architecture(&config.model_type) else {
        return Err(vec![format!("model_type {:?} is not known", config.model_type)]);
    };
    put("architectures", json!([architecture]));
    put("model_type", json!(config.model_type));
    put("dtype", json!(dtype_name(dtype)));
    put("vocab_size", json!(config.vocab_size));
    put("tie_word_embeddings", json!(config.tie_word_embeddings));
    put("bos_token_id", json!(config.bos_token_id));
    put("eos_token_id", tokens(&config.eos_token_id).unwrap_or(Value::Null));
    put("pad_token_id", json!(config.pad_token_id));
    if config.model_type == "gpt2" {
        put("n_embd", json!(config.hidden_size));
        put("n_layer", json!(config.num_hidden_layers));
        put("n_head", json!(config.num_attention_heads));
        put("n_inner", json!(config.intermediate_size));
        put("n_positions", json!(config.max_position_embeddings));
        put("layer_norm_epsilon", decimal(config.norm_eps));
        put(
            "activation_function",
            json!(match config.hidden_act {
                // The same function; this is the spelling and the code that gpt2 has always had.
                Activation::GeluTanh => "gelu_new",
                other => activation(other),
            }),
        );
        return finish(out, problems);
    }
    put("hidden_size", json!(config.hidden_size));
    put("intermediate_size", json!(config.intermediate_size));
    put("num_hidden_layers", json!(config.num_hidden_layers));
    put("num_attention_heads", json!(config.num_attention_heads));
    put("num_key_value_heads", json!(config.num_key_value_heads));
    put("head_dim", json!(config.head_dim));
    put("max_position_embeddings", json!(config.max_position_embeddings));
    put("rms_norm_eps", decimal(config.norm_eps));
    let gemma = config.model_type == "gemma3_text";
    put(if gemma { "hidden_activation" } else { "hidden_act" }, json!(activation(config.hidden_act)));
    let main = rope::to_json(&config.rope, config.head_dim);
    let local = config.rope_local.as_ref().map(|local| rope::to_json(local, config.head_dim));
    if main.is_none() || local == Some(None) {
        problems.push("the rope factors of the source fit no rope_type that config.json knows".into());
    }
    let main = main.unwrap_or(Value::Null);
    put(
        "rope_parameters",
        match local {
            Some(local) => json!({ "full_attention": main, "sliding_attention": local }),
            None => main,
        },
    );
    let types: Vec<&str> = config.layer_types.iter().map(|&kind| layer_type(kind)).collect();
    match config.model_type.as_str() {
        "llama" => {
            put("attention_bias", json!(config.qkv_bias));
            put("mlp_bias", json!(config.mlp_bias));
            if config.qkv_bias != config.o_bias {
                problems.push("llama has biases on q, k, v and o together or not at all".into());
            }
        }
        "mistral" => put("sliding_window", json!(config.sliding_window)),
        "qwen2" | "qwen3" => {
            if config.model_type == "qwen3" {
                put("attention_bias", json!(config.qkv_bias));
            }
            put("use_sliding_window", json!(config.sliding_window.is_some()));
            put("sliding_window", json!(config.sliding_window));
            let full = config.layer_types.iter().take_while(|&&kind| kind == LayerType::FullAttention).count();
            put("max_window_layers", json!(full));
            put("layer_types", json!(types));
        }
        _ => {
            put("attention_bias", json!(config.qkv_bias));
            put("query_pre_attn_scalar", scalar(config.attention_scale));
            put("sliding_window", json!(config.sliding_window));
            put("layer_types", json!(types));
            put("final_logit_softcapping", config.final_logit_softcapping.map_or(Value::Null, decimal));
        }
    }
    finish(out, problems)
}

/// The name that torch has for a type; quantised weights are read as floats.
pub(crate) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    }
}

fn finish(out: Map<String, Value>, problems: Vec<String>) -> Result<String, Vec<String>> {
    if problems.is_empty() { Ok(format!("{:#}\n", Value::Object(out))) } else { Err(problems) }
}

/// `query_pre_attn_scalar` of a factor on scores: its inverse square, a whole number wherever one is near.
fn scalar(scale: f32) -> Value {
    let exact = 1.0 / (f64::from(scale) * f64::from(scale));
    let whole = exact.round();
    if (exact - whole).abs() < 1e-4 * exact { json!(whole as u64) } else { json!(exact) }
}

/// No token, one, or a list.
pub(super) fn tokens(ids: &[u32]) -> Option<Value> {
    match ids {
        [] => None,
        [one] => Some(json!(one)),
        many => Some(json!(many)),
    }
}

fn activation(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::Gelu => "gelu",
        Activation::Relu => "relu",
    }
}

fn layer_type(kind: LayerType) -> &'static str {
    match kind {
        LayerType::FullAttention => "full_attention",
        LayerType::SlidingAttention => "sliding_attention",
    }
}
