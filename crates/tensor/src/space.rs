//! Address space cut into pieces: where a request goes, what is whole again when a piece comes back, which pages have memory.
//! Must not know what pieces are for, nor how much may be held.

use std::ops::Range;

use ounce_kernels::{LARGE_PAGE, Pages};

/// Pieces are whole lines: of the cache, and of the width of the widest vector register.
pub(crate) const LINE: usize = 64;

/// Addresses that are asked for at once, at least. They cost nothing until they are touched, and large buffers fit best where
/// few borders are.
const SLAB: usize = 256 << 20;

/// A run of bytes of a slab; on the dry device without memory.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    slab: usize,
    start: usize,
    len: usize,
    memory: Option<Pages>,
}

/// What a thread panics with where the system refuses memory: no fault of the program.
#[derive(Clone, Copy, Debug)]
pub struct NoMemory {
    pub bytes: usize,
}

fn refused(bytes: usize) -> ! {
    std::panic::panic_any(NoMemory { bytes })
}

impl Piece {
    /// One on small pages that is of no slab, and goes back to the system when it is dropped.
    pub(crate) fn alone(len: usize, real: bool) -> Piece {
        let memory = real.then(|| Pages::map(len, false).unwrap_or_else(|_| refused(len)));
        Piece { len, memory, ..Piece::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Panics on the dry device.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.as_ref().expect("a dry tensor has no contents").bytes()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().expect("a dry tensor has no contents").bytes_mut()
    }

    fn place(&self) -> (usize, usize) {
        (self.slab, self.start)
    }

    /// The pages that it has something of.
    fn touched_pages(&self) -> Range<usize> {
        self.start / LARGE_PAGE..(self.start + self.len).div_ceil(LARGE_PAGE)
    }

    /// The pages that are its own.
    fn whole_pages(&self) -> Range<usize> {
        self.start.div_ceil(LARGE_PAGE)..(self.start + self.len) / LARGE_PAGE
    }

    /// Takes the first `len` bytes off.
    fn cut(&mut self, len: usize) -> Piece {
        let rest = self.memory.as_mut().map(|memory| memory.split_off(len));
        let front = Piece { len, memory: std::mem::replace(&mut self.memory, rest), ..*self };
        self.start += len;
        self.len -= len;
        front
    }

    fn is_before(&self, next: &Piece) -> bool {
        self.slab == next.slab && self.start + self.len == next.start
    }

    fn join(&mut self, next: Piece) {
        self.len += next.len;
        if let (Some(memory), Some(next)) = (&mut self.memory, next.memory) {
            memory.join(next);
        }
    }
}

/// Slabs of addresses, and the holes in them.
#[derive(Debug)]
pub(crate) struct Space {
    real: bool,
    /// By slab and large page of it: whether there is memory behind.
    held: Vec<Vec<bool>>,
    held_pages: usize,
    /// In the order of slab and address; no two are neighbours. There are tens of them, so looking at all is quicker than a tree.
    holes: Vec<Piece>,
}

impl Space {
    pub(crate) fn new(real: bool) -> Space {
        Space { real, held: Vec::new(), held_pages: 0, holes: Vec::new() }
    }

    /// Memory taken from the system: large pages of which something was handed out since they were last given back.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_pages * LARGE_PAGE
    }

    /// `len` bytes (whole lines), and whether any of them needs memory from the system.
    ///
    /// They are taken from the smallest hole that is large enough (best fit), the one of the lowest address of those: what was
    /// never touched is the largest hole of its slab and goes last.
    pub(crate) fn take(&mut self, len: usize) -> (Piece, bool) {
        let fits = self.holes.iter().enumerate().filter(|(_, hole)| hole.len >= len);
        let best = fits.min_by_key(|(_, hole)| hole.len).map(|(i, _)| i);
        let i = best.unwrap_or_else(|| self.grow(len));
        let piece = if self.holes[i].len == len { self.holes.remove(i) } else { self.holes[i].cut(len) };
        let mut fresh = false;
        for held in &mut self.held[piece.slab][piece.touched_pages()] {
            self.held_pages += usize::from(!*held);
            fresh |= !std::mem::replace(held, true);
        }
        (piece, fresh)
    }

    pub(crate) fn give(&mut self, mut piece: Piece) {
        let i = self.holes.partition_point(|hole| hole.place() < piece.place());
        if self.holes.get(i).is_some_and(|next| piece.is_before(next)) {
            piece.join(self.holes.remove(i));
        }
        match i.checked_sub(1).map(|before| &mut self.holes[before]).filter(|before| before.is_before(&piece)) {
            Some(before) => before.join(piece),
            None => self.holes.insert(i, piece),
        }
    }

