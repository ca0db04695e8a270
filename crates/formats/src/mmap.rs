//! Read-only memory maps of whole files: the one `unsafe` place of this crate. It knows paths and bytes, no format.

#![allow(unsafe_code)]

#[cfg(unix)]
use std::os::fd::AsFd;
use std::{fs::File, io, ops::Range, path::Path, sync::Arc};

/// A file mapped for reading. Empty files map to no bytes.
pub(crate) struct Mapping {
    map: Option<memmap2::Mmap>,
    file: File,
    path: Arc<Path>,
}

/// From now on the process ends with `text` on its error output and exit code `code` where a page of a mapped file is not to be
/// had: somebody has cut the file short, or its disk failed. As the system has it, the process would end without a word.
///
/// # Errors
/// The system does not allow it.
#[cfg(unix)]
pub fn when_lost(text: &'static str, code: i32) -> io::Result<()> {
    let end = move || {
        let _ = rustix::io::write(std::io::stderr().as_fd(), text.as_bytes());
        signal_hook::low_level::exit(code);
    };
    // SAFETY: the handler makes two system calls, `write` and `_exit`, which may be made at any moment, and takes no memory.
    unsafe { signal_hook::low_level::register(signal_hook::consts::SIGBUS, end) }.map(drop)
}

impl Mapping {
    /// Maps a regular file (links are followed). Anything else, such as a directory or a pipe, is refused, because
    /// opening a pipe would wait for its writer.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(path)?;
        if metadata.len() == 0 {
            return Ok(Mapping { map: None, file, path: path.into() });
        }
        // SAFETY: the map is private and read-only, and nothing in this process writes to model files in place (every
        // writer makes a new file and renames it over the old one). Another process that truncates the file while it
        // is mapped ends this one with SIGBUS, as it does for every program that maps its weights; see `when_lost`.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Mapping { map: Some(map), file, path: path.into() })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    pub(crate) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// Copies bytes from `at` on without making pages of the map resident.
    pub(crate) fn read(&self, at: usize, into: &mut [u8]) -> io::Result<()> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_exact_at(&self.file, into, at as u64);
        #[cfg(not(unix))]
        {
            let _ = &self.file;
            into.copy_from_slice(&self.bytes()[at..at + into.len()]);
            Ok(())
        }
    }

    /// Lets go of the pages that lie wholly in `range`. The file has them still.
    pub(crate) fn forget(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            // SAFETY: the map is read-only and backed by a file, so pages that are dropped come back with the same bytes.
            // A system that does not know the advice keeps them, which costs memory only.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}
