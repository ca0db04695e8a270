//! LoRA adapters in the layout of Hugging Face PEFT: `adapter_config.json`, `adapter_model.safetensors`, `README.md`.
//! What is written loads in PEFT, vLLM and llama.cpp's converter. How adapters compute is not known here.

mod pattern;

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Bytes, OpenError, Tensors,
    checkpoint::read_text,
    safetensors_file,
    save::{Info, WriteError, write_bytes},
    vfs::{Vfs, make_dir},
};

pub use pattern::Pattern;

pub const CONFIG: &str = "adapter_config.json";
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// What stands before a module's name in an adapter's tensors.
pub const PREFIX: &str = "base_model.model.";

/// The fields of `adapter_config.json` that decide what a LoRA adapter computes; others are kept in `extra`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    pub peft_type: String,
    #[serde(default)]
    pub task_type: Option<String>,
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    #[serde(default)]
    pub revision: Option<String>,
    /// Rank, where `rank_pattern` says nothing else.
    #[serde(default = "default_rank")]
    pub r: usize,
    #[serde(default = "default_alpha", serialize_with = "whole_as_integer")]
    pub lora_alpha: f32,
    #[serde(default)]
    pub lora_dropout: f32,
    #[serde(default)]
    pub target_modules: Option<Targets>,
    #[serde(default)]
    pub exclude_modules: Option<Targets>,
    #[serde(default = "none_text")]
    pub bias: String,
    #[serde(default)]
    pub fan_in_fan_out: bool,
    /// Scale by `alpha / sqrt(r)` (Kalajdzievski 2023) instead of `alpha / r`.
    #[serde(default)]
    pub use_rslora: bool,
    #[serde(default)]
    pub use_dora: bool,
    #[serde(default = "yes")]
    pub init_lora_weights: Value,
    #[serde(default)]
    pub modules_to_save: Option<Value>,
    /// Ranks of single modules.
    #[serde(default)]
    pub rank_pattern: Pattern<usize>,
    #[serde(default)]
    pub alpha_pattern: Pattern<f32>,
    #[serde(default)]
    pub layers_to_transform: Option<Layers>,
    #[serde(default)]
    pub layers_pattern: Option<Value>,
    #[serde(default)]
    pub inference_mode: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peft_version: Option<String>,
    /// Fields that are not known here, as they were read.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// `target_modules`: names that modules end in, or one regular expression for whole names; `all-linear` is a text too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    Names(Vec<String>),
    Pattern(String),
}

/// `layers_to_transform`: one layer or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Layers {
    One(usize),
    Several(Vec<usize>),
}

fn default_rank() -> usize {
    8
}

fn default_alpha() -> f32 {
    8.0
}

fn none_text() -> String {
    "none".into()
}

fn yes() -> Value {
    Value::Bool(true)
}

/// PEFT and vLLM declare `lora_alpha` as an integer, and write 16, not 16.0.
fn whole_as_integer<S: serde::Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    const EXACT: f32 = (1 << 24) as f32;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f32(*value)
    }
}

impl AdapterConfig {
    /// A plain LoRA adapter for a causal language model, as this program trains it.
    pub fn lora(base: &str, r: usize, lora_alpha: f32, target_modules: Vec<String>) -> Self {
        AdapterConfig {
            peft_type: "LORA".into(),
            task_type: Some("CAUSAL_LM".into()),
            base_model_name_or_path: Some(base.into()),
            revision: None,
            r,
            lora_alpha,
            lora_dropout: 0.0,
            target_modules: Some(Targets::Names(target_modules)),
            exclude_modules: None,
            bias: "none".into(),
            fan_in_fan_out: false,
            use_rslora: false,
            use_dora: false,
            init_lora_weights: Value::Bool(true),
            modules_to_save: None,
            rank_pattern: Pattern::default(),
            alpha_pattern: Pattern::default(),
            layers_to_transform: None,
            layers_pattern: None,
            inference_mode: true,
            peft_version: None,
            extra: Map::new(),
        }
    }

    /// `lora_alpha` of one module, with `alpha_pattern` seen to.
    pub fn alpha_of(&self, module: &str) -> f32 {
        self.alpha_pattern.of(module).unwrap_or(self.lora_alpha)
    }

    /// Rank of one module, with `rank_pattern` seen to.
    pub fn rank_of(&self, module: &str) -> usize {
        self.rank_pattern.of(module).unwrap_or(self.r)
    }

