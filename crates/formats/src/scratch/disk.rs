//! What a scratch file lies on: an unnamed file, read and written directly where the file system lets the page cache be passed
//! by, else through it, after which it is told to forget. A trait, so that tests can have disks that fail.

use std::fmt::Debug;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{io, process};

use memmap2::MmapMut;

use crate::direct::{PAGE, forget};
use crate::meter::PATIENCE;

/// Places are multiples of [`PAGE`], as are the lengths and addresses of memory.
pub trait Disk: Debug + Send + Sync {
    /// Takes `bytes` bytes at `at`, the end so far; nothing is taken where there are fewer.
    fn allocate(&self, at: u64, bytes: u64) -> io::Result<()>;
    /// What could still be taken.
    fn free_bytes(&self) -> io::Result<u64>;
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    fn read(&self, into: &mut [u8], at: u64) -> io::Result<()>;
    /// How long it may answer nothing.
    fn patience(&self) -> Duration {
        PATIENCE
    }
}

/// Bytes that a file in `dir` could take.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Whether files in `dir` are in memory: writing there makes no room.
#[cfg(target_os = "linux")]
pub fn is_memory(dir: &Path) -> bool {
    // Of tmpfs and ramfs, in linux/magic.h.
    const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];
    // The field's type differs between systems; the numbers have 32 bits.
    rustix::fs::statfs(dir).is_ok_and(|stat| IN_MEMORY.iter().any(|&kind| u32::try_from(stat.f_type) == Ok(kind)))
}

#[cfg(not(target_os = "linux"))]
pub fn is_memory(_: &Path) -> bool {
    false
}

#[derive(Debug)]
pub(super) struct Unnamed {
    file: File,
    direct: bool,
}

/// Numbers the files of this process for the moment in which they have a name.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A new file in `dir` whose name is gone when this returns.
pub(super) fn unnamed(dir: &Path) -> io::Result<Unnamed> {
    let (plain, path) = loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".scratch-{}-{number}", process::id()));
        match File::options().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => break (file, path),
            // Left by a process that died in that moment.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    };
    let direct = open_direct(&path);
    std::fs::remove_file(&path)?;
    if let Some(file) = direct {
        let direct = Unnamed { file, direct: true };
        // A file system may refuse only when it comes to writing, or want larger blocks.
        let mut page = MmapMut::map_anon(PAGE)?;
        if direct.write(&page, 0).and_then(|()| direct.read(&mut page, 0)).is_ok() {
            return Ok(direct);
        }
    }
    Ok(Unnamed { file: plain, direct: false })
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Option<File> {
    let flag = rustix::fs::OFlags::DIRECT.bits() as i32;
    File::options().read(true).write(true).custom_flags(flag).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> Option<File> {
    None
}

impl Disk for Unnamed {
    fn allocate(&self, at: u64, bytes: u64) -> io::Result<()> {
        let taken = retried(|| rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), at, bytes));
        match taken {
            Ok(()) => Ok(()),
            // This file system cannot promise; it can be asked.
            Err(e) if matches!(e.kind(), io::ErrorKind::Unsupported) => match self.free_bytes()? {
                free if free < bytes => Err(io::ErrorKind::StorageFull.into()),
                _ => self.file.set_len(at + bytes),
            },
            Err(e) => {
                // What was taken before the disk was full.
                self.file.set_len(at)?;
                Err(e)
            }
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.file)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        whole(bytes.len(), |done| self.file.write_at(&bytes[done..], at + done as u64))?;
        if !self.direct {
            // The cache forgets only what is on the disk.
            self.file.sync_data()?;
            forget(&self.file, at, bytes.len());
        }
        Ok(())
    }

    fn read(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        let length = into.len();
        whole(length, |done| self.file.read_at(&mut into[done..], at + done as u64))?;
        if !self.direct {
            forget(&self.file, at, length);
        }
        Ok(())
    }
}

/// Repeats `step`, which gets what is done and does some more, until `bytes` bytes are. It goes on from whole pages, which
/// direct steps need.
fn whole(bytes: usize, mut step: impl FnMut(usize) -> io::Result<usize>) -> io::Result<()> {
    let mut done = 0;
    while done < bytes {
        let more = retried(|| step(done))?;
        let reached = (done + more) / PAGE * PAGE;
        if reached == done {
            return Err(io::Error::other(format!("it ends after {} of {bytes} bytes", done + more)));
        }
        done = reached;
    }
    Ok(())
}

/// Again while a signal comes in between.
fn retried<T, E: Into<io::Error>>(mut call: impl FnMut() -> Result<T, E>) -> io::Result<T> {
    loop {
        match call().map_err(Into::into) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_go_on_from_whole_pages_until_all_is_done() {
        let mut at = Vec::new();
        let mut given = [PAGE + 5, 0, PAGE, 7].into_iter();
        let mut interrupted = false;
        let error = whole(4 * PAGE, |done| {
            if done == PAGE && !std::mem::replace(&mut interrupted, true) {
                given.next();
                return Err(io::ErrorKind::Interrupted.into());
            }
            at.push(done);
            Ok(given.next().unwrap())
        })
        .unwrap_err();
        assert_eq!(at, [0, PAGE, 2 * PAGE]);
        assert!(error.to_string().contains("after 8199 of 16384"), "{error}");
    }

    #[test]
    fn a_file_too_large_for_its_disk_is_refused_and_what_was_taken_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let disk = unnamed(dir.path()).unwrap();
        disk.allocate(0, 1 << 20).unwrap();
        let free = disk.free_bytes().unwrap();
        // More than any file may have.
        disk.allocate(1 << 20, 1 << 62).unwrap_err();
        assert_eq!(disk.file.metadata().unwrap().len(), 1 << 20);
        assert!(free > 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
