//! The block formats of GGUF: layout constants, exact dequantisation and quantisation, bit-equal to gguf-py / llama.cpp.
//! Must not know matrices or threads.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512_bf16;
mod decode;
mod encode;
mod encode_k;

pub(crate) use decode::scale_and_min;

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
    pub const ALL: [QuantFormat; 8] = {
        use QuantFormat::*;
        [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K]
    };

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
    /// Bytes of a row of `k` weights. Panics unless `k` is whole blocks.
    pub fn row_bytes(self, k: usize) -> usize {
        assert!(
            k.is_multiple_of(self.block_len()),
            "{self:?}: rows of {k} are not whole blocks of {}",
            self.block_len()
        );
        k / self.block_len() * self.block_bytes()
    }
}

/// Exact dequantisation of whole blocks: `out.len()` weights from `blocks`. Panics if the sizes disagree.
pub fn dequantize(out: &mut [f32], format: QuantFormat, blocks: &[u8]) {
    assert_eq!(blocks.len(), format.row_bytes(out.len()), "{format:?}: bytes for {} weights", out.len());
    decode::dequantize(out, format, blocks);
}

/// [`dequantize`], to be compiled into a function with wider vectors.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn dequantize_lanes(out: &mut [f32], format: QuantFormat, blocks: &[u8]) {
    decode::dequantize(out, format, blocks);
}

/// Quantises whole blocks as llama.cpp's reference (`quantize_row_*_ref`) does. Panics if the sizes disagree.
pub fn quantize(out: &mut [u8], format: QuantFormat, x: &[f32]) {
    assert_eq!(out.len(), format.row_bytes(x.len()), "{format:?}: bytes for {} weights", x.len());
    encode::quantize(out, format, x);
}

#[cfg(test)]
mod tests;
