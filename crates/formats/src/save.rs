//! Files that are whole or not there: written beside their place, synced, renamed, and the directory synced. It knows
//! no format, and what lies below [`Vfs`] neither.

use std::{
    borrow::Cow,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use ounce_spec::DType;

use crate::vfs::{Vfs, VfsFile};

/// Why a file could not be written. Nothing is left behind, and a file that was there before is untouched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    #[error("cannot write {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {}", path.display(), crate::error::list(problems))]
    Problems { path: PathBuf, problems: Vec<String> },
    /// The caller could not make a tensor's bytes.
    #[error("cannot write {}: tensor {tensor}: {source}", path.display())]
    Source { path: PathBuf, tensor: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(transparent)]
    Open(#[from] crate::OpenError),
}

impl WriteError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        WriteError::Io { path: path.into(), source }
    }
}

/// A tensor that is going to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    pub name: String,
    pub dtype: DType,
    /// Slowest dimension first.
    pub shape: Vec<usize>,
}

impl Info {
    /// Bytes of the tensor; `None` where rows are not whole blocks or the size overflows.
    pub fn size_bytes(&self) -> Option<usize> {
        let row = self.shape.last().copied().unwrap_or(1);
        let elements = self.shape.iter().try_fold(1usize, |product, &d| product.checked_mul(d))?;
        (row % self.dtype.block_len() == 0).then(|| self.dtype.bytes_of(elements))?
    }
}

/// Makes the bytes of one tensor when its turn comes, so that a conversion never holds two models in memory.
pub type BytesOf<'s, 'a> = dyn FnMut(&Info) -> Result<Cow<'a, [u8]>, Box<dyn std::error::Error + Send + Sync>> + 's;

/// A file under construction. Dropping it unfinished removes it.
pub struct AtomicFile<'v> {
    vfs: &'v dyn Vfs,
    temporary: PathBuf,
    path: PathBuf,
    file: Option<BufWriter<Box<dyn VfsFile>>>,
}

impl<'v> AtomicFile<'v> {
    /// Starts a file that will be `path`. Its directory must exist.
    ///
    /// # Errors
    /// The path names no file; those of `vfs`.
    pub fn create(vfs: &'v dyn Vfs, path: &Path) -> Result<Self, WriteError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = path.file_name().ok_or_else(|| {
            WriteError::io(path, io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))
        })?;
        let mut temporary = name.to_owned();
        temporary.push(format!(".tmp-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let temporary = path.with_file_name(temporary);
        let file = vfs.create(&temporary).map_err(|source| WriteError::io(&temporary, source))?;
        Ok(AtomicFile { vfs, temporary, path: path.into(), file: Some(BufWriter::with_capacity(1 << 20, file)) })
    }

    /// Makes the file durable and visible under its name.
    pub fn finish(mut self) -> Result<(), WriteError> {
        let io = |source| WriteError::Io { path: self.path.clone(), source };
        let Some(writer) = self.file.take() else { return Ok(()) };
        let result = writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|mut file| file.sync())
            .and_then(|()| self.vfs.rename(&self.temporary, &self.path))
            .and_then(|()| self.vfs.sync_dir(self.path.parent().unwrap_or(Path::new(""))));
        if result.is_err() {
            let _ = self.vfs.remove_file(&self.temporary);
        }
        result.map_err(io)
    }
}

impl Write for AtomicFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => Err(io::Error::other("the file is finished")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for AtomicFile<'_> {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = self.vfs.remove_file(&self.temporary);
        }
    }
}

/// Writes a small file whole.
///
/// # Errors
/// As of [`AtomicFile`].
pub fn write_bytes(vfs: &dyn Vfs, path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let mut file = AtomicFile::create(vfs, path)?;
    file.write_all(bytes).map_err(|source| WriteError::io(path, source))?;
    file.finish()
}

/// Writes the tensors of `infos` one after the other, each followed by zeros up to a multiple of `alignment`.
pub(crate) fn write_tensors<'a>(
    file: &mut AtomicFile<'_>,
    infos: &[Info],
    alignment: usize,
    bytes_of: &mut BytesOf<'_, 'a>,
) -> Result<(), WriteError> {
    let path = file.path.clone();
    for info in infos {
        let bytes = bytes_of(info).map_err(|source| WriteError::Source {
            path: path.clone(),
            tensor: info.name.clone(),
            source,
        })?;
        if Some(bytes.len()) != info.size_bytes() {
            let (found, expected) = (bytes.len(), info.size_bytes().unwrap_or(0));
            let problem = format!("tensor {} has {found} bytes, its type and shape need {expected}", info.name);
            return Err(WriteError::Problems { path, problems: vec![problem] });
        }
        let padding = vec![0; bytes.len().next_multiple_of(alignment) - bytes.len()];
        file.write_all(&bytes)
            .and_then(|()| file.write_all(&padding))
            .map_err(|source| WriteError::io(&path, source))?;
    }
    Ok(())
}

/// What is wrong with a list of tensors before any is written: doubled names, broken shapes.
pub(crate) fn check_infos(path: &Path, infos: &[Info]) -> Result<(), WriteError> {
    let mut seen = std::collections::HashSet::new();
    let mut problems = Vec::new();
    for info in infos {
        if !seen.insert(&info.name) {
            problems.push(format!("tensor {} occurs twice", info.name));
        }
        if info.size_bytes().is_none() {
            problems.push(format!("tensor {}: {:?} cannot be stored as {}", info.name, info.shape, info.dtype.name()));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(WriteError::Problems { path: path.into(), problems }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::Disk;
    use std::fs;

    #[test]
    fn an_unfinished_file_leaves_the_old_one_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_bytes(&Disk, &path, b"old").unwrap();
        let mut file = AtomicFile::create(&Disk, &path).unwrap();
        file.write_all(b"new").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        write_bytes(&Disk, &path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
