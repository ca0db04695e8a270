//! Shared immutable bytes: a part of a mapped file, memory of our own, or made from a part of a file when first read. It knows
//! nothing of what the bytes mean.

use std::{
    fmt, io,
    ops::{Deref, Range},
    path::Path,
    sync::{Arc, OnceLock},
};

use crate::mmap::Mapping;
use crate::restore::Restore;

/// Alignment of owned data in bytes: a cache line, and the widest vector register.
pub const ALIGNMENT: usize = 64;

/// Bytes that are cheap to clone and to slice. Owned data starts at a multiple of [`ALIGNMENT`]; mapped data lies where
/// the file puts it.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Mapped(Arc<Mapping>),
    Owned(Arc<Vec<Line>>),
    Restored(Arc<Restored>),
}

/// Bytes that are made from stored ones by whoever reads them first.
struct Restored {
    stored: Bytes,
    restore: Restore,
    made: OnceLock<Vec<Line>>,
}

/// Where bytes lie in a file, for whoever reads them without the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: Arc<Path>,
    pub range: Range<u64>,
    /// What turns them into a weight's bytes.
    pub restore: Restore,
}

/// One cache line; a vector of these is how safe code gets aligned memory.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; ALIGNMENT]);

impl Bytes {
    /// Maps a whole regular file for reading.
    pub fn map(path: &Path) -> io::Result<Self> {
        let mapping = Mapping::open(path)?;
        let range = 0..mapping.bytes().len();
        Ok(Bytes { owner: Owner::Mapped(Arc::new(mapping)), range })
    }

    /// Copies `bytes` to aligned memory.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self::build(bytes.len(), |out| out.copy_from_slice(bytes))
    }

    /// `len` bytes of aligned memory, zero at first, as `fill` leaves them.
    pub fn build(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        Bytes { owner: Owner::Owned(Arc::new(lines(len, fill))), range: 0..len }
    }

    /// These bytes after `restore`, in aligned memory that is filled when they are first read. Owned bytes are restored at
    /// once: only a file gives its memory back.
    pub fn restored(self, restore: Restore) -> Self {
        let (len, stored) = (self.len(), self.unmade());
        match stored.owner {
            Owner::Mapped(_) => {
                let restored = Restored { stored, restore, made: OnceLock::new() };
                Bytes { owner: Owner::Restored(Arc::new(restored)), range: 0..len }
            }
            _ => Self::build(len, |out| restore.apply(out, &stored)),
        }
    }

    /// What a copy for alignment's sake will be made from.
    fn unmade(self) -> Self {
        match &self.owner {
            Owner::Restored(r) if r.restore == Restore::AsIs && self.range == (0..r.stored.len()) => r.stored.clone(),
            _ => self,
        }
    }

    /// The length; reads nothing.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The bytes before anything was restored: those of the file.
    pub fn stored(&self) -> &[u8] {
        match &self.owner {
            Owner::Restored(r) if self.range == (0..r.stored.len()) => &r.stored,
            _ => self,
        }
    }

    /// Where in a file these bytes come from; `None` if they are in memory of their own.
    pub fn place(&self) -> Option<Place> {
        match &self.owner {
            Owner::Mapped(mapping) => {
                let range = self.range.start as u64..self.range.end as u64;
                Some(Place { path: mapping.path().clone(), range, restore: Restore::AsIs })
            }
            Owner::Restored(r) if self.range == (0..r.stored.len()) => {
                r.stored.place().map(|place| Place { restore: r.restore, ..place })
            }
            _ => None,
        }
    }

    /// These bytes for one reading: what has to be made for it and has not been is made anew, and goes with the answer.
    pub fn made_once(&self) -> Bytes {
        match &self.owner {
            Owner::Restored(r) if r.made.get().is_none() => {
                Self::build(r.stored.len(), |out| r.restore.apply(out, &r.stored)).slice(self.range.clone())
            }
            _ => self.clone(),
        }
    }

    /// These bytes in memory of their own. A mapped file is read past its map, whose pages stay out of memory: the system may make
    /// many more of them resident than one reads.
    pub fn owned(&self) -> Bytes {
        match &self.owner {
            Owner::Owned(_) => self.clone(),
            Owner::Restored(r) if r.made.get().is_none() && self.range == (0..r.stored.len()) => {
                let stored = r.stored.owned();
                Self::build(self.len(), |out| r.restore.apply(out, &stored))
            }
            Owner::Mapped(_) | Owner::Restored(_) => Self::build(self.len(), |out| self.copy_to(0, out)),
        }
    }

    /// Copies some of these bytes, from `at` on. Those of a mapped file are read from the file, and the map's pages around them
    /// stay out of memory.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn copy_to(&self, at: usize, into: &mut [u8]) {
        assert!(at + into.len() <= self.len(), "{} bytes from {at} on of {}", into.len(), self.len());
        let read = match &self.owner {
            Owner::Mapped(mapping) => mapping.read(self.range.start + at, into).is_ok(),
            _ => false,
        };
        if !read {
            into.copy_from_slice(&self[at..at + into.len()]);
        }
    }

    /// Gives memory back that a mapped file's pages take; reading them again reads the file.
    pub fn forget(&self) {
        match &self.owner {
            Owner::Mapped(mapping) => mapping.forget(self.range.clone()),
            Owner::Restored(r) => r.stored.forget(),
            Owner::Owned(_) => {}
        }
    }

    /// The part `range`, counted from the start of these bytes, sharing their memory.
    ///
    /// # Panics
    /// If the range does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "slice {range:?} of {} bytes", self.len());
        let start = self.range.start;
        Bytes { owner: self.owner.clone(), range: start + range.start..start + range.end }
    }

    /// Whether the bytes are part of a mapped file, so that reading them may touch the disk.
    pub fn is_mapped(&self) -> bool {
        matches!(self.owner, Owner::Mapped(_))
    }

    /// These bytes if they start at a multiple of `align`, else an aligned copy.
    pub fn aligned_to(self, align: usize) -> Self {
        // What is made is made aligned, and need not be made to know it.
        let made = matches!(&self.owner, Owner::Restored(_)) && self.range.start.is_multiple_of(align);
        if made || self.as_ptr().addr().is_multiple_of(align) { self } else { self.restored(Restore::AsIs) }
    }
}

