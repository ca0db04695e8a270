//! What a checkpoint holds of a run, and getting it back: parameters, optimizer state, and where the run stood.

use std::io::{self, Read};
use std::path::Path;

use ounce_data::{Batches, Cursor, DataError};
use ounce_optim::{ArrayType, Buffer, BufferMut};
use ounce_tensor::kernels::Out;
use serde::{Deserialize, Serialize};

use crate::checkpoint::tensors::{self, Dtype, ReadError, Tensor, Wanted};
use crate::checkpoint::{self, Blob, CheckpointError, Saved, Snapshot};
use crate::scale::LossScale;
use crate::tiers::copy::bytes_each;
use crate::trainer::Trainer;
use crate::vfs::Vfs;

const PARAMS: &str = "params.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const BEST: &str = "best.safetensors";

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimizer steps done.
    pub step: usize,
    /// Tokens seen: also where the random numbers stand.
    pub tokens: u64,
    /// Seconds spent in steps, over all parts of the run.
    pub train_s: f64,
    pub best_loss: Option<f64>,
    /// BLAKE3 of the file with the parameters of that evaluation; such a file is kept where `patience` is set.
    pub best_hash: Option<String>,
    pub valid_loss: Option<f64>,
    pub evals_since_best: usize,
    /// The evaluation after this step is still to be done: a signal broke it off.
    #[serde(default)]
    pub eval_pending: bool,
    /// Of a run with f16 activations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// Length of the metrics log.
    pub log_bytes: u64,
    pub cursor: Option<Cursor>,
}

/// A checkpoint that is whole but does not fit this run.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(
        "{path}: the recipe, the data or the base model has changed since this checkpoint was made; start a new run, or restore them"
    )]
    OtherRecipe { path: String },
    #[error("{path} does not fit this run: {}", problems.join("; "))]
    Mismatch { path: String, problems: Vec<String> },
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("cannot access {path}: {source}")]
    Io { path: String, source: std::io::Error },
}

/// Writes a checkpoint of the run as it stands.
pub fn save(
    vfs: &dyn Vfs,
    dir: &Path,
    recipe_hash: &str,
    trainer: &Trainer,
    progress: &Progress,
    keep: usize,
) -> Result<Saved, CheckpointError> {
    let (params, optimizer) = (params(trainer), optimizer(trainer));
    let snapshot = Snapshot {
        step: progress.step,
        world_size: 1,
        recipe_hash: recipe_hash.into(),
        meta: serde_json::to_value(progress).expect("plain data"),
        blobs: vec![
            (PARAMS.into(), Blob::stream(|out| tensors::write(out, &params))),
            (OPTIMIZER.into(), Blob::stream(|out| tensors::write(out, &optimizer))),
        ],
    };
    let saved = checkpoint::save(vfs, dir, &snapshot, keep);
    trainer.copied();
    saved
}

/// Puts the newest usable checkpoint back, which has one of these hashes; `None` if there is none. Also returns what was passed
/// over.
pub fn restore(
    vfs: &dyn Vfs,
    dir: &Path,
    recipe_hashes: &[String],
    trainer: &mut Trainer,
    batches: &mut Batches,
) -> Result<Option<(Progress, Vec<String>)>, StateError> {
    let Some(loaded) = checkpoint::load_latest(vfs, dir)? else { return Ok(None) };
    let path = loaded.path.display().to_string();
    if !recipe_hashes.contains(&loaded.manifest.recipe_hash) {
        return Err(StateError::OtherRecipe { path });
    }
    let mismatch = |problems| StateError::Mismatch { path: path.clone(), problems };
    let progress: Progress =
        serde_json::from_value(loaded.manifest.meta.clone()).map_err(|e| mismatch(vec![e.to_string()]))?;
    for (name, fill) in [(PARAMS, fill_params as Fill), (OPTIMIZER, fill_optimizer)] {
        let mut file = loaded.open(vfs, name)?;
        match fill(&mut file, trainer) {
            Ok(()) => file.finish()?,
            Err(ReadError::Tensors(e)) => return Err(mismatch(e.problems)),
            Err(ReadError::Io(source)) => {
                return Err(StateError::Io { path: file.path().display().to_string(), source });
            }
        }
    }
    if let Some(cursor) = &progress.cursor {
        batches.restore(cursor)?;
    }
    trainer.loss_scale = progress.loss_scale;
    checkpoint::discard_after(vfs, dir, progress.step)?;
    Ok(Some((progress, loaded.warnings)))
}

/// Keeps the parameters of the best evaluation beside the checkpoints, for early stopping. Returns the file's BLAKE3.
pub fn save_best(vfs: &dyn Vfs, dir: &Path, trainer: &Trainer) -> Result<String, StateError> {
    let (path, temporary) = (dir.join(BEST), dir.join("best.tmp"));
    let write = || {
        let params = params(trainer);
        let mut hasher = blake3::Hasher::new();
        tensors::write(&mut hasher, &params)?;
        let mut file = vfs.create(&temporary)?;
        let mut out = std::io::BufWriter::with_capacity(1 << 20, &mut file);
        tensors::write(&mut out, &params)?;
        std::io::Write::flush(&mut out)?;
        drop(out);
        file.sync()?;
        drop(file);
        vfs.rename(&temporary, &path)?;
        vfs.sync_dir(dir)?;
        Ok(hasher.finalize().to_hex().to_string())
    };
    let written = write();
    trainer.copied();
    written.map_err(|source| {
        // Half of it would only fill the disk.
        let _ = vfs.remove_file(&temporary);
        StateError::Io { path: path.display().to_string(), source }
    })
}

