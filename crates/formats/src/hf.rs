//! Writing a model as a Hugging Face directory that transformers loads: configuration, weights in files of at most
//! 5 GB with an index, and the files that go along.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use ounce_spec::{DType, ModelConfig};
use serde_json::{Map, Value, json};

use crate::{
    Restore, Tensors, WriteError,
    checkpoint::is_conv1d,
    config, safetensors_file,
    save::{BytesOf, Info, check_infos, write_bytes},
    vfs::{Disk, Vfs, make_dir},
};

/// Most bytes of tensors in one file.
pub const SHARD_BYTES: usize = 5_000_000_000;

/// Files of a model directory that are not weights and stay true when weights change.
const COMPANIONS: [&str; 14] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
];

/// Where the files beside the weights come from.
#[derive(Clone, Debug, Default)]
pub struct Companions {
    /// A directory whose tokenizer, template and generation files are copied, and whose `config.json` is kept (with its
    /// `dtype` set right and without its quantisation) if `keep_config`.
    pub source: Option<PathBuf>,
    pub keep_config: bool,
    /// Files to write, by name; they win over copied ones.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Writes a model directory, asking `bytes_of` for each tensor's bytes in turn. Tensors have their in-memory names and
/// shapes (gpt2's linear weights `[n_out, n_in]`; they are transposed here). `config.json` is written last: a directory
/// that has one is whole.
pub fn write_model<'a>(
    vfs: &dyn Vfs,
    dir: &Path,
    config: &ModelConfig,
    infos: &[Info],
    bytes_of: &mut BytesOf<'_, 'a>,
    companions: &Companions,
) -> Result<(), WriteError> {
    write_sharded(vfs, dir, config, infos, bytes_of, companions, SHARD_BYTES)
}

/// As [`write_model`], with tensors that are in memory, and on the real disk.
pub fn write_tensors(
    dir: &Path,
    config: &ModelConfig,
    tensors: &Tensors,
    companions: &Companions,
) -> Result<(), WriteError> {
    let infos: Vec<Info> = tensors
        .iter()
        .map(|(name, tensor)| Info { name: name.into(), dtype: tensor.dtype, shape: tensor.shape.clone() })
        .collect();
    let mut bytes_of = |info: &Info| match tensors.get(&info.name) {
        Some(tensor) => Ok((&*tensor.bytes).into()),
        None => Err("it is not there".into()),
    };
    write_model(&Disk, dir, config, &infos, &mut bytes_of, companions)
}

/// As [`write_model`], with files of at most `shard_bytes` of tensors (one tensor at least).
pub fn write_sharded<'a>(
    vfs: &dyn Vfs,
    dir: &Path,
    config: &ModelConfig,
    infos: &[Info],
    bytes_of: &mut BytesOf<'_, 'a>,
    companions: &Companions,
    shard_bytes: usize,
) -> Result<(), WriteError> {
    check_infos(dir, infos)?;
    let refuse = |problems| WriteError::Problems { path: dir.join("config.json"), problems };
    let text = config_text(config, infos, companions).map_err(refuse)?;
    make_dir(vfs, dir).map_err(|source| WriteError::io(dir, source))?;

    let gpt2 = config.model_type == "gpt2";
    let turned = |info: &Info| gpt2 && is_conv1d(&info.name) && info.shape.len() == 2;
    let stored: Vec<Info> = infos
        .iter()
        .map(|info| {
            let mut stored = info.clone();
            if turned(info) {
                stored.shape.reverse();
            }
            stored
        })
        .collect();
    let mut bytes_of_stored = |stored: &Info| -> Result<Cow<'a, [u8]>, _> {
        let mut info = stored.clone();
        if turned(stored) {
            info.shape.reverse();
            let bytes = bytes_of(&info)?;
            let (rows, columns) = (info.shape[0], info.shape[1]);
            return match info.dtype.is_quantized() {
                // The writer below says what is wrong with it.
                true => Ok(bytes),
                false => {
                    let mut moved = vec![0; bytes.len()];
                    Restore::Transposed { rows, columns, size: info.dtype.block_bytes() }.apply(&mut moved, &bytes);
                    Ok(moved.into())
                }
            };
        }
        bytes_of(&info)
    };
    let written = write_weights(vfs, dir, &stored, &mut bytes_of_stored, shard_bytes)?;
    remove_stale_weights(vfs, dir, &written)?;
    write_companions(vfs, dir, companions)?;
    write_bytes(vfs, &dir.join("config.json"), text.as_bytes())
}