    /// The factor on `B A x` for one module.
    pub fn scaling_of(&self, module: &str) -> f32 {
        let rank = self.rank_of(module) as f32;
        self.alpha_of(module) / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Everything in the configuration that this program cannot carry out.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.peft_type != "LORA" {
            problems.push(format!("peft_type {:?} is not supported (LORA is)", self.peft_type));
        }
        if self.use_dora {
            problems.push("use_dora is not supported; merge the adapter with PEFT first".into());
        }
        if self.bias != "none" {
            problems.push(format!("bias {:?} is not supported (none is)", self.bias));
        }
        let empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        if self.modules_to_save.as_ref().is_some_and(|value| !empty(value)) {
            problems.push("modules_to_save is not supported: the adapter holds whole weights".into());
        }
        let ranks = self.rank_pattern.0.iter().map(|(key, rank)| (format!("rank_pattern {key:?}"), *rank));
        for (what, rank) in ranks.chain([("r".to_owned(), self.r)]) {
            if rank == 0 || rank > crate::config::MAX_SIZE {
                problems.push(format!("{what} is {rank}, expected 1 or more"));
            }
        }
        let alphas = self.alpha_pattern.0.iter().map(|(key, alpha)| (format!("alpha_pattern {key:?}"), *alpha));
        for (what, alpha) in alphas.chain([("lora_alpha".to_owned(), self.lora_alpha)]) {
            if !alpha.is_finite() {
                problems.push(format!("{what} is {alpha}, expected a finite number"));
            }
        }
        // PEFT reads the keys as regular expressions; plain names are all that its own saves hold.
        let ranks = self.rank_pattern.0.iter().map(|(key, _)| key);
        for key in ranks.chain(self.alpha_pattern.0.iter().map(|(key, _)| key)) {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if !key.strip_prefix('^').unwrap_or(key).chars().all(plain) {
                problems
                    .push(format!("the pattern {key:?} is a regular expression, which is not supported; name modules"));
            }
        }
        // Fields of newer PEFT versions that change what an adapter computes. Absent, null, false and empty are fine.
        for key in [
            "lora_bias",
            "target_parameters",
            "trainable_token_indices",
            "layer_replication",
            "use_qalora",
            "alora_invocation_tokens",
            "use_bdlora",
            "arrow_config",
        ] {
            let inactive = |v: &Value| empty(v) || *v == Value::Bool(false) || v.as_object().is_some_and(Map::is_empty);
            if self.extra.get(key).is_some_and(|value| !inactive(value)) {
                problems.push(format!("{key} is not supported"));
            }
        }
        problems
    }
}

/// Reads the text of an `adapter_config.json`. On failure, everything that is wrong with it.
pub fn parse_config(text: &str) -> Result<AdapterConfig, Vec<String>> {
    let config: AdapterConfig = serde_json::from_str(text).map_err(|error| vec![error.to_string()])?;
    let problems = config.problems();
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// Reads an adapter directory. Its tensors keep their names, `base_model.model.<module>.lora_A.weight` `[r, n_in]` and
/// `….lora_B.weight` `[n_out, r]`; that both are there and agree with the configuration is checked here.
pub fn read_adapter(dir: &Path) -> Result<(AdapterConfig, Tensors), OpenError> {
    read_with(dir, &|weights| safetensors_file::read(weights, &|_| true))
}

/// As [`read_adapter`], for a server: weights of at most `most_bytes` are copied out of their file at once, so that whoever
/// cuts the file short afterwards does nothing to the process.
pub fn read_adapter_copied(dir: &Path, most_bytes: u64) -> Result<(AdapterConfig, Tensors), OpenError> {
    read_with(dir, &|weights| {
        let bytes = read_bytes(weights, most_bytes)?;
        safetensors_file::parse(&bytes, &|_| true).map_err(|problems| OpenError::problems(weights, problems))
    })
}

fn read_with(
    dir: &Path,
    read: &dyn Fn(&Path) -> Result<Tensors, OpenError>,
) -> Result<(AdapterConfig, Tensors), OpenError> {
    let config_path = dir.join(CONFIG);
    let config =
        parse_config(&read_text(&config_path)?).map_err(|problems| OpenError::problems(&config_path, problems))?;
    let weights = dir.join(WEIGHTS);
    if !weights.is_file() && dir.join("adapter_model.bin").is_file() {
        let why = format!("its weights are pickled, which can run code; save them as {WEIGHTS} with PEFT");
        return Err(OpenError::problems(dir, vec![why]));
    }
    let tensors = read(&weights)?;
    let problems = tensor_problems(&config, &tensors);
    if problems.is_empty() { Ok((config, tensors)) } else { Err(OpenError::problems(weights, problems)) }
}

/// A whole regular file of at most `most` bytes, in memory.
fn read_bytes(path: &Path, most: u64) -> Result<Bytes, OpenError> {
    let io = |source| OpenError::Io { path: path.into(), source };
    let metadata = std::fs::metadata(path).map_err(io)?;
    let refused = match () {
        () if !metadata.is_file() => Some("it is not a regular file".to_owned()),
        () if metadata.len() > most => Some(format!("it has {} bytes, at most {most} are read", metadata.len())),
        () => None,
    };
    if let Some(why) = refused {
        return Err(OpenError::problems(path, vec![why]));
    }
    // It may grow meanwhile; what is read of it stays within the limit.
    let (file, mut read) = (std::fs::File::open(path).map_err(io)?, Vec::new());
    file.take(most).read_to_end(&mut read).map_err(io)?;
    Ok(Bytes::copy_of(&read))
}

/// A tensor's module and whether it is A or B; `None` for other tensors.
pub fn split_key(name: &str) -> Option<(&str, Side)> {
    let inner = name.strip_prefix(PREFIX)?;
    let side = |end: &str, side| inner.strip_suffix(end).map(|module| (module, side));
    side(".lora_A.weight", Side::A).or_else(|| side(".lora_B.weight", Side::B))
}

/// One of the two matrices of an adapter: `ΔW = scaling · B A`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `[r, n_in]`
    A,
    /// `[n_out, r]`
    B,
}

