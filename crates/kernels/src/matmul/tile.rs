//! The contract between packing, driver and micro-kernels.
//!
//! Everything is measured in *units* of four bytes: one f32, or two bf16 that are neighbours along the sum. A *step* is
//! one unit along the sum. Panels:
//! - B: `[steps][nr]` units;
//! - A in lines: `[steps / 16][mr][16]` units, so that packing an operand whose rows run along the sum copies whole
//!   cache lines; steps after the last are never read;
//! - A across: `[steps][mr]` units, for an operand whose rows run across the sum.

/// One micro-tile: `rows × cols` sums of `steps` products.
pub(super) struct Tile {
    pub a: *const u8,
    pub b: *const u8,
    pub steps: usize,
    /// Added to the sums, rows `init_ld` apart; null: nothing.
    pub init: *const f32,
    pub init_ld: usize,
    /// Where the sums go: f32, or bf16 if `bf16`; rows `out_ld` elements apart.
    pub out: *mut u8,
    pub out_ld: usize,
    pub bf16: bool,
    /// Add what a bf16 `out` holds (an f32 one is passed as `init`).
    pub add: bool,
    /// `1..=nr`.
    pub cols: usize,
}

/// A micro-kernel for a fixed number of rows.
pub(super) type TileFn = unsafe fn(&Tile);

/// The micro-kernels of one instruction set and product type.
pub(super) struct Kernel {
    pub nr: usize,
    /// Units are bf16 pairs.
    pub pairs: bool,
    /// By rows - 1, for A in lines. The length is `mr`.
    pub lines: &'static [TileFn],
    /// The same for A across; none where `turn` puts A into lines even then.
    pub across: &'static [TileFn],
    /// Makes 16 steps of a panel of A across, of which the given number count, a line of it; the others become zeros.
    pub turn: Option<unsafe fn(*mut u8, usize)>,
    /// What a thread has to do before and after it runs micro-kernels.
    pub state: Option<State>,
}

/// Registers that a thread sets up for its micro-kernels.
#[derive(Clone, Copy)]
pub(super) struct State {
    pub enter: unsafe fn(),
    pub leave: unsafe fn(),
}

/// While it lives, this thread may run the kernel's micro-kernels.
pub(super) struct Ready(Option<State>);

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(state) = self.0 {
            // SAFETY: as in [`Kernel::ready`].
            unsafe { (state.leave)() }
        }
    }
}

impl Kernel {
    pub fn mr(&self) -> usize {
        self.lines.len()
    }
    pub fn ready(&self) -> Ready {
        if let Some(state) = self.state {
            // SAFETY: a kernel is only used where the processor has its instructions.
            unsafe { (state.enter)() }
        }
        Ready(self.state)
    }
    /// Elements along the sum in a unit.
    pub fn per_unit(&self) -> usize {
        if self.pairs { 2 } else { 1 }
    }
    pub fn element_bytes(&self) -> usize {
        if self.pairs { 2 } else { 4 }
    }
}

/// Bytes between what a product of one row reads and what it fetches into the second-level cache: what memory gives in about 150 ns, its
/// latency.
#[cfg(target_arch = "x86_64")]
pub(super) const AHEAD: usize = 4096;

/// Steps in a cache line.
pub(super) const LINE: usize = 16;

/// `body` for each row below `R` (at most 14), written out: the compiler does not unroll loops over more registers than
/// a few and keeps the sums in memory, at 2.5 cycles a product instead of one.
macro_rules! each_row {
    ($rows:ident, $r:ident, $body:block) => {
        each_row!(@ $rows, $r, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $rows:ident, $r:ident, $body:block, $($i:literal)*) => {
        $(if $i < $rows {
            let $r: usize = $i;
            $body
        })*
    };
}
pub(super) use each_row;
