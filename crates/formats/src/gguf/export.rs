//! A model as a GGUF file that llama.cpp loads: its names, its metadata keys, and its changes to weights (Llama's q and
//! k interleaved, 1 added to Gemma's norms, vectors in f32). Types are the caller's choice; bytes come when asked for.

use std::{borrow::Cow, path::Path};

use ounce_spec::{
    DType, ModelConfig,
    model::{GenerationConfig, LayerType, Rope, RopeScaling},
};

use super::{import, metadata::*, names, write_file};
use crate::{
    Restore, TensorData,
    config::{alternating, llama3_factors},
    save::{BytesOf, Info, WriteError},
    vfs::{Disk, Vfs},
};

/// A GGUF file that is planned: everything but the bytes of its weights.
#[derive(Clone, Debug)]
pub struct Export {
    pub metadata: Metadata,
    config: ModelConfig,
    planned: Vec<Planned>,
    /// What the file cannot say of the model, though it stays usable; one sentence each, for the user.
    pub losses: Vec<String>,
    /// `rope_freqs.weight`, where the model stretches rope by divisors.
    divisors: Option<Vec<f32>>,
}

#[derive(Clone, Debug)]
struct Planned {
    /// Under its Hugging Face name, as the caller gives it.
    source: Info,
    /// Under its GGUF name, as it will be stored.
    stored: Info,
}

/// Plans a file from tensors under Hugging Face names (`infos`, with the types they shall have) and `base`, metadata to
/// keep: that of a GGUF source, or what [`super::vocabulary_metadata`] makes. Keys of the architecture are made anew.
/// On failure, everything that GGUF cannot hold.
pub fn export(
    config: &ModelConfig,
    generation: &GenerationConfig,
    infos: &[Info],
    base: &Metadata,
) -> Result<Export, Vec<String>> {
    let mut problems = Vec::new();
    let Some(architecture) = names::architecture(&config.model_type) else {
        return Err(vec![format!("gguf has no architecture for model_type {:?}", config.model_type)]);
    };
    let mut planned = Vec::new();
    for info in infos {
        // A tied head is the embedding again; GGUF leaves it out.
        if config.tie_word_embeddings && info.name == "lm_head.weight" {
            continue;
        }
        let Some(name) = names::to_gguf(&config.model_type, &info.name) else {
            problems.push(format!("gguf has no name for tensor {}", info.name));
            continue;
        };
        let vector = info.shape.len() == 1;
        if vector && info.dtype.is_quantized() {
            problems.push(format!("tensor {} is a vector, which gguf stores as f32", info.name));
        }
        if import::is_permuted(config, &name) && info.shape.first().is_none_or(|rows| rows % config.head_dim != 0) {
            problems.push(format!("tensor {}: {:?} is not whole heads of {}", info.name, info.shape, config.head_dim));
        }
        let dtype = if vector { DType::F32 } else { info.dtype };
        planned.push(Planned { source: info.clone(), stored: Info { name, dtype, shape: info.shape.clone() } });
    }
    let divisors = divisors(config);
    let (losses, more) = unsaid(config);
    problems.extend(more);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", architecture);
    metadata.set("general.type", "model");
    let prefix = format!("{architecture}.");
    for (key, value) in base.iter() {
        let ours = key.starts_with(&prefix) || key.starts_with("split.") || metadata.contains(key);
        if !ours {
            metadata.set(key, value.clone());
        }
    }
    describe(&mut metadata, architecture, config);
    recommend(&mut metadata, generation);
    metadata.set("general.quantization_version", 2u32);
    metadata.set("general.file_type", file_type(&planned));
    Ok(Export { metadata, config: config.clone(), planned, losses, divisors })
}

impl Export {
    /// The tensors of the file under their GGUF names, in its order.
    pub fn infos(&self) -> Vec<Info> {
        let divisors = self.divisors.iter().map(|divisors| Info {
            name: "rope_freqs.weight".into(),
            dtype: DType::F32,
            shape: vec![divisors.len()],
        });
        divisors.chain(self.planned.iter().map(|planned| planned.stored.clone())).collect()
    }

