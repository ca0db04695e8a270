//! Where tensors live: an arena that hands out what was let go, and knows how much is in use, for what. The dry device runs the
//! same arena without memory behind it, so its peak is the real one, not an estimate.

use std::sync::{Arc, Mutex};

use crate::space::{LINE, Piece, Space};

/// What a buffer is for; the plan shows memory by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    Weights,
    Adapters,
    Gradients,
    Optimizer,
    Activations,
    Workspace,
    /// Keys and values of a context that fills slowly.
    Cache,
}

impl Purpose {
    pub const ALL: [Purpose; 7] = [
        Purpose::Weights,
        Purpose::Adapters,
        Purpose::Gradients,
        Purpose::Optimizer,
        Purpose::Activations,
        Purpose::Workspace,
        Purpose::Cache,
    ];
}

/// Bytes in use, by purpose (in the order of [`Purpose::ALL`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    pub live_bytes: [usize; 7],
    /// Live bytes by purpose at the moment when their sum was highest.
    pub at_peak_bytes: [usize; 7],
    pub peak_bytes: usize,
    /// Held from the system, in use or cached, and the most ever held.
    pub reserved_bytes: usize,
    pub peak_reserved_bytes: usize,
}

impl MemoryUse {
    pub fn live(&self) -> usize {
        self.live_bytes.iter().sum()
    }
}

/// An allocator. Buffers come back when their last owner drops them, join what is free beside them and are handed out again, cut
/// to size. Equal steps therefore find the memory of those before. What is held beyond the peak of what was in use at once is
/// bounded by an eighth of that peak, except for pages that a buffer has a part of.
#[derive(Debug)]
pub struct Arena {
    real: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    space: Space,
    taken: usize,
    usage: MemoryUse,
}

/// A buffer of whole lines; without memory on the dry device.
#[derive(Debug)]
pub(crate) struct Buffer {
    piece: Piece,
    /// As it was asked for.
    length: usize,
    purpose: Purpose,
    arena: Arc<Arena>,
}

impl Arena {
    pub(crate) fn new(real: bool) -> Arc<Arena> {
        let state = State { space: Space::new(real), taken: 0, usage: MemoryUse::default() };
        Arc::new(Arena { real, state: Mutex::new(state) })
    }

    /// A buffer of at least `bytes`; its contents are whatever they were.
    pub(crate) fn allocate(self: &Arc<Self>, bytes: usize, purpose: Purpose) -> Buffer {
        let len = bytes.max(1).next_multiple_of(LINE);
        let mut state = self.state.lock().expect("arena lock");
        let (piece, fresh) = match purpose {
            // Touched little by little, a cache must not grow in steps of megabytes.
            Purpose::Cache => (Piece::alone(len, self.real), true),
            _ => state.space.take(len),
        };
        state.occupy(len, purpose);
        if fresh {
            state.taken += 1;
            let (peak, caches) = (state.usage.peak_bytes, state.usage.live_bytes[Purpose::Cache as usize]);
            state.space.shrink(peak + peak / 8 - caches);
            state.note_reserved();
        }
        Buffer { piece, length: bytes, purpose, arena: self.clone() }
    }

    pub fn usage(&self) -> MemoryUse {
        self.state.lock().expect("arena lock").usage
    }

    /// How many buffers so far needed memory from the system, and found less than their size in what was let go.
    pub fn taken(&self) -> usize {
        self.state.lock().expect("arena lock").taken
    }

    /// Forgets the peak so far: the next reading is about what comes after.
    pub fn reset_peak(&self) {
        let mut state = self.state.lock().expect("arena lock");
        state.usage.peak_bytes = state.usage.live();
        state.usage.at_peak_bytes = state.usage.live_bytes;
        state.usage.peak_reserved_bytes = state.usage.reserved_bytes;
    }

    /// Gives every page that no buffer has a part of back to the system.
    pub fn trim(&self) {
        let mut state = self.state.lock().expect("arena lock");
        state.space.shrink(0);
        state.note_reserved();
    }
}

impl State {
    fn occupy(&mut self, len: usize, purpose: Purpose) {
        self.usage.live_bytes[purpose as usize] += len;
        if self.usage.live() > self.usage.peak_bytes {
            self.usage.peak_bytes = self.usage.live();
            self.usage.at_peak_bytes = self.usage.live_bytes;
        }
    }

