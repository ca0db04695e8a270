//! [`Cpu`]: one instruction set's function table and one thread pool; every kernel is a method on it.

use crate::Pool;

/// An instruction set with a table of its own. `Avx512Bf16` also has VNNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    Portable,
    Avx2,
    Avx512,
    Avx512Bf16,
    Neon,
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
    /// The best instruction set of this machine.
    pub fn detect() -> Isa {
        *Isa::available().last().expect("portable is always there")
    }

    /// All that this machine can run, worst first.
    pub fn available() -> Vec<Isa> {
        vec![Isa::Portable]
    }
}
