//! GGUF, the file format of llama.cpp: version 2 and 3, little-endian. This file names the parts; see
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md> for the format.

mod config;
mod error;
mod export;
mod import;
mod metadata;
mod names;
mod read;
mod vocabulary;
mod write;

pub use error::GgufError;
pub use export::{Export, export};
pub(crate) use import::import;
pub use import::read_model;
pub use metadata::{Array, Metadata, Strings, Value};
pub use read::{File, Tensor, parse};
pub use vocabulary::vocabulary_metadata;
pub use write::{write, write_file};

use ounce_spec::DType;

/// Longest string, in bytes. llama.cpp allows 1 GiB; no real file comes near either.
pub const MAX_STRING: u64 = 16 << 20;
/// Most elements of an array.
pub const MAX_ARRAY: u64 = 1 << 24;
/// Most metadata entries.
pub const MAX_ENTRIES: u64 = 1 << 16;
/// Most tensors.
pub const MAX_TENSORS: u64 = 1 << 18;
/// Largest `general.alignment`.
pub const MAX_ALIGNMENT: u64 = 1 << 20;
/// Longest tensor name in bytes, as in llama.cpp.
pub const MAX_TENSOR_NAME: usize = 63;
/// Most dimensions of a tensor.
pub const MAX_DIMENSIONS: u32 = 4;
/// Alignment where the file names none.
pub const DEFAULT_ALIGNMENT: usize = 32;

/// The type number that GGUF files give `dtype`.
pub fn type_code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Q4_0 => 2,
        DType::Q4_1 => 3,
        DType::Q5_0 => 6,
        DType::Q5_1 => 7,
        DType::Q8_0 => 8,
        DType::Q4_K => 12,
        DType::Q5_K => 13,
        DType::Q6_K => 14,
        DType::BF16 => 30,
    }
}

/// The type of a GGUF type number, or the name of a type that is not supported.
pub fn dtype_of_code(code: u32) -> Result<DType, String> {
    use DType::*;
    [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K]
        .into_iter()
        .find(|&dtype| type_code(dtype) == code)
        .ok_or_else(|| {
            const OTHERS: [(u32, &str); 24] = [
                (9, "q8_1"),
                (10, "q2_k"),
                (11, "q3_k"),
                (15, "q8_k"),
                (16, "iq2_xxs"),
                (17, "iq2_xs"),
                (18, "iq3_xxs"),
                (19, "iq1_s"),
                (20, "iq4_nl"),
                (21, "iq3_s"),
                (22, "iq2_s"),
                (23, "iq4_xs"),
                (24, "i8"),
                (25, "i16"),
                (26, "i32"),
                (27, "i64"),
                (28, "f64"),
                (29, "iq1_m"),
                (31, "q4_0_4_4"),
                (32, "q4_0_4_8"),
                (33, "q4_0_8_8"),
                (34, "tq1_0"),
                (35, "tq2_0"),
                (39, "mxfp4"),
            ];
            match OTHERS.iter().find(|(other, _)| *other == code) {
                Some((_, name)) => (*name).to_owned(),
                None => format!("unknown type {code}"),
            }
        })
}
