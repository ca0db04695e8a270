//! `config.json` to `ModelConfig`, one function for each family's own fields.

use ounce_spec::{
    ModelConfig,
    model::{Activation, LayerType, Rope, RopeScaling},
};
use serde_json::{Map, Value};

use super::{MAX_LAYERS, MODEL_TYPES, fields::Fields, rope};

/// Reads the text of a `config.json`. On failure, everything that is wrong with it.
pub fn parse(text: &str) -> Result<ModelConfig, Vec<String>> {
    let json: Value = serde_json::from_str(text).map_err(|error| vec![error.to_string()])?;
    let Value::Object(object) = json else { return Err(vec!["it is not a JSON object".into()]) };
    let Some(model_type) = object.get("model_type").and_then(Value::as_str) else {
        return Err(vec!["model_type is missing".into()]);
    };
    let mut problems = Vec::new();
    if let Some(method) = object.get("quantization_config").filter(|value| !value.is_null()) {
        let method = method.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
        problems.push(format!(
            "quantization_config: weights quantised by {method:?} are not supported; use the unquantised model or a gguf"
        ));
    }
    let empty = Map::new();
    let (mut config, more) = match model_type {
        "llama" => read(&object, llama),
        "mistral" => read(&object, mistral),
        "qwen2" => read(&object, qwen2),
        "qwen3" => read(&object, qwen3),
        "gemma3_text" => read(&object, gemma3),
        // The text part of the model that also sees images; its own fields are in text_config.
        "gemma3" => {
            let text = object.get("text_config").and_then(Value::as_object).unwrap_or(&empty);
            let mut merged = text.clone();
            for key in ["bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"] {
                if let (None, Some(value)) = (merged.get(key), object.get(key)) {
                    merged.insert(key.into(), value.clone());
                }
            }
            read(&merged, gemma3)
        }
        "gpt2" => read(&object, gpt2),
        other => {
            problems.push(format!("model_type {other:?} is not supported ({} are)", MODEL_TYPES.join(", ")));
            return Err(problems);
        }
    };
    problems.extend(more);
    if problems.is_empty() {
        config.architectures = vec![super::architecture(&config.model_type).unwrap_or_default().into()];
        Ok(config)
    } else {
        Err(problems)
    }
}

/// Runs a family's function, then the checks that all share.
fn read(object: &Map<String, Value>, family: fn(&mut Fields) -> ModelConfig) -> (ModelConfig, Vec<String>) {
    let mut fields = Fields { object, problems: vec![] };
    let config = family(&mut fields);
    if fields.problems.is_empty() {
        fields.problems = check(&config);
    }
    (config, fields.problems)
}

/// Relations between sizes that every family needs; also used for configurations that come from a GGUF.
pub(crate) fn check(config: &ModelConfig) -> Vec<String> {
    let mut problems = Vec::new();
    let ModelConfig { num_attention_heads: heads, num_key_value_heads: kv, head_dim, .. } = *config;
    if config.num_hidden_layers > MAX_LAYERS {
        problems.push(format!("num_hidden_layers is {}, at most {MAX_LAYERS} are supported", config.num_hidden_layers));
    }
    if kv == 0 || heads % kv != 0 {
        problems.push(format!("num_attention_heads {heads} is not a multiple of num_key_value_heads {kv}"));
    }
    if head_dim == 0 || (config.model_type != "gpt2" && head_dim % 2 != 0) {
        problems.push(format!("head_dim {head_dim} is not an even number above 0"));
    }
    if heads.checked_mul(head_dim).is_none_or(|width| width > super::MAX_SIZE) {
        problems.push(format!("num_attention_heads {heads} times head_dim {head_dim} is too large"));
    }
    // The one size that is computed: gpt2's default is four times the width.
    if config.intermediate_size > super::MAX_SIZE {
        problems.push(format!("intermediate_size {} is too large", config.intermediate_size));
    }
    if config.layer_types.len() != config.num_hidden_layers {
        let (types, layers) = (config.layer_types.len(), config.num_hidden_layers);
        problems.push(format!("layer_types has {types} entries for {layers} layers"));
    }
    if config.sliding_window.is_none() && config.layer_types.contains(&LayerType::SlidingAttention) {
        problems.push("layer_types has sliding layers but sliding_window is missing".into());
    }
    problems
}