    /// Writes the file. `bytes_of` is asked for each tensor in turn, under its Hugging Face name, in the type and shape
    /// that were planned.
    pub fn write<'a>(&self, path: &Path, bytes_of: &mut BytesOf<'_, 'a>) -> Result<(), WriteError> {
        self.write_on(&Disk, path, bytes_of)
    }

    /// As [`Export::write`], on a file system of the caller's choice.
    pub fn write_on<'a>(&self, vfs: &dyn Vfs, path: &Path, bytes_of: &mut BytesOf<'_, 'a>) -> Result<(), WriteError> {
        let mut rest = self.planned.iter();
        write_file(vfs, path, &self.metadata, &self.infos(), &mut |stored| {
            if stored.name == "rope_freqs.weight" {
                let values = self.divisors.as_deref().unwrap_or_default();
                return Ok(Cow::Owned(bytemuck::cast_slice(values).to_vec()));
            }
            let planned = rest.next().ok_or("asked for more tensors than were planned")?;
            let bytes = bytes_of(&planned.source)?;
            if Some(bytes.len()) != planned.source.size_bytes() {
                return Err(format!("{} bytes do not fit its type and shape", bytes.len()).into());
            }
            Ok(self.changed(planned, bytes))
        })
    }

    /// A tensor's bytes as llama.cpp wants them.
    fn changed<'a>(&self, planned: &Planned, bytes: Cow<'a, [u8]>) -> Cow<'a, [u8]> {
        let Planned { source, stored } = planned;
        let mut bytes = bytes;
        if import::is_permuted(&self.config, &stored.name) {
            let mut moved = vec![0; bytes.len()];
            let order = Restore::Interleaved { rows: source.shape[0], head_dim: self.config.head_dim };
            order.apply(&mut moved, &bytes);
            bytes = Cow::Owned(moved);
        }
        let shift = if import::is_shifted(&self.config, &stored.name) { 1.0 } else { 0.0 };
        if stored.dtype == source.dtype && shift == 0.0 {
            return bytes;
        }
        let data = TensorData { dtype: source.dtype, shape: source.shape.clone(), bytes: (&*bytes).into() };
        let values = data.to_f32().unwrap_or_default();
        Cow::Owned(values.iter().flat_map(|value| (value + shift).to_le_bytes()).collect())
    }
}

/// What GGUF has no key for: losses that only matter beyond a window, and problems that would change every answer.
fn unsaid(config: &ModelConfig) -> (Vec<String>, Vec<String>) {
    let (mut losses, mut problems) = (vec![], vec![]);
    if config.model_type == "gemma3_text" {
        if config.rope_local.as_ref().is_some_and(|local| local.scaling != RopeScaling::None) {
            problems.push("gguf cannot say that the rope of sliding layers is scaled".into());
        }
        let (scale, implied) = (config.attention_scale, super::config::gemma3_scale(config));
        if (scale - implied).abs() > 1e-6 * implied {
            problems.push(format!("gguf cannot say that attention scores are scaled by {scale} and not {implied}"));
        }
        if period(config).is_none() {
            problems.push("gguf cannot say which layers slide: they follow no period".into());
        }
    } else if let Some(window) = config.sliding_window.filter(|_| slides(config)) {
        let kind = &config.model_type;
        losses.push(format!("gguf has no sliding window for {kind}: beyond {window} tokens its answers will differ"));
    }
    (losses, problems)
}

fn slides(config: &ModelConfig) -> bool {
    config.layer_types.contains(&LayerType::SlidingAttention)
}

/// The period with which full attention recurs among sliding layers.
fn period(config: &ModelConfig) -> Option<usize> {
    let layers = config.layer_types.len();
    let candidates = std::iter::once(6).chain(1..=layers + 1);
    candidates.into_iter().find(|&period| alternating(layers, period) == config.layer_types)
}

/// Divisors of rope's frequencies, for the scalings that GGUF holds as a tensor.
fn divisors(config: &ModelConfig) -> Option<Vec<f32>> {
    match &config.rope.scaling {
        RopeScaling::Factors { factors } => Some(factors.clone()),
        &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            Some(llama3_factors(
                config.rope.theta,
                config.head_dim,
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            ))
        }
        _ => None,
    }
}

