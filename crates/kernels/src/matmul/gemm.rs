//! The general product: one operand is packed for all threads, the other block by block inside the tasks.
//! The structure is that of BLIS (Van Zee & van de Geijn 2015) with the inner loops chosen by which operand is smaller.
//!
//! Every sum runs over `k` in order, in blocks that depend on `k` only: the bits of a result do not depend on threads,
//! on the task split, or on the other rows of the product.

use super::pack::{Operand, Part, Role, pack};
use super::tile::{Kernel, LINE, Tile};
use crate::scratch::{self, Slot};
use crate::{Isa, Out, Pool, convert, f16};

/// Most steps between two visits of a sum: panels of both operands stay within the second-level cache.
const MAX_STEPS: usize = 1024;
/// Steps that one chunk of packing takes; whole blocks of every format.
const PACK_STEPS: usize = 256;
/// A local block is about this large, to leave the second-level cache room for the other operand.
const LOCAL_BYTES: usize = 256 << 10;
/// The shared operand is packed at most this much at a time.
const SHARED_BYTES: usize = 32 << 20;
/// Tasks wanted at least: with fewer, threads wait for the last one.
const TASKS: usize = 32;
/// Results with a side of at most so much are made mostly of packing.
const SKINNY: usize = 64;
/// Between panels: at distances of a power of two they would fight for the same places of the caches.
const PAD: usize = 128;

/// How a product is cut; depends on its sizes only.
struct Cut {
    /// B is packed for all threads; otherwise A.
    b_shared: bool,
    /// Steps of the sum and of one block of it.
    steps: usize,
    block: usize,
    /// Rows or columns in a panel of the shared and of the local operand.
    shared_width: usize,
    local_width: usize,
    /// Panels packed at a time.
    shared_panels: usize,
    local_panels: usize,
}

impl Cut {
    /// `b_across`: B's rows run across the sum, and A's do not.
    fn new(kernel: &Kernel, b_across: bool, m: usize, n: usize, k: usize) -> Cut {
        let steps = k.div_ceil(kernel.per_unit());
        let blocks = steps.div_ceil(MAX_STEPS);
        let block = steps.div_ceil(blocks).next_multiple_of(if blocks > 1 { PACK_STEPS } else { LINE });
        // Packed by single panels, an operand that runs across would be read a line here and a line there.
        let b_shared = n <= m || (b_across && n <= 4 * m);
        let (shared_len, local_len) = if b_shared { (n, m) } else { (m, n) };
        let (shared_width, local_width) = if b_shared { (kernel.nr, kernel.mr()) } else { (kernel.mr(), kernel.nr) };
        let whole = steps.next_multiple_of(block) * 4;
        let shared_panels = (SHARED_BYTES / (shared_width * whole)).clamp(1, shared_len.div_ceil(shared_width));
        let panels = local_len.div_ceil(local_width);
        let local_panels = (LOCAL_BYTES / (local_width * block * 4)).clamp(1, (panels / TASKS).max(1));
        Cut { b_shared, steps, block, shared_width, local_width, shared_panels, local_panels }
    }
    fn shared_panel_bytes(&self) -> usize {
        self.shared_width * self.block * 4 + PAD
    }
    fn local_panel_bytes(&self) -> usize {
        self.local_width * self.block * 4 + PAD
    }
    fn blocks(&self) -> usize {
        self.steps.div_ceil(self.block)
    }
    fn shared_bytes(&self) -> usize {
        self.blocks() * self.shared_panels * self.shared_panel_bytes()
    }
}

/// Scratch memory that a product of this size keeps, at most, over all threads. `waits`: its result is f16.
pub(super) fn scratch_bytes(
    kernel: &Kernel,
    threads: usize,
    b_across: bool,
    waits: bool,
    m: usize,
    n: usize,
    k: usize,
) -> usize {
    if m * n * k == 0 {
        return 0;
    }
    let cut = Cut::new(kernel, b_across, m, n, k);
    let local = cut.local_panels * cut.local_panel_bytes();
    let partial =
        cut.local_panels * cut.local_width * (if cut.b_shared { n } else { m }).next_multiple_of(cut.shared_width) * 4;
    // Rows of one panel along the sum, or a strip of 32 rows across it.
    let converted = (kernel.nr * cut.block * 4).max(32 * (m.max(n) + 256) * 4);
    cut.shared_bytes() + threads * (local + converted + if waits || cut.blocks() > 1 { partial } else { 0 })
}

/// A pointer that tasks may share because they use separate parts of it.
#[derive(Clone, Copy)]
struct Apart<T>(*mut T);
// SAFETY: see the uses: chunks write disjoint ranges.
unsafe impl<T> Sync for Apart<T> {}
impl<T> Apart<T> {
    fn get(self) -> *mut T {
        self.0
    }
}

