//! What can be wrong with a GGUF file.

use super::*;

/// Why bytes are not a GGUF file that can be used. Offsets are bytes from the start of the file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    #[error("not a gguf file: it starts with {0:02x?}, not with \"GGUF\"")]
    Magic(Vec<u8>),
    #[error("the file is big-endian; convert it with gguf-py's gguf_convert_endian.py")]
    BigEndian,
    #[error("gguf version {0} is not supported (2 and 3 are)")]
    Version(u32),
    #[error(
        "the file ends at byte {len}, inside {what} at byte {offset} that needs {needs} bytes: it is incomplete or broken"
    )]
    Truncated { what: String, offset: usize, needs: u64, len: usize },
    #[error("{what} is {value}, above the limit of {limit}")]
    Limit { what: String, value: u64, limit: u64 },
    #[error("{what} at byte {offset} is not utf-8")]
    Utf8 { what: String, offset: usize },
    #[error("metadata key number {index} is empty")]
    EmptyKey { index: usize },
    #[error("metadata key {key:?} occurs twice")]
    DuplicateKey { key: String },
    #[error("metadata key {key:?} has the unknown value type {code}")]
    ValueType { key: String, code: u32 },
    #[error("metadata key {key:?} is an array of arrays, which is not supported")]
    NestedArray { key: String },
    #[error("metadata key {key:?} has a bool that is {byte}, not 0 or 1")]
    Bool { key: String, byte: u8 },
    #[error("metadata key {key:?} is {found}, expected {expected}")]
    WrongType { key: String, expected: &'static str, found: String },
    #[error("metadata key {key:?} is missing")]
    MissingKey { key: String },
    #[error("general.alignment is {0}; it must be a power of two, at most {MAX_ALIGNMENT}")]
    Alignment(u64),
    #[error("tensor number {index} has an empty name")]
    EmptyTensorName { index: usize },
    #[error("tensor {name:?} occurs twice")]
    DuplicateTensor { name: String },
    #[error("tensor {name:?} has {count} dimensions; 1 to {MAX_DIMENSIONS} are allowed")]
    Dimensions { name: String, count: u32 },
    #[error("tensor {name:?} has the shape {shape:?} (fastest dimension first): {why}")]
    Shape { name: String, shape: Vec<u64>, why: String },
    #[error("{}", unsupported(.0))]
    UnsupportedTypes(Vec<(String, String)>),
    #[error("tensor {name:?} starts at offset {found} of the data, expected {expected}")]
    Offset { name: String, found: u64, expected: u64 },
    #[error("tensor {name:?} needs bytes {start}..{end} of the file, which has only {len}: it is incomplete or broken")]
    TensorRange { name: String, start: u64, end: u64, len: usize },
}

/// Names tensors whose types cannot be read, the first few of each.
fn unsupported(tensors: &[(String, String)]) -> String {
    const SHOWN: usize = 8;
    let mut text = format!("{} tensors have a type that is not supported", tensors.len());
    for (name, dtype) in tensors.iter().take(SHOWN) {
        text += &format!("\n  {name}: {dtype}");
    }
    if tensors.len() > SHOWN {
        text += &format!("\n  and {} more", tensors.len() - SHOWN);
    }
    text + "\nsupported: f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k"
}
