//! GGUF metadata and tensor shapes to `ModelConfig` and `GenerationConfig`.

use ounce_spec::{
    ModelConfig,
    model::{Activation, GenerationConfig, LayerType, Rope, RopeScaling},
};

use super::{metadata::*, names, *};
use crate::config::{MAX_LAYERS, MAX_SIZE, alternating, check};

/// Texts of tokens that end a turn. Files name one end-of-sequence token; chat models stop at these too.
const END_OF_TURN: [&str; 6] = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>"];
/// `tokenizer.ggml.token_type` of tokens that are not text.
const CONTROL: i32 = 3;

/// Metadata under the prefix of its architecture, with every problem collected.
struct Reader<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
    problems: Vec<String>,
}

impl<'a> Reader<'a> {
    fn keep<T>(&mut self, result: Result<Option<T>, GgufError>) -> Option<T> {
        result.unwrap_or_else(|error| {
            self.problems.push(error.to_string());
            None
        })
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A size between 1 and `MAX_SIZE`. Some files give one for each layer: then all must be equal.
    fn size(&mut self, key: &str) -> Option<usize> {
        let key = self.key(key);
        let value = match self.metadata.get(&key) {
            Some(Value::Array(_)) => {
                let values = self.keep(self.metadata.i32s(&key))?;
                if values.is_empty() || values.iter().any(|v| *v != values[0]) {
                    self.problems.push(format!("{key:?} differs between layers, which is not supported"));
                    return None;
                }
                values[0].try_into().unwrap_or(0)
            }
            _ => self.keep(self.metadata.usize(&key))?,
        };
        if (1..=MAX_SIZE).contains(&value) {
            return Some(value);
        }
        self.problems.push(format!("{key:?} is {value}, expected 1 to {MAX_SIZE}"));
        None
    }

    fn needed(&mut self, key: &str) -> usize {
        if !self.metadata.contains(&self.key(key)) {
            self.problems.push(format!("{:?} is missing", self.key(key)));
        }
        self.size(key).unwrap_or(1)
    }

    fn positive(&mut self, key: &str) -> Option<f32> {
        let key = self.key(key);
        let value = self.keep(self.metadata.f32(&key))?;
        if value.is_finite() && value > 0.0 {
            return Some(value);
        }
        self.problems.push(format!("{key:?} is {value}, expected a number above 0"));
        None
    }

    fn str(&mut self, key: &str) -> Option<&'a str> {
        let key = self.key(key);
        self.keep(self.metadata.str(&key))
    }

    fn token(&mut self, key: &str) -> Option<u32> {
        // Minus one, as i32 or as its bits, is how some converters say that there is none.
        match self.metadata.get(key) {
            Some(Value::I32(-1) | Value::I64(-1) | Value::U32(u32::MAX)) => None,
            _ => self.keep(self.metadata.u32(key)),
        }
    }
}

/// Reads the configuration. On failure, everything that is wrong.
pub(super) fn read(file: &File) -> Result<ModelConfig, Vec<String>> {
    let metadata = &file.metadata;
    let one = |error: GgufError| vec![error.to_string()];
    let architecture = metadata.str("general.architecture").map_err(one)?;
    let architecture = architecture.ok_or_else(|| vec!["metadata key \"general.architecture\" is missing".into()])?;
    let known: Vec<&str> = names::ARCHITECTURES.iter().map(|(name, _)| *name).collect();
    let Some((_, model_type)) = names::ARCHITECTURES.iter().find(|(name, _)| *name == architecture) else {
        return Err(vec![format!("architecture {architecture:?} is not supported ({} are)", known.join(", "))]);
    };
    let mut reader = Reader { metadata, architecture, problems: vec![] };
    let config = config(&mut reader, model_type, &file.tensors);
    if reader.problems.is_empty() {
        reader.problems = check(&config);
    }
    if reader.problems.is_empty() { Ok(config) } else { Err(reader.problems) }
}

