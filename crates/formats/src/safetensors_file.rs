//! safetensors files, one or several with an index, as mapped views; and writing them. Headers are checked by the
//! `safetensors` crate: at most 100 MB, no holes, no overlap, the whole file covered.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::Path,
};

use ounce_spec::DType;
use safetensors::{Dtype, SafeTensors};

use crate::{
    Bytes, OpenError, TensorData, Tensors,
    hub::plain_file_name,
    save::{AtomicFile, BytesOf, Info, WriteError, check_infos, write_tensors},
    vfs::{Disk, Vfs},
};

/// The single file of a model directory.
pub const SINGLE: &str = "model.safetensors";
/// The index of a model directory with several files.
pub const INDEX: &str = "model.safetensors.index.json";

/// Reads one file. `keep` says which tensors are wanted, by name; of the others neither type nor shape matters.
pub fn read(path: &Path, keep: &dyn Fn(&str) -> bool) -> Result<Tensors, OpenError> {
    let bytes = Bytes::map(path).map_err(|source| OpenError::Io { path: path.into(), source })?;
    parse(&bytes, keep).map_err(|problems| match <[String; 1]>::try_from(problems) {
        Ok([why]) => OpenError::Safetensors { path: path.into(), why },
        Err(problems) => OpenError::problems(path, problems),
    })
}

/// As [`read`], from bytes; the tensors share them. On failure, all that is wrong.
pub fn parse(bytes: &Bytes, keep: &dyn Fn(&str) -> bool) -> Result<Tensors, Vec<String>> {
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| {
        let hint = match error {
            safetensors::SafeTensorError::MetadataIncompleteBuffer => " (the file is incomplete or has extra bytes)",
            _ => "",
        };
        vec![format!("{error}{hint}")]
    })?;
    let data = 8 + header;
    let (mut tensors, mut problems) = (Tensors::new(), Vec::new());
    let mut infos: Vec<_> = metadata.tensors().into_iter().filter(|(name, _)| keep(name)).collect();
    infos.sort_by_key(|(_, info)| info.data_offsets);
    for (name, info) in infos {
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                problems.push(format!("{name}: the type {other} is not supported (f32, f16 and bf16 are)"));
                continue;
            }
        };
        // Offsets were checked against the file and the shape by `read_metadata`.
        let (start, end) = info.data_offsets;
        let view = bytes.slice(data + start..data + end).aligned_to(dtype.block_bytes());
        tensors.insert(name, TensorData { dtype, shape: info.shape.clone(), bytes: view });
    }
    if problems.is_empty() { Ok(tensors) } else { Err(problems) }
}

/// Reads the tensors of a model directory: `model.safetensors`, or the files of its index.
pub fn read_model(dir: &Path, keep: &dyn Fn(&str) -> bool) -> Result<Tensors, OpenError> {
    let single = dir.join(SINGLE);
    if single.is_file() {
        return read(&single, keep);
    }
    let index_path = dir.join(INDEX);
    if !index_path.is_file() {
        let why = missing_weights(dir);
        return Err(OpenError::NotAModel { path: dir.into(), why });
    }
    let text =
        std::fs::read_to_string(&index_path).map_err(|source| OpenError::Io { path: index_path.clone(), source })?;
    let map = parse_index(&text).map_err(|problems| OpenError::problems(&index_path, problems))?;
    let files: BTreeSet<&str> = map.values().map(String::as_str).collect();
    let missing: Vec<String> = files
        .iter()
        .filter(|file| !dir.join(file).is_file())
        .map(|file| format!("{file} is listed but is not in the directory"))
        .collect();
    if !missing.is_empty() {
        return Err(OpenError::problems(&index_path, missing));
    }
    let (mut tensors, mut problems) = (Tensors::new(), Vec::new());
    for file in files {
        for (name, tensor) in read(&dir.join(file), keep)? {
            // The index decides: a tensor in a file that it is not listed for is a leftover.
            if map.get(&name).is_some_and(|listed| listed == file) {
                tensors.insert(name, tensor);
            }
        }
    }
    for (name, file) in &map {
        if keep(name) && !tensors.contains(name) {
            problems.push(format!("{name} is listed for {file} but is not in it"));
        }
    }
    if problems.is_empty() { Ok(tensors) } else { Err(OpenError::problems(index_path, problems)) }
}

/// The `weight_map` of an index: tensor name to file name. File names with directories in them are refused.
pub fn parse_index(text: &str) -> Result<BTreeMap<String, String>, Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_str(text).map_err(|error| vec![error.to_string()])?;
    let unsafe_names: BTreeSet<&String> = index.weight_map.values().filter(|file| !plain_file_name(file)).collect();
    if !unsafe_names.is_empty() {
        return Err(unsafe_names.iter().map(|file| format!("{file:?} is not a plain file name")).collect());
    }
    Ok(index.weight_map)
}

/// Says what a directory without safetensors has instead.
fn missing_weights(dir: &Path) -> String {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let pickled = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .any(|name| name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth"));
    match pickled {
        true => format!("it has pickled weights only, which can run code; convert them to {SINGLE}"),
        false => format!("it has neither {SINGLE} nor {INDEX}"),
    }
}

/// Writes one file with `{"format": "pt"}` as metadata, asking `bytes_of` for each tensor's bytes in turn: f32 first, so
/// that each tensor is aligned to its elements. The file appears under its name when it is whole.
pub fn write_file<'a>(
    vfs: &dyn Vfs,
    path: &Path,
    infos: &[Info],
    bytes_of: &mut BytesOf<'_, 'a>,
) -> Result<(), WriteError> {
    check_infos(path, infos)?;
    let mut infos = infos.to_vec();
    infos.sort_by_key(|info| std::cmp::Reverse(info.dtype.block_bytes()));
    let mut problems = Vec::new();
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), serde_json::json!({ "format": "pt" }));
    let mut offset = 0;
    for info in &infos {
        let dtype = match info.dtype {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            other => {
                problems.push(format!("tensor {}: safetensors cannot hold {}; dequantise it", info.name, other.name()));
                continue;
            }
        };
        let end = offset + info.size_bytes().unwrap_or(0);
        let entry = serde_json::json!({ "dtype": dtype, "shape": info.shape, "data_offsets": [offset, end] });
        header.insert(info.name.clone(), entry);
        offset = end;
    }
    if !problems.is_empty() {
        return Err(WriteError::Problems { path: path.into(), problems });
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    // Spaces up to a multiple of our own alignment, so that a mapped file gives aligned weights.
    header.resize((8 + header.len()).next_multiple_of(crate::bytes::ALIGNMENT) - 8, b' ');
    let mut file = AtomicFile::create(vfs, path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())
        .and_then(|()| file.write_all(&header))
        .map_err(|source| WriteError::io(path, source))?;
    write_tensors(&mut file, &infos, 1, bytes_of)?;
    file.finish()
}

/// As [`write_file`], with tensors that are in memory, and on the real disk.
pub fn write(path: &Path, tensors: &Tensors) -> Result<(), WriteError> {
    let infos: Vec<Info> = tensors
        .iter()
        .map(|(name, tensor)| Info { name: name.into(), dtype: tensor.dtype, shape: tensor.shape.clone() })
        .collect();
    write_file(&Disk, path, &infos, &mut |info| match tensors.get(&info.name) {
        Some(tensor) => Ok((&*tensor.bytes).into()),
        None => Err("it is not there".into()),
    })
}
