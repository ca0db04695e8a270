//! The micro-kernels for AVX-512: 14 × 32, f32 and bf16 pairs. 28 accumulators, two vectors of B and a broadcast of A
//! that the instruction itself reads from memory: 30 of the 32 registers.

use super::tile::{AHEAD, Kernel, LINE, Tile, each_row};
use std::arch::x86_64::*;

const MR: usize = 14;
const NR: usize = 32;

macro_rules! by_rows {
    ($tile:ident, $across:literal) => {
        &[
            $tile::<1, $across>,
            $tile::<2, $across>,
            $tile::<3, $across>,
            $tile::<4, $across>,
            $tile::<5, $across>,
            $tile::<6, $across>,
            $tile::<7, $across>,
            $tile::<8, $across>,
            $tile::<9, $across>,
            $tile::<10, $across>,
            $tile::<11, $across>,
            $tile::<12, $across>,
            $tile::<13, $across>,
            $tile::<14, $across>,
        ]
    };
}

pub(super) static F32: Kernel = Kernel {
    nr: NR,
    pairs: false,
    lines: by_rows!(f32_tile, false),
    across: by_rows!(f32_tile, true),
    turn: None,
    state: None,
};

pub(super) static BF16: Kernel = Kernel {
    nr: NR,
    pairs: true,
    lines: by_rows!(bf16_tile, false),
    across: by_rows!(bf16_tile, true),
    turn: None,
    state: None,
};

/// A micro-kernel: the two types differ in the product and in how sums are rounded to bf16.
macro_rules! micro_kernel {
    ($name:ident, $features:literal, $fma:ident, $round:ident) => {
        /// # Safety
        /// The processor has the features; `t` describes valid memory for `R` rows.
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize, const ACROSS: bool>(t: &Tile) {
            let mut acc = [[_mm512_setzero_ps(); 2]; MR];
            let (mut a, mut b) = (t.a.cast::<f32>(), t.b.cast::<f32>());
            let mut left = t.steps;
            // SAFETY: the panels hold `steps` steps of `MR` and `NR` units.
            unsafe {
                while left > 0 {
                    let steps = left.min(LINE);
                    for step in 0..steps {
                        // One row waits for B; any address may be fetched.
                        if R == 1 && !ACROSS {
                            _mm_prefetch::<_MM_HINT_T1>(b.cast::<i8>().wrapping_add(AHEAD));
                            _mm_prefetch::<_MM_HINT_T1>(b.cast::<i8>().wrapping_add(AHEAD + 64));
                        }
                        let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                        each_row!(R, r, {
                            let x = _mm512_set1_ps(*a.add(if ACROSS { step * MR + r } else { r * LINE + step }));
                            acc[r][0] = $fma(acc[r][0], x, b0);
                            acc[r][1] = $fma(acc[r][1], x, b1);
                        });
                        b = b.add(NR);
                    }
                    a = a.add(LINE * MR);
                    left -= steps;
                }
            }
            let masks = [mask(t.cols), mask(t.cols.saturating_sub(16))];
            each_row!(R, r, {
                for half in 0..2 {
                    let (mut v, mask) = (acc[r][half], masks[half]);
                    // SAFETY: `init` and `out` hold `R` rows of `cols` elements; the mask keeps to them.
                    unsafe {
                        if !t.init.is_null() {
                            let init = t.init.wrapping_add(r * t.init_ld + half * 16);
                            v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, init));
                        }
                        let at = r * t.out_ld + half * 16;
                        if t.bf16 {
                            let out = t.out.cast::<i16>().wrapping_add(at);
                            if t.add {
                                v = _mm512_add_ps(v, widen(_mm256_maskz_loadu_epi16(mask, out)));
                            }
                            _mm256_mask_storeu_epi16(out, mask, $round(v));
                        } else {
                            _mm512_mask_storeu_ps(t.out.cast::<f32>().wrapping_add(at), mask, v);
                        }
                    }
                }
            });
        }
    };
}

micro_kernel!(f32_tile, "avx512f,avx512bw,avx512vl,avx512dq", fma_f32, round_by_hand);
micro_kernel!(bf16_tile, "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16", fma_bf16, round);

#[inline]
#[target_feature(enable = "avx512f")]
fn fma_f32(acc: __m512, a: __m512, b: __m512) -> __m512 {
    _mm512_fmadd_ps(a, b, acc)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn fma_bf16(acc: __m512, a: __m512, b: __m512) -> __m512 {
    // SAFETY: the types differ in name only.
    let (a, b) = unsafe { (std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b)) };
    _mm512_dpbf16_ps(acc, a, b)
}

/// The first `n` of 16 lanes.
#[inline]
fn mask(n: usize) -> u16 {
    if n >= 16 { 0xffff } else { (1 << n) - 1 }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn widen(v: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) fn round(v: __m512) -> __m256i {
    // SAFETY: the types differ in name only.
    unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)) }
}

/// To the nearest bf16, ties to even; a NaN stays one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) fn round_by_hand(v: __m512) -> __m256i {
    let bits = _mm512_castps_si512(v);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
    let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
    _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(nan, rounded, quiet)))
}

