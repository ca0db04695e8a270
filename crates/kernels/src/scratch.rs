//! Memory that each thread keeps for reuse, so that a warm kernel allocates nothing. Must not know what it is for.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;

use crate::LARGE_PAGE;

/// What a buffer is for. A kernel may hold one buffer of each slot at a time; a second one of the same slot works, but
/// is allocated anew.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slot {
    /// The operand that all threads read, packed by all, owned by the calling thread.
    Shared,
    /// The operand that one thread packs for itself.
    Local,
    /// Rows converted to the type of the products.
    Converted,
    /// Sums that are not finished.
    Partial,
    /// A small operand or result, transposed.
    Turned,
}

thread_local! {
    static KEPT: [Cell<Option<Buffer>>; 5] = const { [const { Cell::new(None) }; 5] };
}

/// Calls `work` with at least `bytes` bytes, aligned to 4096, with old contents.
pub(crate) fn with<R>(slot: Slot, bytes: usize, work: impl FnOnce(*mut u8) -> R) -> R {
    KEPT.with(|kept| {
        let cell = &kept[slot as usize];
        let buffer = match cell.take() {
            Some(buffer) if buffer.layout.size() >= bytes => buffer,
            small => {
                drop(small);
                Buffer::new(bytes)
            }
        };
        let result = work(buffer.start);
        cell.set(Some(buffer));
        result
    })
}

struct Buffer {
    start: *mut u8,
    layout: Layout,
}

impl Buffer {
    /// From [`LARGE_PAGE`] on, large pages are asked for, and the address is aligned to one.
    fn new(bytes: usize) -> Buffer {
        let align = if bytes >= LARGE_PAGE { LARGE_PAGE } else { 4096 };
        let size = bytes.max(1).next_multiple_of(if bytes >= LARGE_PAGE { 1 << 20 } else { 1 << 16 });
        let layout = Layout::from_size_align(size, align).expect("a size that a slice can have");
        // SAFETY: the size is not zero.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        #[cfg(target_os = "linux")]
        if bytes >= LARGE_PAGE {
            // SAFETY: the range is a fresh allocation of our own; the advice changes no contents. Refusal is harmless.
            let _ = unsafe { rustix::mm::madvise(start.cast(), size, rustix::mm::Advice::LinuxHugepage) };
        }
        Buffer { start, layout }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc` with this layout.
        unsafe { dealloc(self.start, self.layout) }
    }
}
