//! The f32 micro-kernel in plain Rust. The compiler makes SSE2 or NEON code of it.

use super::tile::{Kernel, LINE, Tile, each_row};
use crate::bf16;

const MR: usize = 4;
const NR: usize = 8;
/// Rows that [`each_row`] knows.
const ROWS: usize = 14;

pub(super) static F32: Kernel = Kernel {
    nr: NR,
    pairs: false,
    lines: &[tile::<1, false>, tile::<2, false>, tile::<3, false>, tile::<4, false>],
    across: &[tile::<1, true>, tile::<2, true>, tile::<3, true>, tile::<4, true>],
    turn: None,
    state: None,
};

/// # Safety
/// `t` describes valid memory for `R` rows.
unsafe fn tile<const R: usize, const ACROSS: bool>(t: &Tile) {
    let mut acc = [[0f32; NR]; ROWS];
    let (mut a, mut b) = (t.a.cast::<f32>(), t.b.cast::<[f32; NR]>());
    let mut left = t.steps;
    while left > 0 {
        let steps = left.min(LINE);
        for step in 0..steps {
            // SAFETY: the panels hold `steps` steps of `MR` and `NR` units.
            let row = unsafe { *b };
            each_row!(R, r, {
                // SAFETY: as above.
                let x = unsafe { *a.add(if ACROSS { step * MR + r } else { r * LINE + step }) };
                for c in 0..NR {
                    acc[r][c] += x * row[c];
                }
            });
            b = b.wrapping_add(1);
        }
        a = a.wrapping_add(LINE * MR);
        left -= steps;
    }
    for (r, acc) in acc.iter_mut().enumerate().take(R) {
        for (c, acc) in acc.iter_mut().enumerate().take(t.cols) {
            // SAFETY: `init` and `out` hold `R` rows of `cols` elements.
            unsafe {
                if !t.init.is_null() {
                    *acc += *t.init.add(r * t.init_ld + c);
                }
                let at = r * t.out_ld + c;
                if t.bf16 {
                    let out = t.out.cast::<bf16>().add(at);
                    *out = bf16::from_f32(if t.add { *acc + (*out).to_f32() } else { *acc });
                } else {
                    *t.out.cast::<f32>().add(at) = *acc;
                }
            }
        }
    }
}