/// The name of an adapter's tensor.
pub fn key(module: &str, side: Side) -> String {
    let side = match side {
        Side::A => "A",
        Side::B => "B",
    };
    format!("{PREFIX}{module}.lora_{side}.weight")
}

/// What is wrong with an adapter's tensors by themselves; whether they fit a model is for the model to say.
pub fn tensor_problems(config: &AdapterConfig, tensors: &Tensors) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, tensor) in tensors.iter() {
        let Some((module, side)) = split_key(name) else {
            problems.push(format!("{name} is not a LoRA tensor ({PREFIX}<module>.lora_A.weight or lora_B.weight)"));
            continue;
        };
        let rank = config.rank_of(module);
        let (other, fits) = match (side, &tensor.shape[..]) {
            (Side::A, [r, _]) => (Side::B, *r == rank),
            (Side::B, [_, r]) => (Side::A, *r == rank),
            (Side::A, _) => (Side::B, false),
            (Side::B, _) => (Side::A, false),
        };
        if !fits {
            let expected = if side == Side::A { format!("[{rank}, n_in]") } else { format!("[n_out, {rank}]") };
            problems.push(format!("{name}: file has {:?}, {CONFIG} needs {expected}", tensor.shape));
        }
        if !tensors.contains(&key(module, other)) {
            problems.push(format!("{}: missing", key(module, other)));
        }
    }
    if tensors.is_empty() {
        problems.push("it holds no tensors".into());
    }
    problems
}

/// Writes an adapter directory: weights first, the configuration last, so that a directory with a configuration is
/// whole. `readme` is the text below the README's front matter.
///
/// # Errors
/// A configuration or tensors that are no adapter's, all that is wrong with them; those of `vfs`.
pub fn write_adapter(
    vfs: &dyn Vfs,
    dir: &Path,
    config: &AdapterConfig,
    tensors: &Tensors,
    readme: &str,
) -> Result<(), WriteError> {
    let mut problems = config.problems();
    problems.extend(tensor_problems(config, tensors));
    if !problems.is_empty() {
        return Err(WriteError::Problems { path: dir.into(), problems });
    }
    make_dir(vfs, dir).map_err(|source| WriteError::io(dir, source))?;
    let infos: Vec<Info> = tensors
        .iter()
        .map(|(name, tensor)| Info { name: name.into(), dtype: tensor.dtype, shape: tensor.shape.clone() })
        .collect();
    safetensors_file::write_file(vfs, &dir.join(WEIGHTS), &infos, &mut |info| match tensors.get(&info.name) {
        Some(tensor) => Ok((&*tensor.bytes).into()),
        None => Err("it is not there".into()),
    })?;
    write_bytes(vfs, &dir.join("README.md"), front_matter(config, readme).as_bytes())?;
    let path: PathBuf = dir.join(CONFIG);
    let text = serde_json::to_string_pretty(config)
        .map_err(|error| WriteError::Problems { path: path.clone(), problems: vec![error.to_string()] })?;
    write_bytes(vfs, &path, (text + "\n").as_bytes())
}

/// The README: front matter as the hub reads it, then `text`.
fn front_matter(config: &AdapterConfig, text: &str) -> String {
    let base = config.base_model_name_or_path.as_deref().unwrap_or_default();
    let mut out = String::from("---\n");
    if !base.is_empty() {
        // JSON strings are YAML strings, whatever the name holds.
        out += &format!("base_model: {}\n", Value::from(base));
    }
    out += "library_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n- ounce\n---\n\n";
    out + text.trim_end() + "\n"
}