/// Transposes 16 rows of 16 units: `rows[i]` is column `i` after.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: &mut [__m512i; 16]) {
    let r = *rows;
    let mut t = r;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    let mut u = t;
    for i in 0..4 {
        u[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        u[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        u[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        u[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    // Now u[4g + c] holds, in each 128-bit lane l, column 4l + c of rows 4g..4g+4.
    for c in 0..4 {
        let lo = _mm512_shuffle_i32x4::<0x88>(u[c], u[4 + c]);
        let hi = _mm512_shuffle_i32x4::<0xdd>(u[c], u[4 + c]);
        let lo2 = _mm512_shuffle_i32x4::<0x88>(u[8 + c], u[12 + c]);
        let hi2 = _mm512_shuffle_i32x4::<0xdd>(u[8 + c], u[12 + c]);
        rows[c] = _mm512_shuffle_i32x4::<0x88>(lo, lo2);
        rows[8 + c] = _mm512_shuffle_i32x4::<0xdd>(lo, lo2);
        rows[4 + c] = _mm512_shuffle_i32x4::<0x88>(hi, hi2);
        rows[12 + c] = _mm512_shuffle_i32x4::<0xdd>(hi, hi2);
    }
}

/// Columns of units from `rows` rows of `k` bytes, `ld` bytes apart; rows missing to `width` (a multiple of 16) are zero.
///
/// # Safety
/// The processor has the features; `src` and `dst` are valid for the rows and the panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn pack_transposed(dst: *mut u8, src: *const u8, ld: usize, rows: usize, k: usize, width: usize) {
    for group in (0..width).step_by(16) {
        for at in (0..k).step_by(64) {
            let bytes = (k - at).min(64);
            let mask = u64::MAX >> (64 - bytes);
            let mut block = [_mm512_setzero_si512(); 16];
            for (i, block) in block.iter_mut().enumerate() {
                if group + i < rows {
                    // SAFETY: the mask keeps to the row.
                    *block = unsafe { _mm512_maskz_loadu_epi8(mask, src.add((group + i) * ld + at).cast()) };
                }
            }
            transpose(&mut block);
            for (i, block) in block.iter().enumerate().take(bytes.div_ceil(4)) {
                // SAFETY: unit `at / 4 + i` is inside the panel.
                unsafe { _mm512_storeu_si512(dst.add(((at / 4 + i) * width + group) * 4).cast(), *block) };
            }
        }
    }
}

/// As [`pack_pairs`] from f32, rounded on the way.
///
/// # Safety
/// The processor has the features; `src` and `dst` are valid for the rows and the panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn pack_rounded_pairs(
    dst: *mut u8,
    src: *const f32,
    ld: usize,
    rows: usize,
    cols: usize,
    width: usize,
) {
    // Element i of the even row, then of the odd one, from sixteen of each behind one another.
    const TURN: [u16; 32] = {
        let mut turn = [0; 32];
        let mut i = 0;
        while i < 16 {
            turn[2 * i] = i as u16;
            turn[2 * i + 1] = i as u16 + 16;
            i += 1;
        }
        turn
    };
    // SAFETY: 64 bytes are read; the masks keep to the row and to the panel.
    unsafe {
        let turn = _mm512_loadu_si512(TURN.as_ptr().cast());
        for row in (0..rows).step_by(2) {
            for c in (0..width).step_by(16) {
                let load = mask(cols.saturating_sub(c));
                let at = src.wrapping_add(row * ld + c);
                let even = _mm512_maskz_loadu_ps(load, at);
                let odd = if row + 1 < rows { load } else { 0 };
                let odd = _mm512_maskz_loadu_ps(odd, at.wrapping_add(ld));
                let both = core::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(odd, even));
                let to = dst.cast::<i32>().wrapping_add(row / 2 * width + c);
                _mm512_mask_storeu_epi32(to, mask(width - c), _mm512_permutexvar_epi16(turn, both));
            }
        }
    }
}

/// Pairs of bf16 from neighbouring rows, `ld` elements apart; an odd last row is paired with zeros. Columns missing to
/// `width` are zero.
///
/// # Safety
/// The processor has the features; `src` and `dst` are valid for the rows and the panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn pack_pairs(dst: *mut u8, src: *const u8, ld: usize, rows: usize, cols: usize, width: usize) {
    for row in (0..rows).step_by(2) {
        for c in (0..width).step_by(16) {
            let load = mask(cols.saturating_sub(c));
            // SAFETY: the masks keep to the row and to the panel.
            unsafe {
                let at = src.cast::<i16>().wrapping_add(row * ld + c);
                let even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(load, at));
                let odd = if row + 1 < rows {
                    _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(load, at.wrapping_add(ld)))
                } else {
                    _mm512_setzero_si512()
                };
                let pairs = _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd));
                let to = dst.cast::<i32>().wrapping_add(row / 2 * width + c);
                _mm512_mask_storeu_epi32(to, mask(width - c), pairs);
            }
        }
    }
}
