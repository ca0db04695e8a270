//! [`ScratchFile`]: a file without a name, for what does not fit into memory while a process runs. Regions of it are written
//! and read back past the page cache, from any thread, and what is read is checked against what was written. It knows bytes,
//! not what they mean.

mod disk;
mod space;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use memmap2::MmapMut;

use crate::direct::PAGE;
use crate::meter::{Call, Meter, STEP};
use crate::units;
pub use disk::{Disk, free_bytes, is_memory};
use space::Space;

/// Length of the pieces in which memory that does not begin at a page, and what is left behind the last whole page, is copied
/// on its way.
const BOUNCE: usize = 1 << 20;

/// See the module. Nothing of it is left when it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct ScratchFile {
    dir: PathBuf,
    disk: Box<dyn Disk>,
    space: Arc<Mutex<Space>>,
    /// Aligned memory that is in nobody's hands.
    bounces: Mutex<Vec<MmapMut>>,
    meter: Meter,
    /// What calls name it.
    name: Arc<str>,
}

/// Whole pages of a scratch file. Who drops it gives them back.
#[derive(Debug)]
pub struct Region {
    at: u64,
    bytes: u64,
    written: Mutex<Option<Written>>,
    space: Arc<Mutex<Space>>,
}

/// What a region holds: how much, and its checksum. It stays in memory, where a disk cannot damage it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Written {
    bytes: usize,
    crc: u32,
}

/// Each says where, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScratchError {
    #[error("cannot make a scratch file in {}: {source}; choose a directory that may be written to", dir.display())]
    Create { dir: PathBuf, source: io::Error },
    #[error(
        "the disk of {} is too full for a scratch file: {} more are needed, {} are free; \
         free some or choose a directory on another disk", dir.display(), units::bytes(*needed as usize), units::bytes(*free as usize)
    )]
    Full { dir: PathBuf, needed: u64, free: u64 },
    #[error("cannot take {} more for the scratch file in {}: {source}", units::bytes(*needed as usize), dir.display())]
    Reserve { dir: PathBuf, needed: u64, source: io::Error },
    #[error(
        "cannot write {} at byte {at} of the scratch file in {}: {source}; {RESUME}",
        units::bytes(*bytes), dir.display()
    )]
    Write { dir: PathBuf, at: u64, bytes: usize, source: io::Error },
    #[error(
        "cannot read {} at byte {at} of the scratch file in {}: {source}; {RESUME}",
        units::bytes(*bytes), dir.display()
    )]
    Read { dir: PathBuf, at: u64, bytes: usize, source: io::Error },
    #[error(
        "the {} at byte {at} of the scratch file in {} are not what was written there: \
         the disk or what lies between damages data; use another one; {RESUME}", units::bytes(*bytes), dir.display()
    )]
    Damaged { dir: PathBuf, at: u64, bytes: usize },
}

const RESUME: &str = "a run can be resumed from its last checkpoint";

impl ScratchFile {
    /// A file in `dir` that has no name from the start.
    pub fn create(dir: &Path) -> Result<ScratchFile, ScratchError> {
        let disk = disk::unnamed(dir).map_err(|source| ScratchError::Create { dir: dir.into(), source })?;
        Ok(ScratchFile::on(Box::new(disk), dir))
    }

    /// On something else than a file; `dir` is what errors call it.
    pub fn on(disk: Box<dyn Disk>, dir: &Path) -> ScratchFile {
        let name = format!("the scratch file in {}", dir.display()).into();
        let (space, bounces, meter) = (Arc::default(), Mutex::default(), Meter::default());
        ScratchFile { dir: dir.into(), disk, space, bounces, meter, name }
    }

    /// Room for `bytes` bytes: what was given back, else more of the disk, which is taken at once. A disk that is too full is
    /// so found before anything depends on it.
    pub fn reserve(&self, bytes: usize) -> Result<Region, ScratchError> {
        let bytes = bytes.max(1).next_multiple_of(PAGE) as u64;
        let mut space = lock(&self.space);
        let at = match space.take(bytes) {
            Some(at) => at,
            None => {
                let (at, needed) = space.growth(bytes);
                self.grow(space.end(), needed)?;
                space.grow(needed);
                space.take(bytes).inspect(|&taken| assert_eq!(taken, at)).expect("the file has just grown by enough")
            }
        };
        Ok(Region { at, bytes, written: Mutex::new(None), space: self.space.clone() })
    }