/// Weights in one file, or in several with an index; the names of the files.
fn write_weights<'a>(
    vfs: &dyn Vfs,
    dir: &Path,
    infos: &[Info],
    bytes_of: &mut BytesOf<'_, 'a>,
    shard_bytes: usize,
) -> Result<Vec<String>, WriteError> {
    let mut shards: Vec<Vec<Info>> = vec![vec![]];
    let (mut filled, mut total) = (0usize, 0usize);
    for info in infos {
        let size = info.size_bytes().unwrap_or(0);
        if filled > 0 && filled + size > shard_bytes {
            shards.push(vec![]);
            filled = 0;
        }
        shards.last_mut().into_iter().for_each(|shard| shard.push(info.clone()));
        filled += size;
        total += size;
    }
    if let [only] = &shards[..] {
        safetensors_file::write_file(vfs, &dir.join(safetensors_file::SINGLE), only, bytes_of)?;
        return Ok(vec![safetensors_file::SINGLE.into()]);
    }
    let (mut map, mut written) = (Map::new(), vec![safetensors_file::INDEX.to_owned()]);
    for (i, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        safetensors_file::write_file(vfs, &dir.join(&name), shard, bytes_of)?;
        map.extend(shard.iter().map(|info| (info.name.clone(), Value::from(name.as_str()))));
        written.push(name);
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    write_bytes(vfs, &dir.join(safetensors_file::INDEX), format!("{index:#}\n").as_bytes())?;
    Ok(written)
}

/// Removes weights that an earlier save left in the directory and that readers would take for the new ones'.
fn remove_stale_weights(vfs: &dyn Vfs, dir: &Path, written: &[String]) -> Result<(), WriteError> {
    let entries = vfs.list(dir).map_err(|source| WriteError::io(dir, source))?;
    for name in entries.into_iter().map(|entry| entry.name) {
        let shard = name.starts_with("model-") && name.contains("-of-") && name.ends_with(".safetensors");
        let weights = shard || name == safetensors_file::SINGLE || name == safetensors_file::INDEX;
        if weights && !written.contains(&name) {
            let path = dir.join(name);
            vfs.remove_file(&path).map_err(|source| WriteError::io(&path, source))?;
        }
    }
    Ok(())
}

/// The new `config.json`: the source's own with its `dtype` set right, or one made from `config`.
fn config_text(config: &ModelConfig, infos: &[Info], companions: &Companions) -> Result<String, Vec<String>> {
    // Most elements decide: norms are often f32 in a bf16 model.
    let elements = |dtype: DType| -> usize {
        infos.iter().filter(|info| info.dtype == dtype).map(|info| info.shape.iter().product::<usize>()).sum()
    };
    let dtype = [DType::F32, DType::F16, DType::BF16].into_iter().max_by_key(|&dtype| elements(dtype));
    let dtype = dtype.unwrap_or(DType::F32);
    let Some(source) = companions.source.as_ref().filter(|_| companions.keep_config) else {
        return config::to_json(config, dtype);
    };
    let text = crate::checkpoint::read_text(&source.join("config.json")).map_err(|error| vec![error.to_string()])?;
    let mut json: Map<String, Value> = serde_json::from_str(&text).map_err(|error| vec![error.to_string()])?;
    json.remove("quantization_config");
    let key = if json.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
    json.insert(key.into(), config::dtype_name(dtype).into());
    Ok(format!("{:#}\n", Value::Object(json)))
}

fn write_companions(vfs: &dyn Vfs, dir: &Path, companions: &Companions) -> Result<(), WriteError> {
    let given = |name: &str| companions.files.iter().any(|(file, _)| file == name);
    if let Some(source) = &companions.source {
        for name in COMPANIONS.into_iter().filter(|name| !given(name)) {
            let from = source.join(name);
            if from.is_file() && from != dir.join(name) {
                let bytes = std::fs::read(&from).map_err(|source| WriteError::io(&from, source))?;
                write_bytes(vfs, &dir.join(name), &bytes)?;
            }
        }
    }
    for (name, bytes) in &companions.files {
        if !crate::hub::plain_file_name(name) {
            let problems = vec![format!("{name:?} is not a plain file name")];
            return Err(WriteError::Problems { path: dir.into(), problems });
        }
        write_bytes(vfs, &dir.join(name), bytes)?;
    }
    Ok(())
}
