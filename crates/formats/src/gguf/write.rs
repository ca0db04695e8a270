//! Writing GGUF version 3.

use std::{io::Write, path::Path};

use super::{metadata::*, *};
use crate::{
    Bytes,
    save::{AtomicFile, BytesOf, Info, WriteError, check_infos, write_tensors},
    vfs::{Disk, Vfs},
};

/// Writes a file from metadata and the tensors of `infos` (GGUF names, slowest dimension first), asking `bytes_of` for
/// each one's bytes in turn. The file appears under its name when it is whole.
pub fn write_file<'a>(
    vfs: &dyn Vfs,
    path: &Path,
    metadata: &Metadata,
    infos: &[Info],
    bytes_of: &mut BytesOf<'_, 'a>,
) -> Result<(), WriteError> {
    check_infos(path, infos)?;
    let alignment = match metadata.get("general.alignment") {
        Some(&Value::U32(a)) if a.is_power_of_two() && u64::from(a) <= MAX_ALIGNMENT => a as usize,
        _ => DEFAULT_ALIGNMENT,
    };
    let header = header(path, metadata, infos, alignment)?;
    let mut file = AtomicFile::create(vfs, path)?;
    file.write_all(&header).map_err(|source| WriteError::io(path, source))?;
    write_tensors(&mut file, infos, alignment, bytes_of)?;
    file.finish()
}

/// As [`write_file`], with tensors that are in memory, and on the real disk.
pub fn write(path: &Path, metadata: &Metadata, tensors: &[Tensor]) -> Result<(), WriteError> {
    let infos: Vec<Info> = tensors
        .iter()
        .map(|tensor| Info { name: tensor.name.clone(), dtype: tensor.dtype, shape: tensor.shape.clone() })
        .collect();
    let mut rest: std::slice::Iter<Tensor> = tensors.iter();
    let empty: &Bytes = &Bytes::default();
    write_file(&Disk, path, metadata, &infos, &mut |_| Ok((&**rest.next().map_or(empty, |t| &t.bytes)).into()))
}

/// Everything before the tensors' data, padded to `alignment`.
fn header(path: &Path, metadata: &Metadata, infos: &[Info], alignment: usize) -> Result<Vec<u8>, WriteError> {
    let mut problems: Vec<String> = Vec::new();
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((infos.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        put_string(&mut out, key.as_bytes());
        put_value(&mut out, value);
    }
    let mut offset = 0u64;
    for info in infos {
        if info.name.len() > MAX_TENSOR_NAME {
            problems.push(format!("tensor name {} is longer than {MAX_TENSOR_NAME} bytes", info.name));
        }
        if info.shape.is_empty() || info.shape.len() > MAX_DIMENSIONS as usize || info.shape.contains(&0) {
            problems.push(format!("tensor {}: gguf cannot hold the shape {:?}", info.name, info.shape));
        }
        put_string(&mut out, info.name.as_bytes());
        out.extend((info.shape.len() as u32).to_le_bytes());
        for &dimension in info.shape.iter().rev() {
            out.extend((dimension as u64).to_le_bytes());
        }
        out.extend(type_code(info.dtype).to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += (info.size_bytes().unwrap_or(0) as u64).next_multiple_of(alignment as u64);
    }
    out.resize(out.len().next_multiple_of(alignment), 0);
    if problems.is_empty() { Ok(out) } else { Err(WriteError::Problems { path: path.into(), problems }) }
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |code: u32, bytes: &[u8]| {
        out.extend(code.to_le_bytes());
        out.extend_from_slice(bytes);
    };
    match value {
        Value::U8(v) => put(0, &v.to_le_bytes()),
        Value::I8(v) => put(1, &v.to_le_bytes()),
        Value::U16(v) => put(2, &v.to_le_bytes()),
        Value::I16(v) => put(3, &v.to_le_bytes()),
        Value::U32(v) => put(4, &v.to_le_bytes()),
        Value::I32(v) => put(5, &v.to_le_bytes()),
        Value::F32(v) => put(6, &v.to_le_bytes()),
        Value::Bool(v) => put(7, &[u8::from(*v)]),
        Value::U64(v) => put(10, &v.to_le_bytes()),
        Value::I64(v) => put(11, &v.to_le_bytes()),
        Value::F64(v) => put(12, &v.to_le_bytes()),
        Value::String(v) => {
            put(8, &[]);
            put_string(out, v.as_bytes());
        }
        Value::Array(array) => {
            put(9, &[]);
            put_array(out, array);
        }
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    let count = array.len() as u64;
    macro_rules! numbers {
        ($code:expr, $values:expr) => {{
            out.extend(u32::to_le_bytes($code));
            out.extend(count.to_le_bytes());
            out.extend($values.iter().flat_map(|v| v.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(v) => numbers!(0, v),
        Array::I8(v) => numbers!(1, v),
        Array::U16(v) => numbers!(2, v),
        Array::I16(v) => numbers!(3, v),
        Array::U32(v) => numbers!(4, v),
        Array::I32(v) => numbers!(5, v),
        Array::F32(v) => numbers!(6, v),
        Array::Bool(v) => numbers!(7, v.iter().map(|&b| u8::from(b)).collect::<Vec<_>>()),
        Array::U64(v) => numbers!(10, v),
        Array::I64(v) => numbers!(11, v),
        Array::F64(v) => numbers!(12, v),
        Array::Strings(v) => {
            out.extend(8u32.to_le_bytes());
            out.extend(count.to_le_bytes());
            out.extend_from_slice(v.encoded());
        }
    }
}