    /// Length of the file: all that was ever reserved at once, in bytes.
    pub fn bytes(&self) -> u64 {
        lock(&self.space).end()
    }

    /// Writes `bytes`, all that the region will hold. They may be read when this returns.
    pub fn write(&self, region: &Region, bytes: &[u8]) -> Result<(), ScratchError> {
        assert!(bytes.len() as u64 <= region.bytes, "{} bytes do not fit into {}", bytes.len(), region.bytes);
        *lock(&region.written) = None;
        let write = |piece: &[u8], at: usize| {
            let (at, bytes) = (region.at + at as u64, piece.len());
            let written = self.call("write", bytes, at, || self.disk.write(piece, at));
            written.map_err(|source| ScratchError::Write { dir: self.dir.clone(), at, bytes, source })
        };
        let (straight, rest) = bytes.split_at(whole_pages(bytes));
        for (i, piece) in straight.chunks(STEP).enumerate() {
            write(piece, i * STEP)?;
        }
        if !rest.is_empty() {
            let mut bounce = self.take_bounce()?;
            for (i, piece) in rest.chunks(BOUNCE).enumerate() {
                bounce[..piece.len()].copy_from_slice(piece);
                write(&bounce[..piece.len().next_multiple_of(PAGE)], straight.len() + i * BOUNCE)?;
            }
            lock(&self.bounces).push(bounce);
        }
        *lock(&region.written) = Some(Written { bytes: bytes.len(), crc: crc32fast::hash(bytes) });
        Ok(())
    }

    /// Fills `into`, as long as what was written.
    pub fn read(&self, region: &Region, into: &mut [u8]) -> Result<(), ScratchError> {
        let written = lock(&region.written).expect("a region is written before it is read");
        assert_eq!(into.len(), written.bytes, "a region is read as it was written");
        let read = |piece: &mut [u8], at: usize| {
            let (at, bytes) = (region.at + at as u64, piece.len());
            let read = self.call("read", bytes, at, || self.disk.read(piece, at));
            read.map_err(|source| ScratchError::Read { dir: self.dir.clone(), at, bytes, source })
        };
        let (straight, rest) = into.split_at_mut(whole_pages(into));
        for (i, piece) in straight.chunks_mut(STEP).enumerate() {
            read(piece, i * STEP)?;
        }
        if !rest.is_empty() {
            let mut bounce = self.take_bounce()?;
            for (i, piece) in rest.chunks_mut(BOUNCE).enumerate() {
                read(&mut bounce[..piece.len().next_multiple_of(PAGE)], straight.len() + i * BOUNCE)?;
                piece.copy_from_slice(&bounce[..piece.len()]);
            }
            lock(&self.bounces).push(bounce);
        }
        if crc32fast::hash(into) != written.crc {
            return Err(ScratchError::Damaged { dir: self.dir.clone(), at: region.at, bytes: into.len() });
        }
        Ok(())
    }

    /// What it has not answered.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// How long it may answer nothing before it is taken to hang.
    pub fn patience(&self) -> Duration {
        self.disk.patience()
    }

    fn call<T>(&self, verb: &'static str, bytes: usize, at: u64, work: impl FnOnce() -> T) -> T {
        self.meter.measure(Call { verb, bytes, at, file: self.name.clone() }, work)
    }

    fn grow(&self, at: u64, needed: u64) -> Result<(), ScratchError> {
        let taken = self.call("allocation", needed as usize, at, || self.disk.allocate(at, needed));
        taken.map_err(|source| match (source.kind(), self.disk.free_bytes()) {
            (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, Ok(free)) => {
                ScratchError::Full { dir: self.dir.clone(), needed, free }
            }
            _ => ScratchError::Reserve { dir: self.dir.clone(), needed, source },
        })
    }

    fn take_bounce(&self) -> Result<MmapMut, ScratchError> {
        if let Some(bounce) = lock(&self.bounces).pop() {
            return Ok(bounce);
        }
        MmapMut::map_anon(BOUNCE).map_err(|source| ScratchError::Reserve {
            dir: self.dir.clone(),
            needed: BOUNCE as u64,
            source,
        })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        lock(&self.space).give(self.at, self.bytes);
    }
}

/// How many of these bytes can go as they are: whole pages, if they begin at one.
fn whole_pages(bytes: &[u8]) -> usize {
    match bytes.as_ptr().addr().is_multiple_of(PAGE) {
        true => bytes.len() / PAGE * PAGE,
        false => 0,
    }
}

/// What is behind these locks is whole between any two statements, so a thread that panicked has not spoilt it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