/// A configuration with the sizes that all but gpt2 spell alike, and the plain choices of Llama.
fn common(fields: &mut Fields, model_type: &str) -> ModelConfig {
    let hidden_size = fields.needed("hidden_size");
    let num_attention_heads = fields.needed("num_attention_heads");
    let num_hidden_layers = fields.needed("num_hidden_layers");
    let head_dim = fields.size("head_dim").unwrap_or_else(|| {
        if !hidden_size.is_multiple_of(num_attention_heads) {
            fields.problems.push(format!(
                "hidden_size {hidden_size} is not a multiple of num_attention_heads {num_attention_heads} and \
                 head_dim is missing"
            ));
        }
        hidden_size / num_attention_heads
    });
    let num_key_value_heads = fields.size("num_key_value_heads").unwrap_or(num_attention_heads);
    base(fields, model_type, hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim)
}

fn base(
    fields: &mut Fields,
    model_type: &str,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
) -> ModelConfig {
    ModelConfig {
        model_type: model_type.into(),
        architectures: vec![],
        vocab_size: 0,
        hidden_size,
        intermediate_size: 0,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        max_position_embeddings: 0,
        norm_eps: 1e-6,
        hidden_act: Activation::Silu,
        tie_word_embeddings: fields.bool("tie_word_embeddings").unwrap_or(false),
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        rope_local: None,
        sliding_window: None,
        layer_types: vec![LayerType::FullAttention; num_hidden_layers.min(MAX_LAYERS)],
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
        final_logit_softcapping: None,
        bos_token_id: fields.token("bos_token_id"),
        eos_token_id: fields.tokens("eos_token_id"),
        pad_token_id: fields.token("pad_token_id"),
    }
}

/// What Llama, Mistral and Qwen share beyond `common`.
fn llama_like(fields: &mut Fields, model_type: &str, positions: usize) -> ModelConfig {
    let mut config = common(fields, model_type);
    config.vocab_size = fields.needed("vocab_size");
    config.intermediate_size = fields.needed("intermediate_size");
    config.max_position_embeddings = fields.size("max_position_embeddings").unwrap_or(positions);
    config.norm_eps = fields.positive("rms_norm_eps").unwrap_or(1e-6);
    config.hidden_act = activation(fields, "hidden_act", Activation::Silu);
    (config.rope, _) = rope::parse(fields, 10_000.0, None, config.max_position_embeddings);
    config
}

fn llama(fields: &mut Fields) -> ModelConfig {
    let mut config = llama_like(fields, "llama", 2048);
    let bias = fields.bool("attention_bias").unwrap_or(false);
    (config.qkv_bias, config.o_bias) = (bias, bias);
    config.mlp_bias = fields.bool("mlp_bias").unwrap_or(false);
    config
}

fn mistral(fields: &mut Fields) -> ModelConfig {
    let mut config = llama_like(fields, "mistral", 131_072);
    // Absent means 4,096; null means none (as Mistral 7B v0.2 and later have it).
    config.sliding_window =
        if fields.object.contains_key("sliding_window") { fields.size("sliding_window") } else { Some(4096) };
    if config.sliding_window.is_some() {
        config.layer_types.fill(LayerType::SlidingAttention);
    }
    config
}

fn qwen2(fields: &mut Fields) -> ModelConfig {
    let mut config = llama_like(fields, "qwen2", 32_768);
    config.qkv_bias = true;
    qwen_windows(fields, &mut config);
    config
}

fn qwen3(fields: &mut Fields) -> ModelConfig {
    let stated = fields.get("head_dim").is_some();
    let mut config = llama_like(fields, "qwen3", 32_768);
    if !stated {
        config.head_dim = 128;
        config.attention_scale = 1.0 / 128f32.sqrt();
        fields.problems.retain(|problem| !problem.ends_with("head_dim is missing"));
    }
    let bias = fields.bool("attention_bias").unwrap_or(false);
    (config.qkv_bias, config.o_bias) = (bias, bias);
    qwen_windows(fields, &mut config);
    config
}

/// Qwen's windows: off unless `use_sliding_window`; then the layers from `max_window_layers` on slide.
fn qwen_windows(fields: &mut Fields, config: &mut ModelConfig) {
    let window = fields.size("sliding_window").unwrap_or(4096);
    // Not a size: 0 lets every layer slide.
    let first = fields.get("max_window_layers").and_then(Value::as_u64).unwrap_or(28) as usize;
    if !fields.bool("use_sliding_window").unwrap_or(false) {
        return;
    }
    config.sliding_window = Some(window);
    match layer_types(fields) {
        Some(types) => config.layer_types = types,
        None => {
            for kind in config.layer_types.iter_mut().skip(first) {
                *kind = LayerType::SlidingAttention;
            }
        }
    }
}