/// `out[m, n] = a · b` (`+ out`).
pub(super) fn gemm(
    pool: &Pool,
    isa: Isa,
    kernel: &Kernel,
    mut out: Out,
    mut a: Operand,
    mut b: Operand,
    accumulate: bool,
    m: usize,
    n: usize,
    k: usize,
) {
    let ahead = m.min(n) > SKINNY;
    (a.ahead, b.ahead) = (ahead, ahead);
    assert!(out.len() == m * n && a.len == m && b.len == n && a.k == k && b.k == k && m * n * k > 0);
    let (base, stored): (*mut u8, Stored) = match &mut out {
        Out::F32(out) => (out.as_mut_ptr().cast(), Stored::F32),
        Out::Bf16(out) => (out.as_mut_ptr().cast(), Stored::Bf16),
        Out::F16(out) => (out.as_mut_ptr().cast(), Stored::F16),
    };
    let base = Apart(base);
    let cut = Cut::new(kernel, b.across && !a.across, m, n, k);
    let (shared, local) = if cut.b_shared { (b, a) } else { (a, b) };
    let (shared_role, local_role) = if cut.b_shared { (Role::B, Role::A) } else { (Role::A, Role::B) };
    let tiles = if a.across && kernel.turn.is_none() { kernel.across } else { kernel.lines };
    let panels = shared.len.div_ceil(cut.shared_width);

    scratch::with(Slot::Shared, cut.shared_bytes(), |packed| {
        let packed = Apart(packed);
        for p0 in (0..panels).step_by(cut.shared_panels) {
            let here = cut.shared_panels.min(panels - p0);
            pack_shared(pool, isa, kernel, &cut, shared_role, shared, p0, here, packed);
            let local_all = local.len.div_ceil(cut.local_width);
            pool.run(local_all.div_ceil(cut.local_panels), |task, _| {
                let l0 = task * cut.local_panels;
                let task = Task {
                    isa,
                    kernel,
                    cut: &cut,
                    role: local_role,
                    operand: local,
                    locals: l0..local_all.min(l0 + cut.local_panels),
                    shared_len: shared.len,
                    shareds: p0..p0 + here,
                    packed: packed.get(),
                    tiles,
                };
                // SAFETY: `out` is `[m, n]`; tasks write separate rows or columns of it.
                unsafe { task.run(base.get(), stored, n, accumulate) };
            });
        }
    });
}

/// Packs panels `p0..p0 + panels` of the shared operand: `[block][panel]`.
fn pack_shared(
    pool: &Pool,
    isa: Isa,
    kernel: &Kernel,
    cut: &Cut,
    role: Role,
    shared: Operand,
    p0: usize,
    panels: usize,
    packed: Apart<u8>,
) {
    // Across the sum, several panels share a converted strip.
    let group = if shared.across { 8 } else { 1 };
    let (groups, parts) = (panels.div_ceil(group), cut.steps.div_ceil(PACK_STEPS));
    pool.run(groups * parts, |chunk, _| {
        let (g, s0) = (chunk / parts * group, chunk % parts * PACK_STEPS);
        let (block, inside) = (s0 / cut.block, s0 % cut.block);
        let at = (block * panels + g) * cut.shared_panel_bytes() + inside * cut.shared_width * 4;
        let part = Part { panels: p0 + g..p0 + panels.min(g + group), steps: s0..cut.steps.min(s0 + PACK_STEPS) };
        // SAFETY: the buffer holds all panels; chunks write separate steps and panels.
        unsafe { pack(isa, kernel, role, shared, part, packed.get().add(at), cut.shared_panel_bytes()) };
    });
}

/// What a result is stored as. The micro-kernels write f32 and bf16.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stored {
    F32,
    Bf16,
    F16,
}

/// One task: some panels of the local operand against all packed ones of the other.
struct Task<'a> {
    isa: Isa,
    kernel: &'a Kernel,
    cut: &'a Cut,
    role: Role,
    operand: Operand<'a>,
    locals: std::ops::Range<usize>,
    shared_len: usize,
    shareds: std::ops::Range<usize>,
    packed: *const u8,
    tiles: &'a [super::tile::TileFn],
}

