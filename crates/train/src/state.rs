//! What a checkpoint holds of a run, and getting it back: parameters, optimizer state, and where the run stood.

use std::path::Path;

use ounce_data::{Batches, Cursor, DataError};
use ounce_optim::{Buffer, BufferMut};
use ounce_tensor::ParamId;
use ounce_tensor::kernels::{In, Out};
use serde::{Deserialize, Serialize};

use crate::checkpoint::tensors::{self, Data, DataMut, Tensor, TensorsError};
use crate::checkpoint::{self, Blob, CheckpointError, Saved, Snapshot};
use crate::scale::LossScale;
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
    checkpoint::save(vfs, dir, &snapshot, keep)
}

/// Puts the newest usable checkpoint back; `None` if there is none. Also returns what was passed over.
pub fn restore(
    vfs: &dyn Vfs,
    dir: &Path,
    recipe_hash: &str,
    trainer: &mut Trainer,
    batches: &mut Batches,
) -> Result<Option<(Progress, Vec<String>)>, StateError> {
    let Some(loaded) = checkpoint::load_latest(vfs, dir)? else { return Ok(None) };
    let path = loaded.path.display().to_string();
    if loaded.manifest.recipe_hash != recipe_hash {
        return Err(StateError::OtherRecipe { path });
    }
    let mismatch = |problems| StateError::Mismatch { path: path.clone(), problems };
    let progress: Progress =
        serde_json::from_value(loaded.manifest.meta.clone()).map_err(|e| mismatch(vec![e.to_string()]))?;
    fill_params(&loaded.blob(vfs, PARAMS)?, trainer).map_err(|e| mismatch(e.problems))?;
    let bytes = loaded.blob(vfs, OPTIMIZER)?;
    fill_optimizer(&bytes, trainer).map_err(|e| mismatch(e.problems))?;
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
    write().map_err(|source| {
        // Half of it would only fill the disk.
        let _ = vfs.remove_file(&temporary);
        StateError::Io { path: path.display().to_string(), source }
    })
}

/// Puts the parameters of the best evaluation back, from the file that `progress` remembers.
pub fn load_best(vfs: &dyn Vfs, dir: &Path, trainer: &mut Trainer, progress: &Progress) -> Result<(), StateError> {
    let path = dir.join(BEST);
    let mut bytes = Vec::new();
    let read = vfs.open(&path).and_then(|mut file| std::io::Read::read_to_end(&mut file, &mut bytes));
    read.map_err(|source| StateError::Io { path: path.display().to_string(), source })?;
    let path = path.display().to_string();
    if progress.best_hash.as_deref() != Some(blake3::hash(&bytes).to_hex().as_str()) {
        let problems = vec!["it is not the file of the best evaluation: it was damaged or edited".into()];
        return Err(StateError::Mismatch { path, problems });
    }
    fill_params(&bytes, trainer).map_err(|e| StateError::Mismatch { path, problems: e.problems })
}

fn fill_params(bytes: &[u8], trainer: &mut Trainer) -> Result<(), TensorsError> {
    let saved = tensors::parse(bytes)?;
    let mut problems = Vec::new();
    for p in trainer.trained.clone() {
        let name = trainer.model.params[p].name.clone();
        let values = match trainer.tensor_mut(p).output() {
            Out::F32(values) => DataMut::F32(values),
            Out::Bf16(values) => DataMut::Bf16(values),
            Out::F16(_) => unreachable!("trained parameters are f32 or bf16"),
        };
        if let Err(e) = saved.fill(&mut [(name, values)]) {
            problems.extend(e.problems);
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(TensorsError { problems }) }
}

fn fill_optimizer(bytes: &[u8], trainer: &mut Trainer) -> Result<(), TensorsError> {
    let saved = tensors::parse(bytes)?;
    let params = &trainer.model.params;
    let mut all = Vec::new();
    for (&p, state) in trainer.trained.iter().zip(&mut trainer.states) {
        let name = &params[p].name;
        all.extend(state.buffers_mut().into_iter().map(|(buffer, values)| {
            let values = match values {
                BufferMut::F32(values) => DataMut::F32(values),
                BufferMut::Bf16(values) => DataMut::Bf16(values),
                BufferMut::U8(values) => DataMut::U8(values),
            };
            (format!("{name}.{buffer}"), values)
        }));
    }
    saved.fill(&mut all)
}

/// The trained parameters under their names.
fn params(trainer: &Trainer) -> Vec<Tensor<'_>> {
    let of = |&p: &ParamId| {
        let tensor = trainer.tensor(p);
        let name = trainer.model.params[p].name.clone();
        let data = match tensor.input() {
            In::F32(values) => Data::F32(values),
            In::Bf16(values) => Data::Bf16(values),
            In::F16(_) => unreachable!("trained parameters are f32 or bf16"),
        };
        Tensor { name, shape: vec![tensor.rows(), tensor.cols()], data }
    };
    trainer.trained.iter().map(of).collect()
}

fn optimizer(trainer: &Trainer) -> Vec<Tensor<'_>> {
    let mut all = Vec::new();
    for (&p, state) in trainer.trained.iter().zip(&trainer.states) {
        let name = &trainer.model.params[p].name;
        all.extend(state.buffers().into_iter().map(|(buffer, values)| {
            let data = match values {
                Buffer::F32(values) => Data::F32(values),
                Buffer::Bf16(values) => Data::Bf16(values),
                Buffer::U8(values) => Data::U8(values),
            };
            Tensor::flat(format!("{name}.{buffer}"), data)
        }));
    }
    all
}
