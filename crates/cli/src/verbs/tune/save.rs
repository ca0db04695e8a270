//! What a finished run leaves for others to load: a PEFT adapter, or a model directory or GGUF file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use ounce_formats::gguf;
use ounce_formats::hf::{self, Companions};
use ounce_formats::peft::{self, AdapterConfig};
use ounce_formats::save::{Info, WriteError};
use ounce_formats::{Kind, TensorData, Tensors};
use ounce_model::Model;
use ounce_model::adapters::lora;
use ounce_optim::ArrayType;
use ounce_spec::DType;
use ounce_spec::Recipe;
use ounce_spec::recipe::Method;
use ounce_train::Trainer;
use ounce_train::vfs::Vfs;

use super::setup::Target;
use crate::codes;
use crate::error::{CliError, Result};

/// Writes the result into the run's directory; the path of what was written.
pub fn write(vfs: &dyn Vfs, dir: &Path, recipe: &Recipe, target: &Target, trainer: &Trainer) -> Result<String> {
    match recipe.method {
        Method::Lora => write_adapter(vfs, dir, recipe, &trainer.model),
        Method::Full => write_model(vfs, dir, target, trainer),
    }
}

/// Commands to go on with.
pub fn next_commands(recipe: &Recipe) -> Vec<String> {
    let (model, out) = (&recipe.model, &recipe.out);
    match recipe.method {
        Method::Lora => vec![
            format!("ounce chat {model} --adapter {out}"),
            format!("ounce eval {model} --adapter {out} --task test.jsonl"),
            format!("ounce merge {model} --adapter {out} --out merged"),
        ],
        Method::Full => vec![format!("ounce chat {out}"), format!("ounce eval {out} --task test.jsonl")],
    }
}

fn write_adapter(vfs: &dyn Vfs, dir: &Path, recipe: &Recipe, model: &Model) -> Result<String> {
    let mut tensors = Tensors::new();
    for (name, shape, values) in lora::saved_tensors(model) {
        tensors.insert(name, TensorData::from_f32(shape, &values));
    }
    let mut config = AdapterConfig::lora(&recipe.model, recipe.lora.rank, recipe.lora.alpha, target_modules(model));
    config.lora_dropout = recipe.lora.dropout;
    config.use_rslora = recipe.lora.rslora;
    if let Some(from) = &recipe.lora.init_from {
        // Its ranks and scales are those of the matrices that were trained on.
        config = peft::read_adapter(from.as_ref())
            .map_err(|e| CliError::of(&codes::ADAPTER, &e).help("restore the adapter that the run started from"))?
            .0;
        config.base_model_name_or_path = Some(recipe.model.clone());
    }
    let readme = format!("A LoRA adapter for {}, tuned with ounce {}.", recipe.model, env!("CARGO_PKG_VERSION"));
    peft::write_adapter(vfs, dir, &config, &tensors, &readme).map_err(|e| unsaved(e, dir))?;
    Ok(dir.join("adapter_model.safetensors").display().to_string())
}

/// The adapted layers for `target_modules`: by last name where every layer of that name is adapted, else by whole name.
fn target_modules(model: &Model) -> Vec<String> {
    let mut whole: BTreeMap<&str, bool> = BTreeMap::new();
    let linears = model.family.linears();
    for linear in &linears {
        *whole.entry(linear.short_name()).or_insert(true) &= linear.lora.is_some();
    }
    let mut out: Vec<String> = whole.iter().filter(|(_, all)| **all).map(|(name, _)| name.to_string()).collect();
    let single = linears.iter().filter(|l| l.lora.is_some() && !whole[l.short_name()]);
    out.extend(single.map(|l| l.module.clone()));
    out
}

/// The bits that were trained: f32, or bf16 where there were no master weights. One tensor is in memory at a time.
fn write_model(vfs: &dyn Vfs, dir: &Path, target: &Target, trainer: &Trainer) -> Result<String> {
    let checkpoint = &target.checkpoint;
    let numbers: BTreeMap<&str, usize> =
        trainer.trained.iter().enumerate().map(|(i, &p)| (&*trainer.model.params[p].name, i)).collect();
    let info = |(name, i): (&&str, &usize)| {
        let dtype = match trainer.values(*i).array() {
            ArrayType::Bf16 => DType::BF16,
            _ => DType::F32,
        };
        Some(Info { name: name.to_string(), dtype, shape: checkpoint.tensors.get(name)?.shape.clone() })
    };
    let infos: Vec<Info> = numbers.iter().filter_map(info).collect();
    let mut bytes_of = |info: &Info| match numbers.get(&*info.name) {
        Some(&i) => Ok(Cow::Owned(trainer.values(i).to_bytes()?)),
        None => Err("it is not there".into()),
    };
    match (checkpoint.kind, &checkpoint.gguf) {
        (Kind::Gguf, Some(metadata)) => {
            let path = dir.join("model.gguf");
            let export =
                gguf::export(&checkpoint.config, &checkpoint.generation, &infos, metadata).map_err(|problems| {
                    let mut out = CliError::new(&codes::WRITE, "the model cannot be written as GGUF");
                    out.details = problems;
                    out.help("tune a Hugging Face copy of the model instead")
                })?;
            export.write_on(vfs, &path, &mut bytes_of).map_err(|e| unsaved(e, dir))?;
            Ok(path.display().to_string())
        }
        _ => {
            let companions = Companions { source: Some(checkpoint.path.clone()), keep_config: true, files: Vec::new() };
            hf::write_model(vfs, dir, &checkpoint.config, &infos, &mut bytes_of, &companions)
                .map_err(|e| unsaved(e, dir))?;
            Ok(dir.display().to_string())
        }
    }
}

/// A failed write of what was trained. The training is done and saved: nothing but the writing is done again.
fn unsaved(error: WriteError, dir: &Path) -> CliError {
    let mut out = write_error(error);
    let first = if out.code.id == codes::DISK_FULL.id { "make room" } else { "see to the disk" };
    out.help = vec![format!("{first}, then write it with: ounce tune --resume {}", dir.display())];
    out
}

/// A failed write of a model or an adapter.
pub fn write_error(error: WriteError) -> CliError {
    match &error {
        WriteError::Io { path, source } => CliError::write(path, source),
        _ => CliError::of(&codes::WRITE, &error).help("see to the disk and run the same command again"),
    }
}