fn lines(len: usize, fill: impl FnOnce(&mut [u8])) -> Vec<Line> {
    let zero: Line = bytemuck::Zeroable::zeroed();
    let mut lines = vec![zero; len.div_ceil(ALIGNMENT)];
    fill(&mut bytemuck::cast_slice_mut(&mut lines)[..len]);
    lines
}

impl Default for Bytes {
    fn default() -> Self {
        Self::copy_of(&[])
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all = match &self.owner {
            Owner::Mapped(mapping) => mapping.bytes(),
            Owner::Owned(lines) => bytemuck::cast_slice(lines),
            Owner::Restored(r) => {
                let make = || {
                    let made = lines(r.stored.len(), |out| r.restore.apply(out, &r.stored));
                    // Memory holds them once.
                    r.stored.forget();
                    made
                };
                bytemuck::cast_slice(r.made.get_or_init(make))
            }
        };
        &all[self.range.clone()]
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self::copy_of(bytes)
    }
}

impl From<&[f32]> for Bytes {
    fn from(values: &[f32]) -> Self {
        Self::copy_of(bytemuck::cast_slice(values))
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let kind = match &self.owner {
            Owner::Mapped(_) => "mapped",
            Owner::Owned(_) => "owned",
            Owner::Restored(_) => "restored",
        };
        write!(f, "Bytes({kind}, {} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_bytes_are_aligned_and_sliced() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let source: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let bytes = Bytes::copy_of(&source);
            assert_eq!(&*bytes, &source[..]);
            assert!(bytes.as_ptr().addr().is_multiple_of(ALIGNMENT));
            assert!(!bytes.is_mapped());
            if len > 4 {
                assert_eq!(&*bytes.slice(1..4).slice(1..2), &[2]);
                assert!(bytes.slice(1..4).aligned_to(ALIGNMENT).as_ptr().addr().is_multiple_of(ALIGNMENT));
            }
        }
    }

    #[test]
    fn files_are_mapped_and_other_things_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), b"hello").unwrap();
        std::fs::write(dir.path().join("empty"), b"").unwrap();
        let bytes = Bytes::map(&dir.path().join("a")).unwrap();
        assert!(bytes.is_mapped());
        assert_eq!(&*bytes, b"hello");
        let mut part = [0; 2];
        bytes.slice(1..5).copy_to(2, &mut part);
        assert_eq!(&part, b"lo");
        assert!(Bytes::map(&dir.path().join("empty")).unwrap().is_empty());
        assert!(Bytes::map(dir.path()).unwrap_err().to_string().contains("regular file"));
    }

    #[test]
    fn restored_bytes_are_made_when_read_and_know_their_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"xabcdef").unwrap();
        let mapped = Bytes::map(&path).unwrap();
        let turn = Restore::Transposed { rows: 2, columns: 3, size: 1 };
        let turned = mapped.slice(1..7).aligned_to(2).restored(turn);
        let Owner::Restored(inner) = &turned.owner else { panic!("made too early") };
        assert_eq!((turned.len(), inner.made.get().is_some()), (6, false));
        let place = turned.place().unwrap();
        assert_eq!((place.range, place.restore, &*place.path), (1..7, turn, &*path));
        assert_eq!(turned.stored(), b"abcdef");
        turned.forget();
        assert_eq!((&*turned.owned(), inner.made.get().is_some()), (&b"adbecf"[..], false));
        assert_eq!(&*mapped.slice(2..4).owned(), b"bc");
        assert!(!mapped.owned().is_mapped());
        assert_eq!((&*turned.slice(1..5).made_once(), inner.made.get().is_some()), (&b"dbec"[..], false));
        assert_eq!(&*turned, b"adbecf");
        assert!(Bytes::copy_of(b"abcdef").restored(turn).place().is_none());
    }
}
