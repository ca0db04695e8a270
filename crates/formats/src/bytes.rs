//! Shared immutable bytes: a part of a mapped file, or memory of our own. It knows nothing of what the bytes mean.

use std::{fmt, io, ops::Deref, ops::Range, path::Path, sync::Arc};

use crate::mmap::Mapping;

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
        let zero: Line = bytemuck::Zeroable::zeroed();
        let mut lines = vec![zero; len.div_ceil(ALIGNMENT)];
        fill(&mut bytemuck::cast_slice_mut(&mut lines)[..len]);
        Bytes { owner: Owner::Owned(Arc::new(lines)), range: 0..len }
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
        if self.as_ptr().addr().is_multiple_of(align) { self } else { Self::copy_of(&self) }
    }
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
        let kind = if self.is_mapped() { "mapped" } else { "owned" };
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
        assert!(Bytes::map(&dir.path().join("empty")).unwrap().is_empty());
        assert!(Bytes::map(dir.path()).unwrap_err().to_string().contains("regular file"));
    }
}
