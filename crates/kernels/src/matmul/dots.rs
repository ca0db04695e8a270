//! Products of a few rows with many: decoding (few rows of activations, the weights are read once as they are stored)
//! and the narrow side of LoRA (few rows of weights, the activations are read once). Nothing is packed. Prompts go the way of
//! decoding, too, where a row's bits must not depend on how many there are.
//!
//! Each result is one dot product in 16 interleaved sums, so its bits do not depend on the other rows.

use crate::scratch::{self, Slot};
use crate::{Isa, Mat, Out, Pool, bf16, convert, f16};

/// The rows that stay in the first-level cache.
#[derive(Clone, Copy)]
pub(super) enum Few<'a> {
    F32(&'a [f32]),
    /// For bf16 products; only where the table has them.
    Bf16(&'a [bf16]),
}

/// Where result (few row `f`, streamed row `s`) goes: element `f * few_ld + s * stream_ld`.
#[derive(Clone, Copy)]
pub(super) struct Places {
    pub few_ld: usize,
    pub stream_ld: usize,
}

/// Streamed rows that are computed together.
const GROUP: usize = 8;
/// Bytes of few rows that are multiplied with all streamed rows of a task before others are.
const FEW_BYTES: usize = 384 << 10;
/// Streamed bytes of one task, about.
const TASK_BYTES: usize = 64 << 10;

/// `out[few, stream] = few · streamᵀ` (`+ out`), all rows `k` long. Bf16 rows with a stream that is not bf16 panic.
pub(super) fn dots(
    pool: &Pool,
    isa: Isa,
    mut out: Out,
    places: Places,
    few: Few,
    stream: Mat,
    accumulate: bool,
    count: (usize, usize),
    k: usize,
) {
    let (f, s) = count;
    let row_bytes = match stream {
        Mat::F32(_) => 4 * k,
        Mat::Bf16(_) | Mat::F16(_) => 2 * k,
        Mat::Quant(format, _) => format.row_bytes(k),
    };
    let few_len = match few {
        Few::F32(few) => few.len(),
        Few::Bf16(few) => few.len(),
    };
    assert!(few_len == f * k && stream.len() == s * k && out.len() == f * s && k > 0);
    let base = match &mut out {
        Out::F32(out) => Base::F32(out.as_mut_ptr()),
        Out::Bf16(out) => Base::Bf16(out.as_mut_ptr()),
        Out::F16(out) => Base::F16(out.as_mut_ptr()),
    };
    let per_task = (TASK_BYTES / row_bytes).clamp(GROUP, s.div_ceil(32).max(GROUP)).next_multiple_of(GROUP);
    let together = (FEW_BYTES / (4 * k)).max(8) / 8 * 8;
    pool.run(s.div_ceil(per_task), |task, _| {
        let end = s.min((task + 1) * per_task);
        // Of many few rows, as many at a time as stay in the second-level cache.
        for f_start in (0..f).step_by(together) {
            let f_end = f.min(f_start + together);
            for s0 in (task * per_task..end).step_by(GROUP) {
                let rows = GROUP.min(end - s0);
                with_rows(isa, stream, s0, rows, k, |stream| {
                    for f0 in (f_start..f_end).step_by(8) {
                        let fs = (f_end - f0).min(8);
                        let mut sums = [0f32; GROUP * 8];
                        let few = match few {
                            Few::F32(few) => Few::F32(&few[f0 * k..][..fs * k]),
                            Few::Bf16(few) => Few::Bf16(&few[f0 * k..][..fs * k]),
                        };
                        group(isa, &mut sums, few, fs, stream, rows, k);
                        for i in 0..fs {
                            for j in 0..rows {
                                let at = (f0 + i) * places.few_ld + (s0 + j) * places.stream_ld;
                                // SAFETY: every (f, s) has a place of its own inside `out`; tasks have separate `s`.
                                unsafe { base.put(at, sums[i * GROUP + j], accumulate) };
                            }
                        }
                    }
                });
            }
        }
    });
}

#[derive(Clone, Copy)]
enum Base {
    F32(*mut f32),
    Bf16(*mut bf16),
    F16(*mut f16),
}
// SAFETY: tasks write separate elements.
unsafe impl Sync for Base {}

impl Base {
    /// # Safety
    /// `at` is inside the result and nobody else's.
    unsafe fn put(&self, at: usize, v: f32, accumulate: bool) {
        // SAFETY: as the caller promises.
        unsafe {
            match *self {
                Base::F32(out) => *out.add(at) = if accumulate { *out.add(at) + v } else { v },
                Base::Bf16(out) => {
                    *out.add(at) = bf16::from_f32(if accumulate { (*out.add(at)).to_f32() + v } else { v })
                }
                Base::F16(out) => {
                    *out.add(at) = f16::from_f32(if accumulate { (*out.add(at)).to_f32() + v } else { v })
                }
            }
        }
    }
}

/// Calls `work` with rows `s0..s0 + rows` in a storage that [`group`] reads: others are converted into the cache first.
fn with_rows(isa: Isa, stream: Mat, s0: usize, rows: usize, k: usize, work: impl FnOnce(Mat)) {
    let range = s0 * k..(s0 + rows) * k;
    match stream {
        Mat::F32(w) => work(Mat::F32(&w[range])),
        Mat::Bf16(w) => work(Mat::Bf16(&w[range])),
        Mat::F16(w) if matches!(isa, Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx) => work(Mat::F16(&w[range])),
        Mat::F16(_) | Mat::Quant(..) => scratch::with(Slot::Converted, rows * k * 4, |buffer| {
            // SAFETY: the buffer holds that many f32, which allow any bits.
            let wide = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<f32>(), rows * k) };
            convert::to_f32(isa, wide, stream, s0 * k);
            work(Mat::F32(wide));
        }),
    }
}

