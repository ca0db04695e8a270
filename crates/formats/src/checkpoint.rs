//! Opening a model, whatever it is stored as: a Hugging Face directory or a GGUF file. Whether the tensors fit the
//! configuration is for the model's family to say.

use std::path::{Path, PathBuf};

use ounce_spec::{ModelConfig, model::GenerationConfig};

use crate::{OpenError, Restore, TensorData, Tensors, config, gguf, safetensors_file};

/// How a model is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    HuggingFace,
    Gguf,
}

/// An opened model: its configuration, and its weights as views of mapped files.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The directory, or the GGUF file.
    pub path: PathBuf,
    pub kind: Kind,
    /// Its `eos_token_id` are all tokens that end a generation, also those of `generation_config.json`.
    pub config: ModelConfig,
    pub generation: GenerationConfig,
    /// Under Hugging Face names; linear weights are `[n_out, n_in]`, gpt2's too.
    pub tensors: Tensors,
    /// The metadata of a GGUF file, which holds its tokenizer and chat template.
    pub gguf: Option<gguf::Metadata>,
}

/// Opens a `.gguf` file, a Hugging Face model directory, or a directory that holds exactly one `.gguf` file.
pub fn open(path: &Path) -> Result<Checkpoint, OpenError> {
    let metadata = std::fs::metadata(path).map_err(|source| OpenError::Io { path: path.into(), source })?;
    if !metadata.is_dir() {
        return gguf::import(path);
    }
    if path.join("config.json").is_file() {
        return open_directory(path);
    }
    let mut files = gguf_files(path)?;
    match (files.pop(), files.len()) {
        (Some(file), 0) => gguf::import(&file),
        (Some(_), more) => {
            let why = format!("it has no config.json but {} gguf files; name one of them", more + 1);
            Err(OpenError::NotAModel { path: path.into(), why })
        }
        (None, _) if path.join("adapter_config.json").is_file() => {
            let why = "it holds an adapter; give its base model, and the directory as the adapter".into();
            Err(OpenError::NotAModel { path: path.into(), why })
        }
        (None, _) => {
            let why = "it has neither config.json nor a gguf file".into();
            Err(OpenError::NotAModel { path: path.into(), why })
        }
    }
}

fn gguf_files(dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let io = |source| OpenError::Io { path: dir.into(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "gguf") && path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

fn open_directory(dir: &Path) -> Result<Checkpoint, OpenError> {
    let config_path = dir.join("config.json");
    let text = read_text(&config_path)?;
    let mut config = config::parse(&text).map_err(|problems| OpenError::problems(&config_path, problems))?;
    let generation_path = dir.join("generation_config.json");
    let mut generation = GenerationConfig::default();
    if generation_path.is_file() {
        generation = config::parse_generation(&read_text(&generation_path)?)
            .map_err(|problems| OpenError::problems(&generation_path, problems))?;
    }
    for &id in &generation.eos_token_id {
        if !config.eos_token_id.contains(&id) {
            config.eos_token_id.push(id);
        }
    }
    let stored = safetensors_file::read_model(dir, &wanted)?;
    let tensors = canonical(&config, stored).map_err(|problems| OpenError::problems(dir, problems))?;
    Ok(Checkpoint { path: dir.into(), kind: Kind::HuggingFace, config, generation, tensors, gguf: None })
}

/// Text files of a model are small; 64 MiB is far above the largest and keeps a wrong file from filling the memory.
const MAX_TEXT: u64 = 64 << 20;

/// Reads a text file of a model.
pub(crate) fn read_text(path: &Path) -> Result<String, OpenError> {
    let io = |source| OpenError::Io { path: path.into(), source };
    let metadata = std::fs::metadata(path).map_err(io)?;
    let why = if !metadata.is_file() {
        Some("it is not a regular file".to_owned())
    } else if metadata.len() > MAX_TEXT {
        Some(format!("it has {} bytes, at most {MAX_TEXT} are read", metadata.len()))
    } else {
        None
    };
    match why {
        Some(why) => Err(OpenError::Json { path: path.into(), why }),
        None => std::fs::read_to_string(path).map_err(io),
    }
}

/// Which stored tensors are weights of a language model: not the buffers that old checkpoints carry along, and not the
/// vision parts of a model that also sees.
fn wanted(name: &str) -> bool {
    let buffer =
        name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
    let vision = ["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    !buffer && !vision
}

/// Gives tensors the names of the causal language model's class, and gpt2's weights the shape `[n_out, n_in]`.
fn canonical(config: &ModelConfig, stored: Tensors) -> Result<Tensors, Vec<String>> {
    let gpt2 = config.model_type == "gpt2";
    let (mut tensors, mut problems) = (Tensors::new(), Vec::new());
    for (stored_name, tensor) in stored {
        let name = canonical_name(gpt2, &stored_name);
        let tensor = if gpt2 && is_conv1d(&name) { transposed(&tensor) } else { Ok(tensor) };
        match tensor {
            Ok(tensor) => {
                if tensors.insert(name.clone(), tensor).is_some() {
                    problems.push(format!("two tensors are called {name} once prefixes are removed"));
                }
            }
            Err(why) => problems.push(format!("{stored_name}: {why}")),
        }
    }
    if problems.is_empty() { Ok(tensors) } else { Err(problems) }
}

/// Some checkpoints were saved without the outer class (no `model.`), or by the class that also sees images.
fn canonical_name(gpt2: bool, name: &str) -> String {
    let (prefix, starts): (&str, &[&str]) = match gpt2 {
        true => ("transformer.", &["h.", "wte.", "wpe.", "ln_f."]),
        false => ("model.", &["layers.", "embed_tokens.", "norm."]),
    };
    let inner =
        name.strip_prefix("model.language_model.").or_else(|| name.strip_prefix("language_model.")).unwrap_or(name);
    match starts.iter().any(|start| inner.starts_with(start)) {
        true => format!("{prefix}{inner}"),
        false => inner.to_owned(),
    }
}

/// Whether a gpt2 tensor is a `Conv1D` weight, stored `[n_in, n_out]`.
pub(crate) fn is_conv1d(name: &str) -> bool {
    ["c_attn.weight", "c_proj.weight", "c_fc.weight"].iter().any(|end| name.ends_with(end))
}

/// A plain matrix with rows and columns exchanged.
pub(crate) fn transposed(tensor: &TensorData) -> Result<TensorData, String> {
    let [rows, columns] = tensor.shape[..] else {
        return Err(format!("its shape is {:?}, expected a matrix", tensor.shape));
    };
    let turn = Restore::Transposed { rows, columns, size: tensor.dtype.block_bytes() };
    let bytes = tensor.bytes.clone().restored(turn);
    Ok(TensorData { dtype: tensor.dtype, shape: vec![columns, rows], bytes })
}
