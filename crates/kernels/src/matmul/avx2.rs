//! The f32 micro-kernel for AVX2 and FMA: 6 × 16.

use super::tile::{Kernel, LINE, Tile, each_row};
use crate::bf16;
use std::arch::x86_64::*;

const MR: usize = 6;
const NR: usize = 16;
/// Rows that [`each_row`] knows.
const ROWS: usize = 14;

pub(super) static F32: Kernel = Kernel {
    nr: NR,
    pairs: false,
    lines: &[
        tile::<1, false>,
        tile::<2, false>,
        tile::<3, false>,
        tile::<4, false>,
        tile::<5, false>,
        tile::<6, false>,
    ],
    across: &[tile::<1, true>, tile::<2, true>, tile::<3, true>, tile::<4, true>, tile::<5, true>, tile::<6, true>],
    turn: None,
    state: None,
};

/// # Safety
/// The processor has AVX2 and FMA; `t` describes valid memory for `R` rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const R: usize, const ACROSS: bool>(t: &Tile) {
    let mut acc = [[_mm256_setzero_ps(); 2]; ROWS];
    let (mut a, mut b) = (t.a.cast::<f32>(), t.b.cast::<f32>());
    let mut left = t.steps;
    // SAFETY: the panels hold `steps` steps of `MR` and `NR` units.
    unsafe {
        while left > 0 {
            let steps = left.min(LINE);
            for step in 0..steps {
                let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                each_row!(R, r, {
                    let x = _mm256_set1_ps(*a.add(if ACROSS { step * MR + r } else { r * LINE + step }));
                    acc[r][0] = _mm256_fmadd_ps(x, b0, acc[r][0]);
                    acc[r][1] = _mm256_fmadd_ps(x, b1, acc[r][1]);
                });
                b = b.add(NR);
            }
            a = a.add(LINE * MR);
            left -= steps;
        }
    }
    each_row!(R, r, {
        // SAFETY: `init` and `out` hold `R` rows of `cols` elements.
        unsafe { store(t, r, acc[r]) };
    });
}

/// Finishes row `r`.
///
/// # Safety
/// The processor has AVX2; `init` and `out` hold the row.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn store(t: &Tile, r: usize, acc: [__m256; 2]) {
    // SAFETY: as the caller promises.
    unsafe {
        if t.cols == NR && !t.bf16 {
            for (half, mut v) in acc.into_iter().enumerate() {
                if !t.init.is_null() {
                    v = _mm256_add_ps(v, _mm256_loadu_ps(t.init.add(r * t.init_ld + half * 8)));
                }
                _mm256_storeu_ps(t.out.cast::<f32>().add(r * t.out_ld + half * 8), v);
            }
            return;
        }
        let mut row = [0f32; NR];
        _mm256_storeu_ps(row.as_mut_ptr(), acc[0]);
        _mm256_storeu_ps(row.as_mut_ptr().add(8), acc[1]);
        for (c, v) in row.iter_mut().enumerate().take(t.cols) {
            if !t.init.is_null() {
                *v += *t.init.add(r * t.init_ld + c);
            }
            let at = r * t.out_ld + c;
            if t.bf16 {
                let out = t.out.cast::<bf16>().add(at);
                *out = bf16::from_f32(if t.add { *v + (*out).to_f32() } else { *v });
            } else {
                *t.out.cast::<f32>().add(at) = *v;
            }
        }
    }
}
