//! Where tensors live: a caching arena that reuses freed buffers and knows how much is in use, for what. The dry device
//! runs the same arena without memory behind it, so its peak is the real one, not an estimate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// 64 bytes, aligned: a cache line, the width of the widest vector register.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

/// From this size on, memory comes from the system page by page and goes back to it when it is let go. A heap would keep the
/// holes that buffers of changing sizes leave.
const MAP_BYTES: usize = 256 << 10;

/// Memory behind a buffer.
#[derive(Debug)]
enum Memory {
    Heap(Box<[Line]>),
    Map(memmap2::MmapMut),
}

impl Memory {
    fn new(lines: usize, purpose: Purpose) -> Memory {
        let bytes = lines * size_of::<Line>();
        if bytes < MAP_BYTES {
            return Memory::Heap(bytemuck::allocation::zeroed_slice_box(lines));
        }
        let map = memmap2::MmapMut::map_anon(bytes).expect("the system has no memory left");
        // Large pages save most of the address translation; where the system has none, small ones do. A cache is touched
        // little by little and must not grow in steps of megabytes.
        #[cfg(target_os = "linux")]
        if purpose != Purpose::Cache {
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Memory::Map(map)
    }
}

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

/// A caching allocator. Buffers come back when their last owner drops them and are handed out again to requests of
/// nearly the same size. What it holds is bounded by the peak of what was in use at once, plus a twentieth.
#[derive(Debug)]
pub struct Arena {
    real: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    free: BTreeMap<usize, Vec<Option<Memory>>>,
    free_lines: usize,
    live_lines: usize,
    usage: MemoryUse,
}

/// A buffer of whole lines; `None` on the dry device.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Option<Memory>,
    count: usize,
    /// As it was asked for.
    length: usize,
    purpose: Purpose,
    arena: Arc<Arena>,
}

impl Arena {
    pub(crate) fn new(real: bool) -> Arc<Arena> {
        Arc::new(Arena { real, state: Mutex::new(State::default()) })
    }

    /// A buffer of at least `bytes`; its contents are whatever they were.
    pub(crate) fn allocate(self: &Arc<Self>, bytes: usize, purpose: Purpose) -> Buffer {
        let need = size_class(bytes.div_ceil(size_of::<Line>()).max(1));
        let mut state = self.state.lock().expect("arena lock");
        let cached = state.take_cached(need);
        let (memory, count) = match cached {
            Some(found) => found,
            None => {
                state.make_room(need);
                (self.real.then(|| Memory::new(need, purpose)), need)
            }
        };
        state.occupy(count, purpose);
        Buffer { memory, count, length: bytes, purpose, arena: self.clone() }
    }

    pub fn usage(&self) -> MemoryUse {
        self.state.lock().expect("arena lock").usage
    }

    /// Forgets the peak so far: the next reading is about what comes after.
    pub fn reset_peak(&self) {
        let mut state = self.state.lock().expect("arena lock");
        state.usage.peak_bytes = state.usage.live();
        state.usage.at_peak_bytes = state.usage.live_bytes;
        state.usage.peak_reserved_bytes = state.usage.reserved_bytes;
    }

    /// Gives every cached buffer back to the system.
    pub fn trim(&self) {
        let mut state = self.state.lock().expect("arena lock");
        state.free.clear();
        state.free_lines = 0;
        state.note_reserved();
    }
}

/// Sizes are rounded up in steps of at most an eighth, so that nearly equal requests share buffers.
fn size_class(lines: usize) -> usize {
    let step = (lines.next_power_of_two() / 16).max(1);
    lines.div_ceil(step) * step
}

impl State {
    fn take_cached(&mut self, need: usize) -> Option<(Option<Memory>, usize)> {
        let (&count, _) = self.free.range(need..=need + need / 4).next()?;
        let list = self.free.get_mut(&count).expect("key was just found");
        let memory = list.pop().expect("empty lists are removed");
        if list.is_empty() {
            self.free.remove(&count);
        }
        self.free_lines -= count;
        Some((memory, count))
    }

    /// Lets cached buffers go, largest first, while holding `need` more lines would exceed the bound.
    fn make_room(&mut self, need: usize) {
        let peak_lines = self.usage.peak_bytes / size_of::<Line>();
        let bound = (peak_lines + peak_lines / 20).max(self.live_lines + need);
        while self.free_lines > 0 && self.live_lines + self.free_lines + need > bound {
            let mut last = self.free.last_entry().expect("free lines are in some list");
            let count = *last.key();
            last.get_mut().pop();
            if last.get().is_empty() {
                last.remove();
            }
            self.free_lines -= count;
        }
    }

    fn occupy(&mut self, count: usize, purpose: Purpose) {
        self.live_lines += count;
        self.usage.live_bytes[purpose as usize] += count * size_of::<Line>();
        if self.usage.live() > self.usage.peak_bytes {
            self.usage.peak_bytes = self.usage.live();
            self.usage.at_peak_bytes = self.usage.live_bytes;
        }
        self.note_reserved();
    }

    fn note_reserved(&mut self) {
        self.usage.reserved_bytes = (self.live_lines + self.free_lines) * size_of::<Line>();
        self.usage.peak_reserved_bytes = self.usage.peak_reserved_bytes.max(self.usage.reserved_bytes);
    }
}

impl Buffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self.memory.as_ref().expect("a dry tensor has no contents") {
            Memory::Heap(lines) => bytemuck::cast_slice(lines),
            Memory::Map(map) => map,
        }
    }
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self.memory.as_mut().expect("a dry tensor has no contents") {
            Memory::Heap(lines) => bytemuck::cast_slice_mut(lines),
            Memory::Map(map) => map,
        }
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
        let memory = self.memory.take();
        let Ok(mut state) = self.arena.state.lock() else { return };
        state.live_lines -= self.count;
        state.usage.live_bytes[self.purpose as usize] -= self.count * size_of::<Line>();
        state.free.entry(self.count).or_default().push(memory);
        state.free_lines += self.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_buffers_are_reused_and_the_peak_is_remembered() {
        let arena = Arena::new(true);
        let a = arena.allocate(1000, Purpose::Activations);
        let b = arena.allocate(4000, Purpose::Weights);
        let peak = arena.usage().peak_bytes;
        drop(a);
        let c = arena.allocate(1000, Purpose::Activations);
        assert_eq!(arena.usage().peak_bytes, peak);
        assert_eq!(arena.usage().reserved_bytes, peak);
        drop((b, c));
        assert_eq!(arena.usage().live(), 0);
    }

    #[test]
    fn what_is_held_stays_within_a_twentieth_of_the_peak() {
        let arena = Arena::new(false);
        for round in 1..200usize {
            let sizes = [round * 640, 1 << 16, 3 * round * 64];
            let held: Vec<_> = sizes.iter().map(|&s| arena.allocate(s, Purpose::Activations)).collect();
            drop(held);
        }
        let usage = arena.usage();
        assert!(usage.reserved_bytes <= usage.peak_bytes + usage.peak_bytes / 20);
    }

    #[test]
    fn dry_and_real_arenas_count_the_same() {
        let (dry, real) = (Arena::new(false), Arena::new(true));
        for arena in [&dry, &real] {
            let a = arena.allocate(12345, Purpose::Activations);
            let b = arena.allocate(777, Purpose::Gradients);
            drop(a);
            let _c = arena.allocate(11000, Purpose::Workspace);
            drop(b);
        }
        assert_eq!(dry.usage(), real.usage());
    }
}
