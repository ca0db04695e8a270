//! From a checkpoint's tensors to [`Params`]: names and shapes are checked, all problems collected.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ounce_formats::{Bytes, Checkpoint, TensorData};
use ounce_spec::DType;
use ounce_tensor::{Device, Elem, HeldBytes, ParamId, Params, Purpose, Stored, Tensor, Weight};

use crate::error::LoadError;
use crate::linear::Linear;

/// Collects parameters for a family under construction.
pub struct Loader<'a> {
    pub device: &'a Device,
    checkpoint: &'a Checkpoint,
    params: Params,
    problems: Vec<String>,
    used: BTreeSet<String>,
}

impl<'a> Loader<'a> {
    pub fn new(device: &'a Device, checkpoint: &'a Checkpoint) -> Loader<'a> {
        Loader { device, checkpoint, params: Params::default(), problems: Vec::new(), used: BTreeSet::new() }
    }

    /// A weight matrix `[n, k]` in whatever format it is stored, used in `segment`.
    pub fn matrix(&mut self, name: &str, n: usize, k: usize, segment: usize) -> ParamId {
        let weight = match self.find(name, &[n, k]) {
            Some(data) => stored(data, n, k),
            None => Weight::Dense(Tensor::empty(&Device::dry(), Elem::F32, n, k, Purpose::Weights)),
        };
        self.insert(name, weight, segment)
    }

    /// A vector `[c]` (norm weight, bias), held as f32.
    pub fn vector(&mut self, name: &str, c: usize, segment: usize) -> ParamId {
        let weight = match self.find(name, &[c]) {
            Some(data) => {
                let bytes = if self.device.is_dry() { data.bytes.clone() } else { data.bytes.owned() };
                let data = TensorData { bytes, ..data.clone() };
                Weight::Dense(stored(&data, 1, c).to_f32(self.device, Purpose::Weights))
            }
            None => Weight::Dense(Tensor::empty(&Device::dry(), Elem::F32, 1, c, Purpose::Weights)),
        };
        self.insert(name, weight, segment)
    }

    /// `module.weight [n, k]` and, if `bias`, `module.bias [n]`.
    pub fn linear(&mut self, module: &str, n: usize, k: usize, bias: bool, segment: usize) -> Linear {
        let weight = self.matrix(&format!("{module}.weight"), n, k, segment);
        let bias = bias.then(|| self.vector(&format!("{module}.bias"), n, segment));
        Linear { module: module.to_string(), segment, weight, bias, lora: None, beside: BTreeMap::new() }
    }

    /// The output layer: `lm_head.weight`, or the embedding again if tied.
    pub fn head(&mut self, embedding: ParamId, v: usize, c: usize, tied: bool, segment: usize) -> ParamId {
        if tied {
            self.params.used_in(embedding, segment);
            return embedding;
        }
        self.matrix("lm_head.weight", v, c, segment)
    }

    /// The parameters, or everything that was wrong.
    pub fn finish(self, tied: bool) -> Result<Params, LoadError> {
        let mut problems = self.problems;
        for (name, _) in self.checkpoint.tensors.iter() {
            let ignored = (tied && name == "lm_head.weight")
                || name.ends_with("rotary_emb.inv_freq")
                || name.ends_with(".attn.bias")
                || name.ends_with(".attn.masked_bias");
            if !self.used.contains(name) && !ignored {
                problems
                    .push(format!("{name}: in the file, but not part of the model that its configuration describes"));
            }
        }
        if problems.is_empty() {
            return Ok(self.params);
        }
        let missing_head = problems.iter().any(|p| p.starts_with("lm_head.weight: missing"));
        let hint = match missing_head {
            true => "tie_word_embeddings is false in the configuration, but the file looks tied",
            false => "",
        };
        let path = self.checkpoint.path.display().to_string();
        Err(LoadError::Mismatch { path, problems, hint: hint.into() })
    }

    fn find(&mut self, name: &str, shape: &[usize]) -> Option<&'a TensorData> {
        let Some((key, data)) = lookup(self.checkpoint, name) else {
            self.problems.push(format!("{name}: missing"));
            return None;
        };
        self.used.insert(key.to_string());
        if data.shape != shape {
            self.problems.push(format!("{name}: file has {:?}, the configuration needs {shape:?}", data.shape));
            return None;
        }
        Some(data)
    }

    fn insert(&mut self, name: &str, weight: Weight, segment: usize) -> ParamId {
        let id = self.params.add(name, weight);
        self.params.used_in(id, segment);
        id
    }
}

