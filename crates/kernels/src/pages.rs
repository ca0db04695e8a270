//! Memory from the system that is cut into pieces, each with one owner, and put together again. Must not know what is in it.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

/// Bytes of a large page: one entry of the processor's table of addresses where small pages take 512.
pub const LARGE_PAGE: usize = 2 << 20;

/// A run of bytes that nobody else reads or writes. It takes memory once it is touched, and goes back to the system with the
/// last piece of what was mapped at once.
#[derive(Debug)]
pub struct Pages {
    map: Arc<MmapRaw>,
    start: usize,
    len: usize,
}

impl Pages {
    /// Fresh zeros, on large pages where the system has them: those start at a multiple of [`LARGE_PAGE`] and grow in its steps.
    ///
    /// # Errors
    /// The system has no such range of addresses left.
    pub fn map(bytes: usize, large: bool) -> io::Result<Pages> {
        let slack = if large { LARGE_PAGE } else { 0 };
        let len = bytes.max(1);
        let map = MmapRaw::from(MmapOptions::new().len(len + slack).no_reserve_swap().map_anon()?);
        let address = map.as_mut_ptr().addr();
        let start = if large { address.next_multiple_of(LARGE_PAGE) - address } else { 0 };
        #[cfg(target_os = "linux")]
        if large {
            // Refusal is harmless.
            let _ = map.advise_range(memmap2::Advice::HugePage, start, len);
        }
        Ok(Pages { map: Arc::new(map), start, len })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range lies in the map, whose bytes the system has set. `split_off` and `join` divide and unite ranges, and
        // nothing copies one, so no other piece has these bytes; `self` is borrowed for as long as the slice is.
        unsafe { std::slice::from_raw_parts(self.map.as_mut_ptr().add(self.start), self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.start), self.len) }
    }

    /// Keeps the first `at` bytes; the rest is the result.
    pub fn split_off(&mut self, at: usize) -> Pages {
        assert!(at <= self.len, "cut at {at} of {}", self.len);
        let rest = Pages { map: self.map.clone(), start: self.start + at, len: self.len - at };
        self.len = at;
        rest
    }

    /// Takes back what lies behind. Panics if anything else does.
    pub fn join(&mut self, next: Pages) {
        let follows = Arc::ptr_eq(&self.map, &next.map) && self.start + self.len == next.start;
        assert!(follows, "the pieces are no neighbours");
        self.len += next.len;
    }

    /// Lets the system have the large pages that lie wholly in `range`. Their bytes are zero or what they were.
    pub fn discard(&mut self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        let base = self.map.as_mut_ptr().addr();
        let from = (base + self.start + range.start).next_multiple_of(LARGE_PAGE) - base;
        let to = (base + self.start + range.end) / LARGE_PAGE * LARGE_PAGE;
        let Some(len) = to.checked_sub(base + from).filter(|&len| len > 0) else { return };
        #[cfg(unix)]
        {
            // SAFETY: the range is made of whole pages and lies in this piece, which is borrowed for writing, so no reference
            // sees the change; pages that belong to no file come back as zeros. A system that refuses keeps them.
            let _ = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, len) };
        }
        #[cfg(not(unix))]
        let _ = len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_separate_and_whole_again_when_joined() {
        let mut low = Pages::map(4096, false).unwrap();
        assert_eq!(low.bytes(), [0; 4096]);
        let mut high = low.split_off(1024);
        low.bytes_mut().fill(1);
        high.bytes_mut().fill(2);
        let last = high.split_off(3008);
        assert_eq!((low.len(), high.len(), last.len()), (1024, 3008, 64));
        high.join(last);
        low.join(high);
        assert_eq!(low.bytes()[..1024], [1; 1024]);
        assert_eq!(low.bytes()[1024..], [2; 3072]);
        assert!(low.split_off(4096).is_empty());
    }

    #[test]
    #[should_panic(expected = "no neighbours")]
    fn what_does_not_follow_is_not_joined() {
        let mut a = Pages::map(4096, false).unwrap();
        let b = a.split_off(1024);
        let mut c = Pages::map(1024, false).unwrap();
        c.join(b);
    }

    #[test]
    fn only_whole_large_pages_inside_the_range_go_back() {
        let mut pages = Pages::map(3 * LARGE_PAGE, true).unwrap();
        assert_eq!(pages.bytes().as_ptr().addr() % LARGE_PAGE, 0);
        pages.bytes_mut().fill(7);
        let mut rest = pages.split_off(LARGE_PAGE + 64);
        // From the middle of the second large page to the end of the third.
        rest.discard(64..rest.len());
        assert!(pages.bytes().iter().all(|&b| b == 7));
        let (kept, gone) = rest.bytes().split_at(LARGE_PAGE - 64);
        assert!(kept.iter().all(|&b| b == 7));
        #[cfg(target_os = "linux")]
        assert!(gone.iter().all(|&b| b == 0));
        let _ = gone;
        // Less than a page: nothing happens.
        pages.discard(64..LARGE_PAGE);
        pages.discard(5..5);
        assert!(pages.bytes().iter().all(|&b| b == 7));
    }
}