impl Task<'_> {
    /// # Safety
    /// `out` is a matrix with rows of `n` elements that nothing else writes where this task does.
    unsafe fn run(&self, out: *mut u8, stored: Stored, n: usize, accumulate: bool) {
        let cut = self.cut;
        let _ready = self.kernel.ready();
        let (bf16, f16) = (stored == Stored::Bf16, stored == Stored::F16);
        // Unfinished sums of a bf16 result, and all of an f16 one, wait in f32, in a matrix of the task's own.
        let wait = f16 || bf16 && cut.blocks() > 1;
        let (rows, cols) = (self.locals.len() * cut.local_width, self.shareds.len() * cut.shared_width);
        let partial_ld = if cut.b_shared { cols } else { rows };
        scratch::with(Slot::Partial, if wait { rows * cols * 4 } else { 0 }, |partial| {
            scratch::with(Slot::Local, self.locals.len() * cut.local_panel_bytes(), |local| {
                for block in 0..cut.blocks() {
                    let s0 = block * cut.block;
                    let steps = cut.block.min(cut.steps - s0);
                    let part = Part { panels: self.locals.clone(), steps: s0..s0 + steps };
                    // SAFETY: the buffer holds the task's panels.
                    unsafe {
                        pack(self.isa, self.kernel, self.role, self.operand, part, local, cut.local_panel_bytes());
                    }
                    let (first, last) = (block == 0, block + 1 == cut.blocks());
                    for (s, sp) in self.shareds.clone().enumerate() {
                        let at = (block * self.shareds.len() + s) * cut.shared_panel_bytes();
                        let shared = self.packed.wrapping_add(at);
                        for (l, lp) in self.locals.clone().enumerate() {
                            let local = local.wrapping_add(l * cut.local_panel_bytes()).cast_const();
                            let (l0, s0) = (lp * cut.local_width, sp * cut.shared_width);
                            let (l_len, s_len) = (
                                cut.local_width.min(self.operand.len - l0),
                                cut.shared_width.min(self.shared_len - s0),
                            );
                            let (a, b, i, j, rows, cols) = if cut.b_shared {
                                (local, shared, l0, s0, l_len, s_len)
                            } else {
                                (shared, local, s0, l0, s_len, l_len)
                            };
                            let mine = if cut.b_shared {
                                l * cut.local_width * partial_ld + s * cut.shared_width
                            } else {
                                s * cut.shared_width * partial_ld + l * cut.local_width
                            };
                            let there = out.wrapping_add((i * n + j) * if bf16 { 2 } else { 4 });
                            let partial = partial.cast::<f32>().wrapping_add(mine);
                            let (init, init_ld) = match (wait, first) {
                                (true, true) => (std::ptr::null(), 0),
                                (true, false) => (partial.cast_const(), partial_ld),
                                (false, first) if !bf16 && (accumulate || !first) => (there.cast_const().cast(), n),
                                _ => (std::ptr::null(), 0),
                            };
                            let tile = if wait && (f16 || !last) {
                                let out = partial.cast();
                                Tile {
                                    a,
                                    b,
                                    steps,
                                    init,
                                    init_ld,
                                    out,
                                    out_ld: partial_ld,
                                    bf16: false,
                                    add: false,
                                    cols,
                                }
                            } else {
                                let add = bf16 && accumulate;
                                Tile { a, b, steps, init, init_ld, out: there, out_ld: n, bf16, add, cols }
                            };
                            // SAFETY: the panels are packed for these steps; the tile lies inside the matrices.
                            unsafe { (self.tiles[rows - 1])(&tile) };
                        }
                    }
                }
            });
            if f16 {
                // SAFETY: this function's contract; the tiles have filled the task's own matrix.
                unsafe { self.finish_f16(out.cast(), partial.cast(), partial_ld, n, accumulate) };
            }
        });
    }

    /// Rounds the task's sums, rows `ld` apart, into its part of `out`.
    ///
    /// # Safety
    /// As of [`Task::run`]; `sums` holds the task's rows and columns.
    unsafe fn finish_f16(&self, out: *mut f16, sums: *const f32, ld: usize, n: usize, accumulate: bool) {
        let range = |panels: &std::ops::Range<usize>, width: usize, len: usize| {
            (panels.start * width)..len.min(panels.end * width)
        };
        let locals = range(&self.locals, self.cut.local_width, self.operand.len);
        let shareds = range(&self.shareds, self.cut.shared_width, self.shared_len);
        let (rows, cols) = if self.cut.b_shared { (locals, shareds) } else { (shareds, locals) };
        for (r, row) in rows.enumerate() {
            // SAFETY: the row of sums and its place in `out` are this task's alone.
            let (out, sums) = unsafe {
                (
                    std::slice::from_raw_parts_mut(out.add(row * n + cols.start), cols.len()),
                    std::slice::from_raw_parts(sums.add(r * ld), cols.len()),
                )
            };
            convert::narrow_f16(self.isa, out, sums, accumulate);
        }
    }
}
