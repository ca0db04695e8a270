//! The three ways a kernel sees memory: activations to read ([`In`]), activations to write ([`Out`]), and a matrix of
//! weights in any storage format ([`Mat`]). All are row-major and contiguous.

use crate::{QuantFormat, bf16, f16};

/// Activations to read. `bf16` activations mean bf16 products with f32 accumulation; those of `f16` are f32 products.
#[derive(Clone, Copy, Debug)]
pub enum In<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

/// Activations to write.
#[derive(Debug)]
pub enum Out<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    /// Above 65504 in magnitude: infinity.
    F16(&'a mut [f16]),
}

/// A weight matrix `[n, k]` as it is stored. Quantised rows are whole blocks along `k`.
#[derive(Clone, Copy, Debug)]
pub enum Mat<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
    Quant(QuantFormat, &'a [u8]),
}

impl In<'_> {
    pub fn len(&self) -> usize {
        match self {
            In::F32(x) => x.len(),
            In::Bf16(x) => x.len(),
            In::F16(x) => x.len(),
        }
    }
    /// The element type's name.
    pub fn name(&self) -> &'static str {
        match self {
            In::F32(_) => "f32",
            In::Bf16(_) => "bf16",
            In::F16(_) => "f16",
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Out<'_> {
    pub fn len(&self) -> usize {
        match self {
            Out::F32(x) => x.len(),
            Out::Bf16(x) => x.len(),
            Out::F16(x) => x.len(),
        }
    }
    /// The element type's name.
    pub fn name(&self) -> &'static str {
        match self {
            Out::F32(_) => "f32",
            Out::Bf16(_) => "bf16",
            Out::F16(_) => "f16",
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// A second handle on the same memory, for a shorter time.
    pub fn reborrow(&mut self) -> Out<'_> {
        match self {
            Out::F32(x) => Out::F32(x),
            Out::Bf16(x) => Out::Bf16(x),
            Out::F16(x) => Out::F16(x),
        }
    }
}

impl<'a> Mat<'a> {
    /// Some rows of a matrix with rows of `k` weights.
    pub fn rows(self, rows: std::ops::Range<usize>, k: usize) -> Mat<'a> {
        let range = rows.start * k..rows.end * k;
        match self {
            Mat::F32(w) => Mat::F32(&w[range]),
            Mat::Bf16(w) => Mat::Bf16(&w[range]),
            Mat::F16(w) => Mat::F16(&w[range]),
            Mat::Quant(format, blocks) => {
                let row = format.row_bytes(k);
                Mat::Quant(format, &blocks[rows.start * row..rows.end * row])
            }
        }
    }

    /// Weights in the matrix.
    pub fn len(&self) -> usize {
        match self {
            Mat::F32(w) => w.len(),
            Mat::Bf16(w) => w.len(),
            Mat::F16(w) => w.len(),
            Mat::Quant(format, blocks) => blocks.len() / format.block_bytes() * format.block_len(),
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
