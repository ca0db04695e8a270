//! What this machine can do at most, measured: arithmetic per type and read bandwidth per level of memory.

use crate::{Cpu, Isa, Pages};
use std::hint::black_box;
use std::time::Instant;

/// Each rate is the best of this many runs: other processes only make it slower.
const RUNS: usize = 25;
/// Seconds of one run, about: short, so that some run has the cores to itself.
const RUN_S: f64 = 0.006;
/// Words of 8 bytes that a thread takes at a time where threads share one buffer.
const CHUNK_WORDS: usize = 4096;

impl Cpu {
    /// f32 fused multiply-adds with nothing from memory, FLOP/s over all threads of the pool.
    pub fn measure_f32_flops(&self) -> f64 {
        self.rate(match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => x86::F32_AVX512,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::F32_AVX2,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot => arm::F32_NEON,
            _ => PORTABLE,
        })
    }

    /// bf16 products with f32 accumulation, FLOP/s; `None` where the table emulates them.
    pub fn measure_bf16_flops(&self) -> Option<f64> {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Some(self.rate(x86::BF16_AVX512)),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Some(self.rate(x86::BF16_AMX)),
            _ => None,
        }
    }

    /// int8 dot products, op/s; `None` where the table emulates them.
    pub fn measure_int8_ops(&self) -> Option<f64> {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx => Some(self.rate(x86::INT8_AVX512)),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => Some(self.rate(arm::INT8_DOTPROD)),
            _ => None,
        }
    }

    /// Bytes per second read from a working set of `bytes` per thread.
    pub fn measure_read_bandwidth(&self, bytes: usize) -> f64 {
        let words = (bytes / 8).max(64);
        // Written, so that every page is really there.
        let sets: Vec<Vec<u64>> = (0..self.threads()).map(|t| (0..words).map(|i| (i ^ t) as u64).collect()).collect();
        let once = || {
            self.pool.run(sets.len(), |set, _| {
                black_box(sum(black_box(&sets[set]), self.isa));
            })
        };
        once();
        let start = Instant::now();
        once();
        let passes = (RUN_S / start.elapsed().as_secs_f64().max(1e-9)).clamp(1.0, 1e6) as usize;
        best(|| {
            let start = Instant::now();
            // Each thread keeps to one set for the whole run, or caches would trade places.
            self.pool.run(sets.len(), |set, _| {
                for _ in 0..passes {
                    black_box(sum(black_box(&sets[set]), self.isa));
                }
            });
            (sets.len() * passes * words * 8) as f64 / start.elapsed().as_secs_f64()
        })
    }

    /// Bytes per second at which all threads together read one buffer of `bytes` bytes, the median of `passes`: what memory gives for as
    /// long as that takes, beside whatever else uses it. Fails where there is no memory for it.
    pub fn measure_steady_reading(&self, bytes: usize, passes: usize) -> std::io::Result<f64> {
        let mut pages = Pages::map(bytes.max(64), true)?;
        // Written, so that every page is really there.
        pages.bytes_mut().fill(1);
        let chunks: Vec<&[u64]> = bytemuck::pod_align_to(pages.bytes()).1.chunks(CHUNK_WORDS).collect();
        let pass = |_| {
            let start = Instant::now();
            self.pool.run(chunks.len(), |chunk, _| {
                black_box(sum(chunks[chunk], self.isa));
            });
            start.elapsed().as_secs_f64()
        };
        let mut seconds: Vec<f64> = (0..passes.max(1)).map(pass).collect();
        seconds.sort_by(f64::total_cmp);
        Ok(pages.len() as f64 / seconds[seconds.len() / 2])
    }

    /// Operations per second on all threads.
    fn rate(&self, loop_: Loop) -> f64 {
        // SAFETY: the callers chose the loop by `self.isa`, which is only made for what the processor has.
        let turn = |turns| unsafe { (loop_.run)(turns) };
        let probe = Instant::now();
        turn(20_000);
        let turns = (20_000.0 * RUN_S / probe.elapsed().as_secs_f64().max(1e-9)) as usize + 1;
        best(|| {
            let start = Instant::now();
            self.pool.run(self.threads(), |_, _| turn(turns));
            (self.threads() * turns * loop_.operations) as f64 / start.elapsed().as_secs_f64()
        })
    }
}

/// A loop of independent operations, and how many one turn makes.
#[derive(Clone, Copy)]
struct Loop {
    operations: usize,
    run: unsafe fn(usize),
}

fn best(run: impl Fn() -> f64) -> f64 {
    (0..RUNS).map(|_| run()).fold(0.0, f64::max)
}