fn config(reader: &mut Reader, model_type: &str, tensors: &[Tensor]) -> ModelConfig {
    let find = |name: &str| tensors.iter().find(|tensor| tensor.name == name);
    let has = |name: &str| find(name).is_some();
    let gpt2 = model_type == "gpt2";
    let gemma = model_type == "gemma3_text";
    if reader.metadata.u64(&reader.key("expert_count")).is_ok_and(|count| count.is_some_and(|count| count > 0)) {
        reader.problems.push("models with experts are not supported".into());
    }
    if reader.metadata.u64("split.count").is_ok_and(|count| count.is_some_and(|count| count > 1)) {
        reader.problems.push("the model is split over several files; merge them with llama-gguf-split --merge".into());
    }
    let hidden_size = reader.needed("embedding_length");
    let layers = reader.needed("block_count");
    let heads = reader.needed("attention.head_count");
    let kv_heads = reader.size("attention.head_count_kv").unwrap_or(heads);
    let head_dim = reader.size("attention.key_length").unwrap_or(hidden_size / heads);
    if reader.size("attention.value_length").is_some_and(|length| length != head_dim) {
        reader.problems.push("heads whose values differ in length from their keys are not supported".into());
    }
    if reader.size("rope.dimension_count").is_some_and(|count| count != head_dim) && !gpt2 {
        reader.problems.push(format!("rope over a part of the {head_dim} dimensions of a head is not supported"));
    }
    let norm = if gpt2 { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
    let vocab_size = match find("token_embd.weight").map(|tensor| tensor.shape.as_slice()) {
        Some([rows, _]) => *rows,
        _ => {
            reader.problems.push("tensor \"token_embd.weight\" is missing or is not a matrix".into());
            1
        }
    };
    let theta = reader.positive("rope.freq_base").unwrap_or(if gemma { 1e6 } else { 10_000.0 });
    let max_position_embeddings = reader.needed("context_length");
    let rope = Rope { theta, scaling: scaling(reader, find("rope_freqs.weight"), max_position_embeddings) };
    let (mut sliding_window, mut layer_types) = (None, vec![LayerType::FullAttention; layers.min(MAX_LAYERS)]);
    let mut rope_local = None;
    if gemma {
        let none = reader.metadata.u64(&reader.key("attention.sliding_window")) == Ok(Some(0));
        sliding_window = if none { None } else { reader.size("attention.sliding_window") };
        if sliding_window.is_some() {
            layer_types = pattern(reader, layers.min(MAX_LAYERS));
        }
        let local = reader.positive("rope.freq_base_swa").unwrap_or(10_000.0);
        rope_local = Some(Rope { theta: local, scaling: RopeScaling::None });
    }
    let bos_token_id = reader.token("tokenizer.ggml.bos_token_id");
    let pad_token_id = reader.token("tokenizer.ggml.padding_token_id");
    let mut config = ModelConfig {
        model_type: model_type.into(),
        architectures: vec![crate::config::architecture(model_type).unwrap_or_default().into()],
        vocab_size,
        hidden_size,
        intermediate_size: reader.needed("feed_forward_length"),
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim,
        max_position_embeddings,
        norm_eps: reader.positive(norm).unwrap_or(1e-5),
        hidden_act: if gpt2 || gemma { Activation::GeluTanh } else { Activation::Silu },
        tie_word_embeddings: !has("output.weight"),
        qkv_bias: has("blk.0.attn_q.bias") || gpt2,
        o_bias: has("blk.0.attn_output.bias") || gpt2,
        mlp_bias: has("blk.0.ffn_up.bias") || gpt2,
        rope,
        rope_local,
        sliding_window,
        layer_types,
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
        final_logit_softcapping: reader.positive("final_logit_softcapping"),
        bos_token_id,
        eos_token_id: ends(reader),
        pad_token_id,
    };
    if gemma {
        config.attention_scale = gemma3_scale(&config);
    }
    config
}

/// The factor on Gemma 3's attention scores, which its metadata does not hold: that of the heads' width, but for the 27B
/// model, which is known by its layers.
pub(super) fn gemma3_scale(config: &ModelConfig) -> f32 {
    let width = match config.num_hidden_layers {
        62 => config.hidden_size as f32 / config.num_attention_heads as f32,
        _ => config.head_dim as f32,
    };
    1.0 / width.sqrt()
}

/// How rope is stretched: by a tensor of divisors, or as the metadata says.
fn scaling(reader: &mut Reader, divisors: Option<&Tensor>, max_position_embeddings: usize) -> RopeScaling {
    if let Some(tensor) = divisors {
        let data = crate::TensorData { dtype: tensor.dtype, shape: tensor.shape.clone(), bytes: tensor.bytes.clone() };
        return match data.to_f32() {
            Some(factors) if factors.iter().all(|f| f.is_finite() && *f > 0.0) => RopeScaling::Factors { factors },
            _ => {
                reader.problems.push("tensor \"rope_freqs.weight\" does not hold finite numbers above 0".into());
                RopeScaling::None
            }
        };
    }
    match reader.str("rope.scaling.type") {
        // Before scaling types there was one factor, `rope.scale_linear`.
        None => match reader.positive("rope.scale_linear") {
            Some(factor) if factor != 1.0 => RopeScaling::Linear { factor },
            _ => RopeScaling::None,
        },
        Some("none") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: reader.positive("rope.scaling.factor").unwrap_or(1.0) },
        Some("yarn") => RopeScaling::Yarn {
            factor: reader.positive("rope.scaling.factor").unwrap_or(1.0),
            original_max_position_embeddings: reader
                .size("rope.scaling.original_context_length")
                .unwrap_or(max_position_embeddings),
            beta_fast: reader.positive("rope.scaling.yarn_beta_fast").unwrap_or(32.0),
            beta_slow: reader.positive("rope.scaling.yarn_beta_slow").unwrap_or(1.0),
            attention_factor: reader.positive("rope.scaling.yarn_attn_factor"),
        },
        Some(other) => {
            reader.problems.push(format!("rope scaling of type {other:?} is not supported (none, linear, yarn are)"));
            RopeScaling::None
        }
    }
}

