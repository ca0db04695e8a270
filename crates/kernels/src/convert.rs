//! Weights of any storage to f32, bf16 or f16, a run of consecutive elements at a time. Must not know matrices.

use half::slice::HalfFloatSliceExt;

use crate::lanes::{map3, simd_fn};
use crate::{Isa, Mat, bf16, f16, quant};

/// `out` = elements `at..at + out.len()` of `w`. Quantised: whole blocks.
pub(crate) fn to_f32(isa: Isa, out: &mut [f32], w: Mat, at: usize) {
    match isa {
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDot => match w {
            // In vectors, where the processor has the instruction.
            Mat::F16(w) => w[at..][..out.len()].convert_to_f32_slice(out),
            _ => plain(out, w, at),
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` is only made for what the processor has.
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => unsafe { x86::to_f32_avx512(out, w, at) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::to_f32_avx2(out, w, at) },
        _ => plain(out, w, at),
    }
}

/// The same, rounded to bf16 (through f32).
pub(crate) fn to_bf16(isa: Isa, out: &mut [bf16], w: Mat, at: usize) {
    if let Mat::Bf16(w) = w {
        return out.copy_from_slice(&w[at..][..out.len()]);
    }
    #[cfg(target_arch = "x86_64")]
    if let (true, Mat::Quant(format, blocks)) = (isa.has_avx512_bf16(), w) {
        let blocks = &blocks[format.row_bytes(at)..][..format.row_bytes(out.len())];
        // SAFETY: `isa` is only made for what the processor has.
        return unsafe { quant::avx512_bf16::dequantize(out, format, blocks) };
    }
    // A block or more at a time through the first-level cache.
    let mut wide = [0f32; 512];
    for (i, out) in out.chunks_mut(512).enumerate() {
        let wide = &mut wide[..out.len()];
        to_f32(isa, wide, w, at + i * 512);
        narrow(isa, out, wide);
    }
}

/// The same, rounded to f16 (through f32).
pub(crate) fn to_f16(isa: Isa, out: &mut [f16], w: Mat, at: usize) {
    if let Mat::F16(w) = w {
        return out.copy_from_slice(&w[at..][..out.len()]);
    }
    let mut wide = [0f32; 512];
    for (i, out) in out.chunks_mut(512).enumerate() {
        let wide = &mut wide[..out.len()];
        to_f32(isa, wide, w, at + i * 512);
        narrow_f16(isa, out, wide, false);
    }
}

simd_fn! {
    /// Rounds f32 to f16, nearest even; `x + out` if `add`.
    pub(crate) fn narrow_f16(s, out: &mut [f16], x: &[f32], add: bool) {
        map3(s, out, x, x, add, #[inline(always)] |out, x, _| s.add(out, x));
    }
}

/// Rounds f32 to bf16, nearest even.
pub(crate) fn narrow(isa: Isa, out: &mut [bf16], x: &[f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` is only made for what the processor has.
        Isa::Avx512Bf16 | Isa::Amx => unsafe { x86::narrow_avx512(out, x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 | Isa::Avx512 => unsafe { x86::narrow_avx2(out, x) },
        _ => narrow_lanes(out, x),
    }
}

#[inline(always)]
fn narrow_lanes(out: &mut [bf16], x: &[f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        // A NaN stays one, and quiet.
        *out = bf16::from_bits(if x.is_nan() { bits >> 16 | 0x40 } else { rounded } as u16);
    }
}

#[inline(always)]
fn plain(out: &mut [f32], w: Mat, at: usize) {
    let len = out.len();
    match w {
        Mat::F32(w) => out.copy_from_slice(&w[at..][..len]),
        Mat::Bf16(w) => {
            for (out, w) in out.iter_mut().zip(&w[at..][..len]) {
                *out = f32::from_bits((w.to_bits() as u32) << 16);
            }
        }
        Mat::F16(w) => w[at..][..len].convert_to_f32_slice(out),
        Mat::Quant(format, blocks) => {
            quant::dequantize(out, format, &blocks[format.row_bytes(at)..][..format.row_bytes(len)]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Mat, bf16, narrow_lanes, plain, quant};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn to_f32_avx2(out: &mut [f32], w: Mat, at: usize) {
        match w {
            Mat::F16(w) => {
                let w = &w[at..][..out.len()];
                for (out, w) in out.chunks_exact_mut(8).zip(w.chunks_exact(8)) {
                    // SAFETY: both chunks hold 8 elements.
                    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(w.as_ptr().cast()))) };
                }
                let done = out.len() / 8 * 8;
                plain(&mut out[done..], Mat::F16(w), done);
            }
            Mat::Quant(format, blocks) => {
                let blocks = &blocks[format.row_bytes(at)..][..format.row_bytes(out.len())];
                quant::dequantize_lanes(out, format, blocks);
            }
            _ => plain(out, w, at),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
    pub fn to_f32_avx512(out: &mut [f32], w: Mat, at: usize) {
        match w {
            Mat::F16(w) => {
                let w = &w[at..][..out.len()];
                for (out, w) in out.chunks_exact_mut(16).zip(w.chunks_exact(16)) {
                    // SAFETY: both chunks hold 16 elements.
                    unsafe {
                        _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(w.as_ptr().cast())))
                    };
                }
                let done = out.len() / 16 * 16;
                plain(&mut out[done..], Mat::F16(w), done);
            }
            Mat::Quant(format, blocks) => {
                let blocks = &blocks[format.row_bytes(at)..][..format.row_bytes(out.len())];
                quant::avx512::dequantize(out, format, blocks);
            }
            _ => plain(out, w, at),
        }
    }

    #[target_feature(enable = "avx2")]
    pub fn narrow_avx2(out: &mut [bf16], x: &[f32]) {
        narrow_lanes(out, x);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub fn narrow_avx512(out: &mut [bf16], x: &[f32]) {
        for (out, x) in out.chunks_mut(16).zip(x.chunks(16)) {
            let mask = (0xffff_u32 >> (16 - out.len())) as u16;
            // SAFETY: the mask keeps to both chunks; the vector types differ in name only.
            unsafe {
                let v = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x.as_ptr()));
                let v = std::mem::transmute::<__m256bh, __m256i>(v);
                _mm256_mask_storeu_epi16(out.as_mut_ptr().cast(), mask, v);
            }
        }
    }
}
