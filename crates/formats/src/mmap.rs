//! Read-only memory maps of whole files: the one `unsafe` place of this crate. It knows paths and bytes, no format.

#![allow(unsafe_code)]

use std::{fs::File, io, path::Path};

/// A file mapped for reading. Empty files map to no bytes.
pub(crate) struct Mapping(Option<memmap2::Mmap>);

impl Mapping {
    /// Maps a regular file (links are followed). Anything else, such as a directory or a pipe, is refused, because
    /// opening a pipe would wait for its writer.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if metadata.len() == 0 {
            return Ok(Mapping(None));
        }
        let file = File::open(path)?;
        // SAFETY: the map is private and read-only, and nothing in this process writes to model files in place (every
        // writer makes a new file and renames it over the old one). Another process that truncates the file while it
        // is mapped ends this one with SIGBUS, as it does for every program that maps its weights.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Mapping(Some(map)))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}