/// Which layers slide: a list of bools, a period, or Gemma 3's five of six.
fn pattern(reader: &mut Reader, layers: usize) -> Vec<LayerType> {
    let key = reader.key("attention.sliding_window_pattern");
    if let Some(Value::Array(Array::Bool(slides))) = reader.metadata.get(&key) {
        let kind = |slides: &bool| if *slides { LayerType::SlidingAttention } else { LayerType::FullAttention };
        return slides.iter().map(kind).collect();
    }
    alternating(layers, reader.size("attention.sliding_window_pattern").unwrap_or(6))
}

/// All tokens that end a generation: those the metadata names, and control tokens known to end a turn.
fn ends(reader: &mut Reader) -> Vec<u32> {
    let named = ["eos_token_id", "eot_token_id", "eom_token_id"];
    let mut ids: Vec<u32> = named.iter().filter_map(|key| reader.token(&format!("tokenizer.ggml.{key}"))).collect();
    let types = reader.keep(reader.metadata.i32s("tokenizer.ggml.token_type")).unwrap_or_default();
    let tokens = reader.keep(reader.metadata.strings("tokenizer.ggml.tokens")).cloned().unwrap_or_default();
    let control = types.iter().enumerate().filter(|(_, kind)| **kind == CONTROL).map(|(id, _)| id);
    ids.extend(control.filter(|&id| tokens.get(id).is_some_and(|t| END_OF_TURN.contains(&t))).map(|id| id as u32));
    let mut seen = std::collections::HashSet::new();
    ids.retain(|id| seen.insert(*id));
    ids
}

/// The sampling settings that a file recommends.
pub(super) fn generation(metadata: &Metadata, config: &ModelConfig) -> Result<GenerationConfig, Vec<String>> {
    let mut reader = Reader { metadata, architecture: "general.sampling", problems: vec![] };
    let mut number = |key: &str| reader.keep(metadata.f32(&format!("general.sampling.{key}")));
    let (temperature, top_p, min_p) = (number("temp"), number("top_p"), number("min_p"));
    let repetition_penalty = number("penalty_repeat");
    let top_k = metadata.get("general.sampling.top_k").and_then(|value| match value {
        // llama.cpp turns top-k off with 0 or less.
        Value::I32(k) => Some((*k).max(0) as u32),
        _ => reader.keep(metadata.u32("general.sampling.top_k")),
    });
    let generation = GenerationConfig {
        temperature,
        top_p,
        top_k,
        min_p,
        repetition_penalty,
        max_new_tokens: None,
        do_sample: temperature.map(|t| t > 0.0),
        eos_token_id: config.eos_token_id.clone(),
    };
    if reader.problems.is_empty() { Ok(generation) } else { Err(reader.problems) }
}
