//! The block formats of GGUF: layout constants, exact dequantisation and quantisation, bit-equal to gguf-py / llama.cpp.

/// A quantised storage format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuantFormat {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl QuantFormat {
    /// Weights in a block.
    pub fn block_len(self) -> usize {
        use QuantFormat::*;
        match self {
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 => 32,
            Q4K | Q5K | Q6K => 256,
        }
    }
    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        use QuantFormat::*;
        match self {
            Q4_0 => 18,
            Q4_1 => 20,
            Q5_0 => 22,
            Q5_1 => 24,
            Q8_0 => 34,
            Q4K => 144,
            Q5K => 176,
            Q6K => 210,
        }
    }
}

/// Exact dequantisation of whole blocks: `out.len()` weights from `blocks`.
pub fn dequantize(out: &mut [f32], format: QuantFormat, blocks: &[u8]) {
    todo!()
}

/// Quantises whole blocks as llama.cpp's reference (`quantize_row_*_ref`) does.
pub fn quantize(out: &mut [u8], format: QuantFormat, x: &[f32]) {
    todo!()
}