    /// Gives pages without a piece back to the system, the last ones first, until no more than `bound_bytes` are held.
    pub(crate) fn shrink(&mut self, bound_bytes: usize) {
        for hole in self.holes.iter_mut().rev() {
            for page in hole.whole_pages().rev() {
                if self.held_pages * LARGE_PAGE <= bound_bytes {
                    return;
                }
                if std::mem::take(&mut self.held[hole.slab][page]) {
                    self.held_pages -= 1;
                    let at = page * LARGE_PAGE - hole.start;
                    hole.memory.iter_mut().for_each(|memory| memory.discard(at..at + LARGE_PAGE));
                }
            }
        }
    }

    /// Adds a slab with room for `len` bytes, as large as all before it; the index of the hole that it is.
    fn grow(&mut self, len: usize) -> usize {
        let least = len.next_multiple_of(LARGE_PAGE);
        let mapped: usize = self.held.iter().map(|slab| slab.len() * LARGE_PAGE).sum();
        let wanted = least.max(SLAB).max(mapped);
        // A system that counts addresses as memory may refuse what would be enough for later too.
        let map = || Pages::map(wanted, true).or_else(|_| Pages::map(least, true));
        let memory = self.real.then(|| map().unwrap_or_else(|_| refused(least)));
        let len = memory.as_ref().map_or(wanted, Pages::len);
        self.holes.push(Piece { slab: self.held.len(), start: 0, len, memory });
        self.held.push(vec![false; len / LARGE_PAGE]);
        self.holes.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_smallest_hole_that_is_large_enough_is_taken() {
        let mut space = Space::new(false);
        let pieces = [640, 64, 128, 64, 192, 64].map(|len| space.take(len).0);
        let starts = pieces.each_ref().map(|piece| piece.start);
        let [a, _b, c, _d, e, _f] = pieces;
        [a, c, e].into_iter().for_each(|piece| space.give(piece));
        assert_eq!(space.take(128).0.start, starts[2]);
        assert_eq!(space.take(128).0.start, starts[4]);
        assert_eq!(space.take(128).0.start, starts[0]);
        assert_eq!(space.take(512).0.start, starts[0] + 128);
    }

    #[test]
    fn a_page_counts_from_its_first_use_until_it_is_given_back() {
        let mut space = Space::new(false);
        let (a, fresh) = space.take(LARGE_PAGE / 2);
        assert!(fresh);
        let (b, fresh) = space.take(LARGE_PAGE / 2);
        assert!(!fresh, "the page is held already");
        let (c, fresh) = space.take(2 * LARGE_PAGE);
        assert!(fresh);
        let (d, _) = space.take(64);
        assert_eq!(space.held_bytes(), 4 * LARGE_PAGE);
        [a, c].into_iter().for_each(|piece| space.give(piece));
        assert!(!space.take(LARGE_PAGE).1);
        // The first page is in use in part, the last by a line: one of the two between is free of pieces.
        space.shrink(0);
        assert_eq!(space.held_bytes(), 3 * LARGE_PAGE);
        [b, d].into_iter().for_each(|piece| space.give(piece));
        space.shrink(2 * LARGE_PAGE);
        assert_eq!(space.held_bytes(), 2 * LARGE_PAGE);
    }

    #[test]
    fn more_than_a_slab_is_a_slab() {
        let mut space = Space::new(false);
        let small = space.take(64).0;
        let large = space.take(3 * SLAB + 64).0;
        let next = space.take(SLAB).0;
        assert_eq!((small.slab, large.slab, next.slab), (0, 1, 2));
        [large, small, next].into_iter().for_each(|piece| space.give(piece));
        assert_eq!(space.holes.len(), 3, "slabs are no neighbours");
    }

    proptest! {
        #[test]
        fn pieces_never_overlap_and_all_become_holes_again(
            requests in proptest::collection::vec((1usize..70_000, any::<prop::sample::Index>(), any::<bool>()), 1..200)
        ) {
            let mut space = Space::new(true);
            let mut pieces: Vec<(Piece, u8)> = Vec::new();
            for (n, (lines, which, give)) in requests.into_iter().enumerate() {
                if give && !pieces.is_empty() {
                    let (piece, mark) = pieces.swap_remove(which.index(pieces.len()));
                    let bytes = piece.bytes();
                    prop_assert!(bytes[0] == mark && bytes[bytes.len() - 1] == mark);
                    space.give(piece);
                } else {
                    let mut piece = space.take(lines * LINE).0;
                    prop_assert_eq!((piece.bytes().len(), piece.bytes().as_ptr().addr() % LINE), (lines * LINE, 0));
                    let mark = n as u8;
                    let last = piece.len() - 1;
                    (piece.bytes_mut()[0], piece.bytes_mut()[last]) = (mark, mark);
                    pieces.push((piece, mark));
                }
                if n % 7 == 0 {
                    space.shrink(0);
                }
            }
            for (piece, mark) in pieces {
                prop_assert!(piece.bytes()[0] == mark && piece.bytes()[piece.len() - 1] == mark);
                space.give(piece);
            }
            prop_assert_eq!(space.holes.len(), space.held.len());
            space.shrink(0);
            prop_assert_eq!(space.held_bytes(), 0);
        }
    }
}
