//! A GGUF file as a checkpoint: Hugging Face names, and the converter's changes to weights undone.

use std::path::Path;

use ounce_spec::ModelConfig;

use super::{config, names, *};
use crate::{Bytes, Checkpoint, Kind, OpenError, Restore, TensorData, Tensors};

/// Opens a GGUF file that holds a model.
pub(crate) fn import(path: &Path) -> Result<Checkpoint, OpenError> {
    let bytes = Bytes::map(path).map_err(|source| OpenError::Io { path: path.into(), source })?;
    let file = parse(&bytes).map_err(|source| OpenError::Gguf { path: path.into(), source })?;
    let (config, generation, tensors) = read_model(&file).map_err(|problems| OpenError::problems(path, problems))?;
    let gguf = Some(file.metadata);
    Ok(Checkpoint { path: path.into(), kind: Kind::Gguf, config, generation, tensors, gguf })
}

/// What a GGUF file says of a model.
pub type Translated = (ModelConfig, ounce_spec::model::GenerationConfig, Tensors);

/// A parsed file as configuration and Hugging Face tensors. On failure, everything that is wrong.
pub fn read_model(file: &File) -> Result<Translated, Vec<String>> {
    if let Ok(Some(kind @ ("adapter" | "mmproj" | "imatrix"))) = file.metadata.str("general.type") {
        return Err(vec![format!("the file holds no model but a {kind}")]);
    }
    let config = config::read(file)?;
    let generation = config::generation(&file.metadata, &config)?;
    let (mut tensors, mut problems) = (Tensors::new(), Vec::new());
    for tensor in &file.tensors {
        if tensor.name == "rope_freqs.weight" {
            continue;
        }
        let Some(name) = names::to_hf(&config.model_type, &tensor.name) else {
            problems.push(format!("tensor {:?} does not belong to a {} model", tensor.name, config.model_type));
            continue;
        };
        match restore(&config, tensor) {
            Ok(data) => {
                tensors.insert(name, data);
            }
            Err(why) => problems.push(format!("tensor {:?}: {why}", tensor.name)),
        }
    }
    if problems.is_empty() { Ok((config, generation, tensors)) } else { Err(problems) }
}

/// One tensor as Hugging Face stores it.
fn restore(config: &ModelConfig, tensor: &Tensor) -> Result<TensorData, String> {
    let mut data = TensorData { dtype: tensor.dtype, shape: tensor.shape.clone(), bytes: tensor.bytes.clone() };
    if is_permuted(config, &tensor.name) {
        let rows = data.shape[0];
        if !rows.is_multiple_of(config.head_dim) {
            return Err(format!("{rows} rows are not whole heads of {}", config.head_dim));
        }
        // The rows of a quantised vector are single elements, which cannot be moved.
        if !data.bytes.len().is_multiple_of(rows) {
            return Err(format!("{:?} of type {} cannot be cut into rows", data.shape, data.dtype.name()));
        }
        data.bytes = data.bytes.restored(Restore::Halves { rows, head_dim: config.head_dim });
    }
    if is_shifted(config, &tensor.name) {
        let values = data.to_f32().ok_or_else(|| format!("a norm cannot be {}", data.dtype.name()))?;
        let values: Vec<f32> = values.into_iter().map(|weight| weight - 1.0).collect();
        data = TensorData::from_f32(data.shape, &values);
    }
    Ok(data)
}

/// Whether llama.cpp's converter interleaves this tensor's rows: q and k of its architecture `llama`.
pub(super) fn is_permuted(config: &ModelConfig, name: &str) -> bool {
    matches!(config.model_type.as_str(), "llama" | "mistral")
        && [".attn_q.weight", ".attn_k.weight", ".attn_q.bias", ".attn_k.bias"].iter().any(|end| name.ends_with(end))
}

/// Whether llama.cpp's converter adds 1 to this tensor: Gemma's norms, which Hugging Face applies as 1 + w.
pub(super) fn is_shifted(config: &ModelConfig, name: &str) -> bool {
    config.model_type == "gemma3_text" && name.ends_with("norm.weight")
}
