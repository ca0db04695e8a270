//! [`Cpu`]: one instruction set's function table and one thread pool; every kernel is a method on it.

use crate::Pool;

/// An instruction set with a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and DQ.
    Avx512,
    /// AVX-512 with BF16 and VNNI.
    Avx512Bf16,
    /// AVX-512 with BF16 and VNNI, and AMX: tiles that multiply bf16.
    Amx,
    /// What every 64-bit ARM processor has.
    Neon,
    /// NEON with the int8 dot products of ARMv8.2 (`dotprod`).
    NeonDot,
}

#[derive(Debug)]
pub struct Cpu {
    pub(crate) isa: Isa,
    pub(crate) pool: Pool,
}

impl Cpu {
    /// The best table this machine can run, on `threads` threads (0: as many as the process may use).
    pub fn new(threads: usize) -> Cpu {
        Cpu::with_isa(threads, Isa::detect())
    }

    /// A chosen table, for tests and comparisons. Panics if the machine lacks it.
    pub fn with_isa(threads: usize, isa: Isa) -> Cpu {
        assert!(Isa::available().contains(&isa), "this processor has no {isa:?}");
        Cpu { isa, pool: Pool::new(threads) }
    }

    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }
}

impl Isa {
    /// Whether the table has AVX-512 with BF16 and VNNI.
    pub(crate) fn has_avx512_bf16(self) -> bool {
        matches!(self, Isa::Avx512Bf16 | Isa::Amx)
    }

    /// The best instruction set of this machine.
    pub fn detect() -> Isa {
        *Isa::available().last().expect("portable is always there")
    }

    /// All that this machine can run, worst first.
    pub fn available() -> Vec<Isa> {
        #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), expect(unused_mut))]
        let mut all = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                all.push(Isa::Avx2);
                if has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq") {
                    all.push(Isa::Avx512);
                    if has!("avx512bf16") && has!("avx512vnni") {
                        all.push(Isa::Avx512Bf16);
                        if crate::matmul::amx::usable() {
                            all.push(Isa::Amx);
                        }
                    }
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            all.push(Isa::Neon);
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                all.push(Isa::NeonDot);
            }
        }
        all
    }
}