fn gemma3(fields: &mut Fields) -> ModelConfig {
    let hidden_size = fields.size("hidden_size").unwrap_or(2304);
    let layers = fields.size("num_hidden_layers").unwrap_or(26);
    let heads = fields.size("num_attention_heads").unwrap_or(8);
    let kv_heads = fields.size("num_key_value_heads").unwrap_or(4);
    let head_dim = fields.size("head_dim").unwrap_or(256);
    let mut config = base(fields, "gemma3_text", hidden_size, layers, heads, kv_heads, head_dim);
    config.tie_word_embeddings = fields.bool("tie_word_embeddings").unwrap_or(true);
    config.vocab_size = fields.size("vocab_size").unwrap_or(262_208);
    config.intermediate_size = fields.size("intermediate_size").unwrap_or(9216);
    config.max_position_embeddings = fields.size("max_position_embeddings").unwrap_or(131_072);
    config.norm_eps = fields.positive("rms_norm_eps").unwrap_or(1e-6);
    config.hidden_act = activation(fields, "hidden_activation", Activation::GeluTanh);
    let bias = fields.bool("attention_bias").unwrap_or(false);
    (config.qkv_bias, config.o_bias) = (bias, bias);
    (config.rope, config.rope_local) = rope::parse(fields, 1e6, Some(10_000.0), config.max_position_embeddings);
    config.attention_scale = 1.0 / fields.positive("query_pre_attn_scalar").unwrap_or(256.0).sqrt();
    config.final_logit_softcapping = fields.positive("final_logit_softcapping");
    if fields.positive("attn_logit_softcapping").is_some() {
        fields.problems.push("attn_logit_softcapping is not supported".into());
    }
    if fields.bool("use_bidirectional_attention").unwrap_or(false) {
        fields.problems.push("use_bidirectional_attention is not supported".into());
    }
    config.sliding_window = Some(fields.size("sliding_window").unwrap_or(4096));
    // transformers writes the pattern with or without an underscore in front.
    let pattern = fields.size("sliding_window_pattern").or_else(|| fields.size("_sliding_window_pattern")).unwrap_or(6);
    config.layer_types = layer_types(fields).unwrap_or_else(|| alternating(config.layer_types.len(), pattern));
    config
}

/// Layers of which every `pattern`-th attends to everything and the others to a window.
pub(crate) fn alternating(layers: usize, pattern: usize) -> Vec<LayerType> {
    let kind = |layer: usize| match (layer + 1) % pattern {
        0 => LayerType::FullAttention,
        _ => LayerType::SlidingAttention,
    };
    (0..layers).map(kind).collect()
}

fn gpt2(fields: &mut Fields) -> ModelConfig {
    let hidden_size = fields.size("n_embd").unwrap_or(768);
    let layers = fields.size("n_layer").unwrap_or(12);
    let heads = fields.size("n_head").unwrap_or(12);
    if !hidden_size.is_multiple_of(heads) {
        fields.problems.push(format!("n_embd {hidden_size} is not a multiple of n_head {heads}"));
    }
    let mut config = base(fields, "gpt2", hidden_size, layers, heads, heads, hidden_size / heads);
    config.tie_word_embeddings = fields.bool("tie_word_embeddings").unwrap_or(true);
    config.vocab_size = fields.size("vocab_size").unwrap_or(50_257);
    config.intermediate_size = fields.size("n_inner").unwrap_or(4 * hidden_size);
    config.max_position_embeddings = fields.size("n_positions").or_else(|| fields.size("n_ctx")).unwrap_or(1024);
    config.norm_eps = fields.positive("layer_norm_epsilon").unwrap_or(1e-5);
    config.hidden_act = activation(fields, "activation_function", Activation::GeluTanh);
    (config.qkv_bias, config.o_bias, config.mlp_bias) = (true, true, true);
    for (key, plain) in [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false)] {
        if fields.bool(key).is_some_and(|value| value != plain) {
            fields.problems.push(format!("{key} {} is not supported", !plain));
        }
    }
    config
}

fn activation(fields: &mut Fields, key: &str, default: Activation) -> Activation {
    match fields.str(key) {
        None => default,
        Some("silu" | "swish") => Activation::Silu,
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Activation::GeluTanh,
        Some("gelu") => Activation::Gelu,
        Some("relu") => Activation::Relu,
        Some(other) => {
            fields.problems.push(format!("{key} {other:?} is not supported (silu, gelu, gelu_new, relu are)"));
            default
        }
    }
}

fn layer_types(fields: &mut Fields) -> Option<Vec<LayerType>> {
    let names = fields.strings("layer_types")?;
    let mut types = Vec::with_capacity(names.len());
    for name in names {
        match name.as_str() {
            "full_attention" => types.push(LayerType::FullAttention),
            "sliding_attention" => types.push(LayerType::SlidingAttention),
            other => {
                fields.problems.push(format!("layer_types: {other:?} is not supported"));
                return None;
            }
        }
    }
    Some(types)
}