fn sum(words: &[u64], isa: Isa) -> u64 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` is only made for what the processor has.
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => unsafe { x86::sum_avx512(words) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::sum_avx2(words) },
        _ => sum_lanes(words),
    }
}

/// Enough independent sums to hide the latency of an addition; the compiler makes vectors of them.
#[inline(always)]
fn sum_lanes(words: &[u64]) -> u64 {
    let mut sums = [0u64; 64];
    for lane in words.chunks_exact(64) {
        for (s, w) in sums.iter_mut().zip(lane) {
            *s = s.wrapping_add(*w);
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// Multiply and add, unfused: what portable code compiles to.
const PORTABLE: Loop = Loop {
    operations: 2 * 48,
    run: |turns| {
        let (a, b) = (black_box([0.999f32; 48]), black_box(1e-3f32));
        let mut acc = [1f32; 48];
        for _ in 0..turns {
            for (acc, a) in acc.iter_mut().zip(&a) {
                *acc = *acc * a + b;
            }
        }
        black_box(acc);
    },
};

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{Loop, black_box};
    use crate::matmul::sdot;
    use std::arch::aarch64::*;

    /// Accumulators of a loop, as for x86.
    const MANY: usize = 24;

    pub const F32_NEON: Loop = Loop { operations: MANY * 4 * 2, run: f32_neon };
    pub const INT8_DOTPROD: Loop = Loop { operations: MANY * 16 * 2, run: int8_dotprod };

    #[target_feature(enable = "neon")]
    fn f32_neon(turns: usize) {
        let (a, b) = (vdupq_n_f32(black_box(0.999)), vdupq_n_f32(black_box(1e-3)));
        let mut acc = [vdupq_n_f32(1.0); MANY];
        for _ in 0..turns {
            for acc in &mut acc {
                *acc = vfmaq_f32(b, *acc, a);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "neon,dotprod")]
    fn int8_dotprod(turns: usize) {
        let a = vdupq_n_s8(black_box(1));
        let mut acc = [vdupq_n_s32(1); MANY];
        for _ in 0..turns {
            for acc in &mut acc {
                *acc = sdot(*acc, a, a);
            }
        }
        black_box(acc);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Loop, black_box};
    use crate::matmul::amx;
    use std::arch::x86_64::*;

    /// Accumulators of a loop: more than latency × operations per cycle of any processor, and as many as fit registers.
    const MANY: usize = 24;
    const FEW: usize = 12;

    pub const F32_AVX512: Loop = Loop { operations: MANY * 16 * 2, run: f32_avx512 };
    pub const F32_AVX2: Loop = Loop { operations: FEW * 8 * 2, run: f32_avx2 };
    pub const BF16_AVX512: Loop = Loop { operations: MANY * 32 * 2, run: bf16_avx512 };
    pub const BF16_AMX: Loop = Loop { operations: amx::OPERATIONS, run: amx::multiply };
    pub const INT8_AVX512: Loop = Loop { operations: MANY * 64 * 2, run: int8_avx512 };

    #[target_feature(enable = "avx512f")]
    fn f32_avx512(turns: usize) {
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(1e-3)));
        let mut acc = [_mm512_set1_ps(1.0); MANY];
        for _ in 0..turns {
            for acc in &mut acc {
                *acc = _mm512_fmadd_ps(*acc, a, b);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx2,fma")]
    fn f32_avx2(turns: usize) {
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
        let mut acc = [_mm256_set1_ps(1.0); FEW];
        for _ in 0..turns {
            for acc in &mut acc {
                *acc = _mm256_fmadd_ps(*acc, a, b);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bf16_avx512(turns: usize) {
        let small = _mm512_set1_ps(black_box(1e-3));
        let a = _mm512_cvtne2ps_pbh(small, small);
        let mut acc = [_mm512_set1_ps(1.0); MANY];
        for _ in 0..turns {
            for acc in &mut acc {
                *acc = _mm512_dpbf16_ps(*acc, a, a);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn int8_avx512(turns: usize) {
        let a = _mm512_set1_epi8(black_box(1));
        let mut acc = [_mm512_set1_epi32(1); MANY];
        for _ in 0..turns {
            for acc in &mut acc {
                *acc = _mm512_dpbusd_epi32(*acc, a, a);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx512f")]
    pub fn sum_avx512(words: &[u64]) -> u64 {
        super::sum_lanes(words)
    }

    #[target_feature(enable = "avx2")]
    pub fn sum_avx2(words: &[u64]) -> u64 {
        super::sum_lanes(words)
    }
}
