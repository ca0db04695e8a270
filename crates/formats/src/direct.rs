//! Files read past the page cache, so that what is read once and let go takes no memory beside the reader's own: direct reads
//! where the file system has them, else plain ones after which the cache is told to forget. It knows bytes, no tensor.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path, sync::Arc};

use crate::meter::{Call, Meter, STEP};

/// Direct reads want whole pages: of the file, and of the memory they go to.
pub const PAGE: usize = 4096;

/// A file open for reading.
#[derive(Debug)]
pub struct DirectFile {
    path: Arc<Path>,
    plain: File,
    direct: Option<File>,
    meter: Arc<Meter>,
    /// What calls name it.
    name: Arc<str>,
}

/// Where in a file a read ended before its time, and why.
#[derive(Debug)]
pub struct Stopped {
    pub at: u64,
    pub source: io::Error,
}

impl DirectFile {
    /// `meter` counts its calls.
    pub fn open(path: &Path, meter: Arc<Meter>) -> io::Result<DirectFile> {
        let plain = File::open(path)?;
        scattered(&plain);
        let name = path.display().to_string().into();
        Ok(DirectFile { path: path.into(), plain, direct: open_direct(path), meter, name })
    }

    /// Fills `into` with the few bytes from `at` on, through the cache: they may be wanted again.
    pub fn read_few(&self, into: &mut [u8], at: u64) -> Result<(), Stopped> {
        let needed = into.len();
        fill(&mut |into, at| self.call(&self.plain, into, at), into, at, needed)
    }

    /// One call to the file.
    fn call(&self, file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
        let bytes = into.len().min(STEP);
        let call = Call { verb: "read", bytes, at, file: self.name.clone() };
        self.meter.measure(call, || file.read_at(&mut into[..bytes], at))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file system lets the page cache be passed by.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Fills `into` with the bytes from `at` on. The file may end inside it, but not before `needed` bytes. `at` and `into` are
    /// whole pages for a direct read; others are made through the cache.
    pub fn read(&self, into: &mut [u8], at: u64, needed: usize) -> Result<(), Stopped> {
        let aligned = |n: usize| n.is_multiple_of(PAGE);
        let whole = aligned(into.as_ptr().addr()) && aligned(into.len()) && at.is_multiple_of(PAGE as u64);
        if let Some(direct) = self.direct.as_ref().filter(|_| whole) {
            match fill(&mut |into, at| self.call(direct, into, at), into, at, needed) {
                // This file system wants larger blocks, or it refuses after all.
                Err(stopped) if stopped.source.kind() == io::ErrorKind::InvalidInput => {}
                done => return done,
            }
        }
        let done = fill(&mut |into, at| self.call(&self.plain, into, at), into, at, needed);
        forget(&self.plain, at, into.len());
        done
    }
}

/// Calls `read` until `needed` bytes are there.
fn fill(
    read: &mut dyn FnMut(&mut [u8], u64) -> io::Result<usize>,
    into: &mut [u8],
    at: u64,
    needed: usize,
) -> Result<(), Stopped> {
    let mut done = 0;
    while done < needed {
        let at = at + done as u64;
        match read(&mut into[done..], at) {
            Ok(0) => {
                let why = format!("the file ends there; {} more bytes should follow", needed - done);
                return Err(Stopped { at, source: io::Error::new(io::ErrorKind::UnexpectedEof, why) });
            }
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Stopped { at, source }),
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok().map(File::from)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> Option<File> {
    None
}

#[cfg(target_os = "linux")]
pub(crate) fn forget(file: &File, at: u64, len: usize) {
    // Advice: a system that does not take it keeps the pages until it needs them.
    let _ = rustix::fs::fadvise(file, at, std::num::NonZeroU64::new(len as u64), rustix::fs::Advice::DontNeed);
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn forget(_: &File, _: u64, _: usize) {}

/// Says that small reads come from all over the file: nothing is gained by reading what lies around them.
#[cfg(target_os = "linux")]
fn scattered(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random);
}

#[cfg(not(target_os = "linux"))]
fn scattered(_: &File) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_parts_of_pages_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let content: Vec<u8> = (0..3 * PAGE + 100).map(|i| (i / 7) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = DirectFile::open(&path, Arc::default()).unwrap();
        let mut memory = memmap2::MmapMut::map_anon(4 * PAGE).unwrap();
        // Direct where the disk allows it, up to the file's end; then through the cache.
        file.read(&mut memory, 0, content.len()).unwrap();
        assert_eq!(&memory[..content.len()], &content[..]);
        file.read(&mut memory[3..50], 4099, 47).unwrap();
        assert_eq!(memory[3..50], content[4099..4146]);
        file.read_few(&mut memory[9..20], 30).unwrap();
        assert_eq!(memory[9..20], content[30..41]);
        let stopped = file.read(&mut memory, PAGE as u64, 3 * PAGE).unwrap_err();
        assert_eq!((stopped.at, stopped.source.kind()), (content.len() as u64, io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn short_reads_go_on_and_errors_say_where() {
        let mut calls = 0;
        let mut read = |into: &mut [u8], at: u64| {
            calls += 1;
            match calls {
                2 => Err(io::ErrorKind::Interrupted.into()),
                4 => Err(io::Error::from_raw_os_error(5)),
                _ => {
                    into[..10].fill(at as u8);
                    Ok(10)
                }
            }
        };
        let mut into = [0; 100];
        let stopped = fill(&mut read, &mut into, 7, 90).unwrap_err();
        assert_eq!((stopped.at, stopped.source.raw_os_error()), (27, Some(5)));
        assert_eq!((into[9], into[10], into[20]), (7, 17, 0));
    }
}