/// A parameter's tensor, and its name in the checkpoint.
pub(crate) fn lookup<'a, 'n>(checkpoint: &'a Checkpoint, name: &'n str) -> Option<(&'n str, &'a TensorData)> {
    // Checkpoints of GPT-2 exist with and without the `transformer.` prefix.
    let bare = name.strip_prefix("transformer.").unwrap_or(name);
    [name, bare].into_iter().find_map(|key| Some((key, checkpoint.tensors.get(key)?)))
}

/// What the address of a tensor must be a multiple of.
pub(crate) fn alignment(dtype: DType) -> usize {
    match dtype {
        DType::F32 => 4,
        DType::F16 | DType::BF16 => 2,
        _ => 1,
    }
}

/// A checkpoint's bytes as weights see them.
struct FileBytes {
    bytes: Bytes,
    /// Whether they have been let go: from then on, rows are read one by one and bring nothing of the rest back.
    forgotten: AtomicBool,
}

impl Stored for FileBytes {
    fn hold(&self) -> HeldBytes<'_> {
        HeldBytes::Here(&self.bytes)
    }
    fn hold_once(&self) -> HeldBytes<'_> {
        HeldBytes::Made(Box::new(self.bytes.made_once()))
    }
    fn forget(&self, range: Range<usize>) {
        self.bytes.slice(range).forget();
        self.forgotten.store(true, Relaxed);
    }
    fn hold_rows(&self, _: &Device, ids: &[u32], row_bytes: usize) -> Option<(HeldBytes<'static>, Vec<u32>)> {
        if !self.forgotten.load(Relaxed) || !self.bytes.is_mapped() {
            return None;
        }
        let rows = Bytes::build(ids.len() * row_bytes, |rows| {
            for (row, id) in rows.chunks_exact_mut(row_bytes).zip(ids) {
                self.bytes.copy_to(*id as usize * row_bytes, row);
            }
        });
        Some((HeldBytes::Made(Box::new(rows)), (0..ids.len() as u32).collect()))
    }
}

/// A view of the file's bytes as a weight. Misaligned data is copied.
fn stored(data: &TensorData, rows: usize, cols: usize) -> Weight {
    let bytes = data.bytes.clone().aligned_to(alignment(data.dtype));
    Weight::Stored {
        dtype: data.dtype,
        rows,
        cols,
        bytes: Arc::new(FileBytes { bytes, forgotten: AtomicBool::new(false) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_bytes_that_were_let_go_are_read_alone() {
        let path = std::env::temp_dir().join(format!("ounce-rows-{}", std::process::id()));
        std::fs::write(&path, b"..aabbccdd").expect("a file is written");
        let bytes = Bytes::map(&path).expect("it is mapped").slice(2..10);
        let file = FileBytes { bytes, forgotten: AtomicBool::new(false) };
        let device = Device::dry();
        assert!(file.hold_rows(&device, &[3, 1], 2).is_none());
        file.forget(0..8);
        let (rows, ids) = file.hold_rows(&device, &[3, 1, 3], 2).expect("rows alone");
        assert_eq!((&*rows, ids), (&b"ddbbdd"[..], vec![0, 1, 2]));
        assert_eq!(&*file.hold(), b"aabbccdd");
        std::fs::remove_file(&path).expect("it is removed");
    }
}
