//! Cutting work into chunks whose size depends on the problem only, and handing each chunk its part of an output.

use std::marker::PhantomData;
use std::ops::Range;

/// Elements of a chunk: small enough to balance threads, large enough to hide the cost of taking a chunk.
pub(crate) const ELEMENTS: usize = 16 * 1024;

/// Rows of a chunk when rows have `c` columns.
pub(crate) fn rows_per_chunk(c: usize) -> usize {
    (ELEMENTS / c.max(1)).max(1)
}

/// The `chunk`-th range of `size` out of `n`.
pub(crate) fn chunks_of(n: usize, size: usize, chunk: usize) -> Range<usize> {
    chunk * size..((chunk + 1) * size).min(n)
}

/// A slice from which chunks take disjoint parts to write.
pub(crate) struct Split<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: the parts are disjoint `&mut [T]` (the contract of `part`), which may go to other threads if `T` may.
unsafe impl<T: Send> Sync for Split<'_, T> {}

impl<'a, T> Split<'a, T> {
    pub fn new(all: &'a mut [T]) -> Split<'a, T> {
        Split { start: all.as_mut_ptr(), len: all.len(), owner: PhantomData }
    }

    /// # Safety
    /// No two parts that live at the same time overlap.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} is outside of {}", self.len);
        // SAFETY: in bounds by the assertion; not aliased by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
