//! The f32 micro-kernel for NEON: 8 × 8, sixteen of the 32 registers for the sums.

use super::tile::{Kernel, LINE, Tile, each_row};
use crate::bf16;
use std::arch::aarch64::*;

const MR: usize = 8;
const NR: usize = 8;
/// Rows that [`each_row`] knows.
const ROWS: usize = 14;
/// Steps whose left operands one load of a row brings.
const QUAD: usize = 4;

pub(super) static F32: Kernel = Kernel {
    nr: NR,
    pairs: false,
    lines: &[lines::<1>, lines::<2>, lines::<3>, lines::<4>, lines::<5>, lines::<6>, lines::<7>, lines::<8>],
    across: &[across::<1>, across::<2>, across::<3>, across::<4>, across::<5>, across::<6>, across::<7>, across::<8>],
    turn: None,
    state: None,
};

/// # Safety
/// `t` describes valid memory for `R` rows.
unsafe fn lines<const R: usize>(t: &Tile) {
    // SAFETY: NEON is part of the target; the panels hold `steps` steps of `MR` and `NR` units.
    unsafe {
        let mut acc = [[vdupq_n_f32(0.0); 2]; ROWS];
        let (mut a, mut b) = (t.a.cast::<f32>(), t.b.cast::<f32>());
        let mut left = t.steps;
        while left > 0 {
            let steps = left.min(LINE);
            for quad in 0..steps / QUAD {
                let mut x = [vdupq_n_f32(0.0); ROWS];
                each_row!(R, r, { x[r] = vld1q_f32(a.add(r * LINE + quad * QUAD)) });
                // The lane is part of the instruction: written out. Scalars instead would take a register each.
                macro_rules! step {
                    ($($lane:literal)*) => {$(
                        let row = (vld1q_f32(b.add($lane * NR)), vld1q_f32(b.add($lane * NR + 4)));
                        each_row!(R, r, {
                            acc[r][0] = vfmaq_laneq_f32::<$lane>(acc[r][0], row.0, x[r]);
                            acc[r][1] = vfmaq_laneq_f32::<$lane>(acc[r][1], row.1, x[r]);
                        });
                    )*};
                }
                step!(0 1 2 3);
                b = b.add(QUAD * NR);
            }
            for step in steps / QUAD * QUAD..steps {
                let row = (vld1q_f32(b), vld1q_f32(b.add(4)));
                each_row!(R, r, {
                    let x = *a.add(r * LINE + step);
                    acc[r][0] = vfmaq_n_f32(acc[r][0], row.0, x);
                    acc[r][1] = vfmaq_n_f32(acc[r][1], row.1, x);
                });
                b = b.add(NR);
            }
            a = a.wrapping_add(LINE * MR);
            left -= steps;
        }
        each_row!(R, r, { store(t, r, acc[r]) });
    }
}

/// # Safety
/// `t` describes valid memory for `R` rows.
unsafe fn across<const R: usize>(t: &Tile) {
    // SAFETY: NEON is part of the target; the panels hold `steps` steps of `MR` and `NR` units.
    unsafe {
        let mut acc = [[vdupq_n_f32(0.0); 2]; ROWS];
        let (a, b) = (t.a.cast::<[f32; MR]>(), t.b.cast::<f32>());
        for step in 0..t.steps {
            let mut x = [0f32; ROWS];
            x[..MR].copy_from_slice(&*a.add(step));
            let at = b.add(step * NR);
            let row = (vld1q_f32(at), vld1q_f32(at.add(4)));
            each_row!(R, r, {
                acc[r][0] = vfmaq_n_f32(acc[r][0], row.0, x[r]);
                acc[r][1] = vfmaq_n_f32(acc[r][1], row.1, x[r]);
            });
        }
        each_row!(R, r, { store(t, r, acc[r]) });
    }
}

/// Finishes row `r`.
///
/// # Safety
/// `init` and `out` hold the row.
#[inline(always)]
unsafe fn store(t: &Tile, r: usize, acc: [float32x4_t; 2]) {
    // SAFETY: as the caller promises.
    unsafe {
        if t.cols == NR && !t.bf16 {
            for (half, mut v) in acc.into_iter().enumerate() {
                if !t.init.is_null() {
                    v = vaddq_f32(v, vld1q_f32(t.init.add(r * t.init_ld + half * 4)));
                }
                vst1q_f32(t.out.cast::<f32>().add(r * t.out_ld + half * 4), v);
            }
            return;
        }
        let mut row = [0f32; NR];
        vst1q_f32(row.as_mut_ptr(), acc[0]);
        vst1q_f32(row.as_mut_ptr().add(4), acc[1]);
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