/// The keys of the architecture, under the names that llama.cpp's converter gives them.
fn describe(metadata: &mut Metadata, architecture: &str, config: &ModelConfig) {
    let gpt2 = architecture == "gpt2";
    let mut size = |key: &str, value: usize| metadata.set(format!("{architecture}.{key}"), value as u32);
    size("context_length", config.max_position_embeddings);
    size("embedding_length", config.hidden_size);
    size("block_count", config.num_hidden_layers);
    size("feed_forward_length", config.intermediate_size);
    size("vocab_size", config.vocab_size);
    size("attention.head_count", config.num_attention_heads);
    size("attention.head_count_kv", config.num_key_value_heads);
    if gpt2 {
        metadata.set(format!("{architecture}.attention.layer_norm_epsilon"), config.norm_eps);
        return;
    }
    size("attention.key_length", config.head_dim);
    size("attention.value_length", config.head_dim);
    size("rope.dimension_count", config.head_dim);
    if let Some(window) = config.sliding_window.filter(|_| config.model_type == "gemma3_text" && slides(config)) {
        size("attention.sliding_window", window);
        if let Some(period) = period(config).filter(|period| *period != 6) {
            size("attention.sliding_window_pattern", period);
        }
    }
    metadata.set(format!("{architecture}.attention.layer_norm_rms_epsilon"), config.norm_eps);
    metadata.set(format!("{architecture}.rope.freq_base"), config.rope.theta);
    if let Some(Rope { theta, .. }) = config.rope_local {
        metadata.set(format!("{architecture}.rope.freq_base_swa"), theta);
    }
    if let Some(cap) = config.final_logit_softcapping {
        metadata.set(format!("{architecture}.final_logit_softcapping"), cap);
    }
    let scaling = format!("{architecture}.rope.scaling");
    match &config.rope.scaling {
        RopeScaling::Linear { factor } => {
            metadata.set(format!("{scaling}.type"), "linear");
            metadata.set(format!("{scaling}.factor"), *factor);
        }
        RopeScaling::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, attention_factor } => {
            metadata.set(format!("{scaling}.type"), "yarn");
            metadata.set(format!("{scaling}.factor"), *factor);
            metadata.set(format!("{scaling}.original_context_length"), *original_max_position_embeddings as u32);
            metadata.set(format!("{scaling}.yarn_beta_fast"), *beta_fast);
            metadata.set(format!("{scaling}.yarn_beta_slow"), *beta_slow);
            if let Some(factor) = attention_factor {
                metadata.set(format!("{scaling}.yarn_attn_factor"), *factor);
            }
        }
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Factors { .. } => {}
    }
}

/// The makers' sampling settings.
fn recommend(metadata: &mut Metadata, generation: &GenerationConfig) {
    let mut number = |key: &str, value: Option<f32>| {
        if let Some(value) = value {
            metadata.set(format!("general.sampling.{key}"), value);
        }
    };
    number("temp", generation.temperature);
    number("top_p", generation.top_p);
    number("min_p", generation.min_p);
    number("penalty_repeat", generation.repetition_penalty);
    if let Some(k) = generation.top_k {
        metadata.set("general.sampling.top_k", Value::I32(i32::try_from(k).unwrap_or(i32::MAX)));
    }
}

/// llama.cpp's number for a file's overall type: that of most elements.
fn file_type(planned: &[Planned]) -> u32 {
    let number = |dtype: DType| match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Q4_0 => 2,
        DType::Q4_1 => 3,
        DType::Q8_0 => 7,
        DType::Q5_0 => 8,
        DType::Q5_1 => 9,
        DType::Q4_K => 15,
        DType::Q5_K => 17,
        DType::Q6_K => 18,
        DType::BF16 => 32,
    };
    let mut elements = std::collections::BTreeMap::<DType, usize>::new();
    for Planned { stored, .. } in planned {
        *elements.entry(stored.dtype).or_default() += stored.shape.iter().product::<usize>();
    }
    elements.into_iter().max_by_key(|(_, count)| *count).map_or(0, |(dtype, _)| number(dtype))
}