/// `sums[i * GROUP + j]` = few row `i` · stream row `j`.
fn group(isa: Isa, sums: &mut [f32; GROUP * 8], few: Few, fs: usize, stream: Mat, rows: usize, k: usize) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` is only made for what the processor has.
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => unsafe {
            super::dots_avx512::group(sums, few, fs, stream, rows, k)
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { group_avx2(sums, few, fs, stream, rows, k) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDot => group_lanes::<true>(sums, few, fs, stream, rows, k),
        _ => group_lanes::<false>(sums, few, fs, stream, rows, k),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn group_avx2(sums: &mut [f32; GROUP * 8], few: Few, fs: usize, stream: Mat, rows: usize, k: usize) {
    group_lanes::<true>(sums, few, fs, stream, rows, k);
}

#[inline(always)]
fn group_lanes<const FUSED: bool>(
    sums: &mut [f32; GROUP * 8],
    few: Few,
    fs: usize,
    stream: Mat,
    rows: usize,
    k: usize,
) {
    let Few::F32(few) = few else { unreachable!("bf16 products are for tables that have them") };
    for j in 0..rows {
        for i in 0..fs {
            let x = &few[i * k..][..k];
            sums[i * GROUP + j] = match stream {
                Mat::F32(w) => dot::<FUSED, _>(x, &w[j * k..][..k], |v| *v),
                Mat::Bf16(w) => dot::<FUSED, _>(x, &w[j * k..][..k], |v| f32::from_bits((v.to_bits() as u32) << 16)),
                Mat::F16(_) | Mat::Quant(..) => unreachable!("these rows are converted first"),
            };
        }
    }
}

#[inline(always)]
fn dot<const FUSED: bool, T>(x: &[f32], w: &[T], widen: impl Fn(&T) -> f32) -> f32 {
    let mut acc = [0f32; 32];
    let (xs, ws) = (x.chunks_exact(32), w.chunks_exact(32));
    let (x_rest, w_rest) = (xs.remainder(), ws.remainder());
    for (x, w) in xs.zip(ws) {
        for i in 0..32 {
            // Unfused on tables without the instruction, where the library function is slow.
            acc[i] = if FUSED { x[i].mul_add(widen(&w[i]), acc[i]) } else { acc[i] + x[i] * widen(&w[i]) };
        }
    }
    for (i, (x, w)) in x_rest.iter().zip(w_rest).enumerate() {
        acc[i] += x * widen(w);
    }
    // Halves, in a fixed order.
    for width in [16, 8, 4, 2, 1] {
        for i in 0..width {
            acc[i] += acc[i + width];
        }
    }
    acc[0]
}

#[cfg(test)]
mod tests {
    use super::super::tests::uniform;
    use crate::{Cpu, In, Isa, Mat, Out};

    /// Every row of a product has the bits that it has alone, and its sum is right.
    #[test]
    fn products_by_rows_do_not_depend_on_the_rows_beside() {
        for isa in Isa::available() {
            let cpu = Cpu::with_isa(2, isa);
            for (m, n, k) in [(1, 16, 70), (5, 3, 33), (9, 16, 576), (40, 16, 100), (40, 130, 16), (150, 40, 7)] {
                let mut state = 5;
                let mut random = |len: usize| (0..len).map(|_| uniform(&mut state)).collect::<Vec<f32>>();
                let (x, w, base) = (random(m * k), random(n * k), random(m * n));
                let product = |from: usize, rows: usize| {
                    let mut out = base[from * n..(from + rows) * n].to_vec();
                    let x = In::F32(&x[from * k..(from + rows) * k]);
                    cpu.matmul_nt_by_rows(Out::F32(&mut out), x, Mat::F32(&w), true, rows, n, k);
                    out
                };
                let whole = product(0, m);
                for i in 0..m {
                    assert_eq!(product(i, 1), whole[i * n..(i + 1) * n], "{isa:?} row {i} of [{m}, {n}, {k}]");
                }
                for (at, got) in whole.iter().enumerate() {
                    let (x, w) = (&x[at / n * k..][..k], &w[at % n * k..][..k]);
                    let sum: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                    assert!((f64::from(*got) - sum - f64::from(base[at])).abs() < 1e-4, "{isa:?} {at}: {got} {sum}");
                }
            }
        }
    }
}