    fn note_reserved(&mut self) {
        self.usage.reserved_bytes = self.space.held_bytes() + self.usage.live_bytes[Purpose::Cache as usize];
        self.usage.peak_reserved_bytes = self.usage.peak_reserved_bytes.max(self.usage.reserved_bytes);
    }
}

impl Buffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.piece.bytes()
    }
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.piece.bytes_mut()
    }
    pub(crate) fn purpose(&self) -> Purpose {
        self.purpose
    }
    /// Bytes that were asked for; there may be more.
    pub(crate) fn length(&self) -> usize {
        self.length
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let piece = std::mem::take(&mut self.piece);
        let Ok(mut state) = self.arena.state.lock() else { return };
        state.usage.live_bytes[self.purpose as usize] -= piece.len();
        match self.purpose {
            Purpose::Cache => {
                drop(piece);
                state.note_reserved();
            }
            _ => state.space.give(piece),
        }
    }
}

#[cfg(test)]
mod tests {
    use ounce_kernels::LARGE_PAGE;

    use super::*;

    #[test]
    fn freed_buffers_are_reused_and_the_peak_is_remembered() {
        let arena = Arena::new(true);
        let a = arena.allocate(1000, Purpose::Activations);
        let b = arena.allocate(4000, Purpose::Weights);
        let peak = arena.usage().peak_bytes;
        assert_eq!(peak, 1024 + 4032);
        drop(a);
        let c = arena.allocate(1000, Purpose::Activations);
        assert_eq!(arena.usage().peak_bytes, peak);
        assert_eq!((arena.usage().reserved_bytes, arena.taken()), (LARGE_PAGE, 1));
        drop((b, c));
        assert_eq!(arena.usage().live(), 0);
        arena.trim();
        assert_eq!(arena.usage().reserved_bytes, 0);
        arena.allocate(1, Purpose::Workspace);
        assert_eq!(arena.taken(), 2);
    }

    #[test]
    fn what_is_held_of_changing_sizes_stays_within_an_eighth_of_the_peak() {
        let arena = Arena::new(false);
        let first = arena.allocate(100 << 20, Purpose::Activations);
        let _behind = arena.allocate(64, Purpose::Weights);
        drop(first);
        // Each is too large for all holes, and what lies behind the first keeps its hole from growing.
        for megabytes in (110..200).step_by(10) {
            drop(arena.allocate(megabytes << 20, Purpose::Activations));
            let usage = arena.usage();
            let bound = usage.peak_bytes + usage.peak_bytes / 8;
            assert!(usage.peak_reserved_bytes <= bound, "{} of {bound}", usage.peak_reserved_bytes);
            assert!(usage.reserved_bytes >= usage.peak_bytes);
        }
    }

    #[test]
    fn equal_rounds_take_nothing_from_the_system() {
        let arena = Arena::new(false);
        // What no bound on whole buffers could keep: each size is asked for when the others are free.
        let round = || {
            for megabytes in [9, 7, 5, 3, 8, 6, 4] {
                let (a, b) = (megabytes << 20, (10 - megabytes) << 20);
                drop((arena.allocate(a, Purpose::Activations), arena.allocate(b, Purpose::Workspace)));
            }
            arena.taken()
        };
        let first = round();
        assert!((1..4).contains(&first), "{first}");
        assert_eq!((round(), round()), (first, first));
    }

    #[test]
    fn a_cache_is_held_by_itself_and_goes_at_once() {
        let arena = Arena::new(true);
        let cache = arena.allocate(100, Purpose::Cache);
        assert_eq!(cache.bytes(), [0; 128]);
        assert_eq!(arena.usage().reserved_bytes, 128);
        drop(cache);
        assert_eq!(arena.usage().reserved_bytes, 0);
    }

    #[test]
    fn dry_and_real_arenas_count_the_same() {
        let (dry, real) = (Arena::new(false), Arena::new(true));
        for arena in [&dry, &real] {
            let a = arena.allocate(12345, Purpose::Activations);
            let b = arena.allocate(777, Purpose::Gradients);
            drop(a);
            let _c = arena.allocate(5_000_000, Purpose::Workspace);
            drop(b);
        }
        assert_eq!(dry.usage(), real.usage());
        assert_eq!(dry.taken(), real.taken());
    }
}
