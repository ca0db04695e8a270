//! Dot products of a few rows with up to eight others for AVX-512: f32 sums, or bf16 pairs where the processor has them.

use super::avx512::widen;
use super::dots::Few;
use crate::Mat;
use std::arch::x86_64::*;

const F32: u8 = 0;
const BF16: u8 = 1;
const F16: u8 = 2;

/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ, and BF16 if `few` is bf16; `fs` and `rows` are at most 8 and the slices
/// hold that many rows of `k`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn group(sums: &mut [f32; 64], few: Few, fs: usize, stream: Mat, rows: usize, k: usize) {
    let mut i = 0;
    while i < fs {
        let left = fs - i;
        let now = if left >= 8 { 8 } else { 1 << left.ilog2() };
        // SAFETY: as the caller promises.
        unsafe {
            let out = sums.as_mut_ptr().add(i * 8);
            match (few, stream) {
                (Few::Bf16(x), Mat::Bf16(w)) => {
                    pairs(out, x.as_ptr().add(i * k).cast(), w.as_ptr().cast(), now, rows, k)
                }
                (Few::F32(x), w) => {
                    let x = x.as_ptr().add(i * k);
                    match w {
                        Mat::F32(w) => by_few::<F32>(out, x, w.as_ptr().cast(), now, rows, k),
                        Mat::Bf16(w) => by_few::<BF16>(out, x, w.as_ptr().cast(), now, rows, k),
                        Mat::F16(w) => by_few::<F16>(out, x, w.as_ptr().cast(), now, rows, k),
                        Mat::Quant(..) => unreachable!("quantised rows are converted first"),
                    }
                }
                _ => unreachable!("bf16 products need bf16 on both sides"),
            }
        }
        i += now;
    }
}

/// Rows are taken so that about 16 sums are open: enough to hide the latency of an addition.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn by_few<const T: u8>(out: *mut f32, x: *const f32, w: *const u8, few: usize, rows: usize, k: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        match few {
            8 => by_rows::<T, 8, 2>(out, x, w, rows, k),
            4 => by_rows::<T, 4, 4>(out, x, w, rows, k),
            2 => by_rows::<T, 2, 8>(out, x, w, rows, k),
            _ => by_rows::<T, 1, 8>(out, x, w, rows, k),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn by_rows<const T: u8, const F: usize, const S: usize>(
    out: *mut f32,
    x: *const f32,
    w: *const u8,
    rows: usize,
    k: usize,
) {
    let row = k * if T == F32 { 4 } else { 2 };
    let mut j = 0;
    // SAFETY: as the caller promises.
    unsafe {
        while j + S <= rows {
            dot::<T, F, S>(out.add(j), x, w.add(j * row), k);
            j += S;
        }
        while j < rows {
            dot::<T, F, 1>(out.add(j), x, w.add(j * row), k);
            j += 1;
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn dot<const T: u8, const F: usize, const S: usize>(out: *mut f32, x: *const f32, w: *const u8, k: usize) {
    let mut acc = [[_mm512_setzero_ps(); S]; F];
    // SAFETY: rows of `k` elements; the mask of the last step keeps to them.
    unsafe {
        for at in (0..k).step_by(16) {
            let mask = if k - at >= 16 { 0xffff } else { (1u16 << (k - at)) - 1 };
            let mut row = [_mm512_setzero_ps(); S];
            for (s, row) in row.iter_mut().enumerate() {
                *row = load::<T>(w, s * k + at, mask);
            }
            for f in 0..F {
                let x = _mm512_maskz_loadu_ps(mask, x.add(f * k + at));
                for s in 0..S {
                    acc[f][s] = _mm512_fmadd_ps(x, row[s], acc[f][s]);
                }
            }
        }
        for f in 0..F {
            for s in 0..S {
                *out.add(f * 8 + s) = _mm512_reduce_add_ps(acc[f][s]);
            }
        }
    }
}

/// Elements `at..at + 16` of a row, as f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn load<const T: u8>(w: *const u8, at: usize, mask: u16) -> __m512 {
    // SAFETY: as the caller promises.
    unsafe {
        match T {
            F32 => _mm512_maskz_loadu_ps(mask, w.cast::<f32>().add(at)),
            BF16 => widen(_mm256_maskz_loadu_epi16(mask, w.cast::<i16>().add(at))),
            _ => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, w.cast::<i16>().add(at))),
        }
    }
}

/// bf16 rows on both sides.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn pairs(out: *mut f32, x: *const i16, w: *const i16, few: usize, rows: usize, k: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        match few {
            8 => pairs_by_rows::<8, 2>(out, x, w, rows, k),
            4 => pairs_by_rows::<4, 4>(out, x, w, rows, k),
            2 => pairs_by_rows::<2, 8>(out, x, w, rows, k),
            _ => pairs_by_rows::<1, 8>(out, x, w, rows, k),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn pairs_by_rows<const F: usize, const S: usize>(
    out: *mut f32,
    x: *const i16,
    w: *const i16,
    rows: usize,
    k: usize,
) {
    let mut j = 0;
    // SAFETY: as the caller promises.
    unsafe {
        while j + S <= rows {
            dot_pairs::<F, S>(out.add(j), x, w.add(j * k), k);
            j += S;
        }
        while j < rows {
            dot_pairs::<F, 1>(out.add(j), x, w.add(j * k), k);
            j += 1;
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn dot_pairs<const F: usize, const S: usize>(out: *mut f32, x: *const i16, w: *const i16, k: usize) {
    let mut acc = [[_mm512_setzero_ps(); S]; F];
    // SAFETY: rows of `k` elements; the mask of the last step keeps to them. The vector types differ in name only.
    unsafe {
        let load =
            |at: *const i16, mask: u32| std::mem::transmute::<__m512i, __m512bh>(_mm512_maskz_loadu_epi16(mask, at));
        for at in (0..k).step_by(32) {
            let mask = if k - at >= 32 { u32::MAX } else { (1u32 << (k - at)) - 1 };
            let mut row = [load(w, 0); S];
            for (s, row) in row.iter_mut().enumerate() {
                *row = load(w.add(s * k + at), mask);
            }
            for f in 0..F {
                let x = load(x.add(f * k + at), mask);
                for s in 0..S {
                    acc[f][s] = _mm512_dpbf16_ps(acc[f][s], x, row[s]);
                }
            }
        }
        for f in 0..F {
            for s in 0..S {
                *out.add(f * 8 + s) = _mm512_reduce_add_ps(acc[f][s]);
            }
        }
    }
}