/// Puts the parameters of the best evaluation back, from the file that `progress` remembers.
pub fn load_best(vfs: &dyn Vfs, dir: &Path, trainer: &mut Trainer, progress: &Progress) -> Result<(), StateError> {
    let path = dir.join(BEST);
    let failed = |source| StateError::Io { path: path.display().to_string(), source };
    let mismatch = |problems| StateError::Mismatch { path: path.display().to_string(), problems };
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(vfs.open(&path).map_err(failed)?).map_err(failed)?;
    if progress.best_hash.as_deref() != Some(hasher.finalize().to_hex().as_str()) {
        return Err(mismatch(vec!["it is not the file of the best evaluation: it was damaged or edited".into()]));
    }
    match fill_params(&mut vfs.open(&path).map_err(failed)?, trainer) {
        Ok(()) => Ok(()),
        Err(ReadError::Tensors(e)) => Err(mismatch(e.problems)),
        Err(ReadError::Io(source)) => Err(failed(source)),
    }
}

type Fill = fn(&mut dyn Read, &mut Trainer) -> Result<(), ReadError>;

fn fill_params(from: &mut dyn Read, trainer: &mut Trainer) -> Result<(), ReadError> {
    let wanted: Vec<Wanted> =
        params(trainer).into_iter().map(|t| Wanted { name: t.name, dtype: t.dtype, elements: t.elements }).collect();
    tensors::read(from, &wanted, &mut |i, at, bytes| {
        if let Some((tiers, array)) = trainer.tiers.as_ref().and_then(|tiers| Some((tiers, tiers.weights(i)?))) {
            return tiers.pour_back(&array, at, bytes).map_err(io::Error::other);
        }
        let p = trainer.trained[i];
        let into: &mut [u8] = match trainer.tensor_mut(p).output() {
            Out::F32(values) => bytemuck::cast_slice_mut(values),
            Out::Bf16(values) => bytemuck::cast_slice_mut(values),
            Out::F16(_) => unreachable!("trained parameters are f32 or bf16"),
        };
        into[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    })?;
    filled(trainer)
}

fn fill_optimizer(from: &mut dyn Read, trainer: &mut Trainer) -> Result<(), ReadError> {
    let wanted: Vec<Wanted> =
        optimizer(trainer).into_iter().map(|t| Wanted { name: t.name, dtype: t.dtype, elements: t.elements }).collect();
    // Of each tensor, whose it is, and which of the arrays there.
    let arrays =
        |i: usize| trainer.tiers.as_ref().map_or(0, |t| t.moments(i).len()) + trainer.states[i].buffers().len();
    let places: Vec<(usize, usize)> =
        (0..trainer.trained.len()).flat_map(|i| (0..arrays(i)).map(move |k| (i, k))).collect();
    tensors::read(from, &wanted, &mut |number, at, bytes| {
        let (i, k) = places[number];
        if let Some(tiers) = trainer.tiers.as_ref().filter(|tiers| tiers.has(i)) {
            return tiers.pour_back(&tiers.moments(i)[k], at, bytes).map_err(io::Error::other);
        }
        let into: &mut [u8] = match trainer.states[i].buffers_mut().swap_remove(k).1 {
            BufferMut::F32(values) => bytemuck::cast_slice_mut(values),
            BufferMut::Bf16(values) => bytemuck::cast_slice_mut(values),
            BufferMut::U8(values) => values,
        };
        into[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    })?;
    filled(trainer)
}

fn filled(trainer: &mut Trainer) -> Result<(), ReadError> {
    trainer.tiers.as_mut().map_or(Ok(()), |tiers| tiers.filled().map_err(|e| io::Error::other(e).into()))
}

fn dtype(array: ArrayType) -> Dtype {
    match array {
        ArrayType::F32 => Dtype::F32,
        ArrayType::Bf16 => Dtype::BF16,
        ArrayType::U8 => Dtype::U8,
    }
}

/// The trained parameters under their names.
fn params(trainer: &Trainer) -> Vec<Tensor<'_>> {
    let of = |(i, p): (usize, &ounce_tensor::ParamId)| {
        let values = trainer.values(i);
        let param = &trainer.model.params[*p];
        let (rows, cols) = param.weight.shape();
        Tensor {
            name: param.name.clone(),
            shape: vec![rows, cols],
            dtype: dtype(values.array()),
            elements: rows * cols,
            pour: Box::new(move |out| values.pour(out)),
        }
    };
    trainer.trained.iter().enumerate().map(of).collect()
}

fn optimizer(trainer: &Trainer) -> Vec<Tensor<'_>> {
    let mut all = Vec::new();
    for (i, (&p, state)) in trainer.trained.iter().zip(&trainer.states).enumerate() {
        let name = &trainer.model.params[p].name;
        for (buffer, values) in state.buffers() {
            let (array, bytes): (_, &[u8]) = match values {
                Buffer::F32(values) => (ArrayType::F32, bytemuck::cast_slice(values)),
                Buffer::Bf16(values) => (ArrayType::Bf16, bytemuck::cast_slice(values)),
                Buffer::U8(values) => (ArrayType::U8, values),
            };
            let elements = bytes.len() / bytes_each(array);
            all.push(flat(format!("{name}.{buffer}"), array, elements, Box::new(|out| out.write_all(bytes))));
        }
        let Some(tiers) = &trainer.tiers else { continue };
        for array in tiers.moments(i) {
            let (name, of, elements) = (array.name.clone(), array.array, array.elements);
            all.push(flat(name, of, elements, Box::new(move |out| tiers.pour(&array, out))));
        }
    }
    all
}

fn flat(name: String, array: ArrayType, elements: usize, pour: tensors::Pour<'_>) -> Tensor<'_> {
    Tensor { name, shape: vec![elements], dtype: dtype(array), elements, pour }
}
