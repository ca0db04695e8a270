//! Wraps a file system, counts its operations, and makes one of them fail.

use std::{
    io::{self, Error, ErrorKind, Read, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use ounce_train::vfs::{Entry, Vfs, VfsFile};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails and does nothing.
    Io,
    /// From this operation on, nothing new can be written until something is removed.
    Full,
    /// A write takes half of the bytes and says so.
    ShortWrite,
    /// A write takes half of the bytes, and the next one finds a file size limit.
    Limit,
    /// The process is gone before the operation; all that follow fail.
    CrashBefore,
    /// The process is gone in the middle of it: a write has taken half of the bytes.
    CrashWithin,
    /// The process is gone after it.
    CrashAfter,
    /// The operation never ends; not one of `ALL`, since only the patient get over it.
    Hang,
}

impl Fault {
    pub const ALL: [Fault; 7] = [
        Fault::Io,
        Fault::Full,
        Fault::ShortWrite,
        Fault::Limit,
        Fault::CrashBefore,
        Fault::CrashWithin,
        Fault::CrashAfter,
    ];
}

/// Clones share the count.
#[derive(Clone)]
pub struct Faulty<V> {
    inner: V,
    at: usize,
    fault: Fault,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    count: AtomicUsize,
    /// Every further operation fails.
    gone: AtomicBool,
    /// Every further operation that needs space fails.
    full: AtomicBool,
    /// Every further write fails.
    limited: AtomicBool,
}

#[derive(Clone, Copy, PartialEq)]
enum Needs {
    Space,
    Nothing,
    /// Frees space.
    Removes,
}

impl<V: Clone> Faulty<V> {
    /// Fails operation `at`, counted from 0. `usize::MAX` only counts.
    pub fn new(inner: V, at: usize, fault: Fault) -> Faulty<V> {
        Faulty { inner, at, fault, shared: Arc::default() }
    }

    /// Operations so far.
    pub fn count(&self) -> usize {
        self.shared.count.load(SeqCst)
    }

    fn run<T>(&self, needs: Needs, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let shared = &self.shared;
        let hit = shared.count.fetch_add(1, SeqCst) == self.at;
        let gone = || Error::other("the process is gone");
        if shared.gone.load(SeqCst) {
            return Err(gone());
        }
        match self.fault {
            Fault::Io if hit => return Err(Error::other("input/output error")),
            Fault::Hang if hit => loop {
                std::thread::park();
            },
            Fault::Full if hit => shared.full.store(true, SeqCst),
            Fault::CrashBefore | Fault::CrashWithin if hit => {
                shared.gone.store(true, SeqCst);
                return Err(gone());
            }
            Fault::CrashAfter if hit => {
                let _ = operation();
                shared.gone.store(true, SeqCst);
                return Err(gone());
            }
            _ => {}
        }
        if shared.full.load(SeqCst) {
            match needs {
                Needs::Space => return Err(Error::from(ErrorKind::StorageFull)),
                Needs::Removes => shared.full.store(false, SeqCst),
                Needs::Nothing => {}
            }
        }
        operation()
    }
}

impl<V: Vfs + Clone + 'static> Vfs for Faulty<V> {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.run(Needs::Space, || self.inner.create_dir(path))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        let file = self.run(Needs::Space, || self.inner.create(path))?;
        Ok(Box::new(Open { vfs: self.clone(), file }))
    }

    fn append(&self, path: &Path, length: u64) -> io::Result<Box<dyn VfsFile>> {
        let file = self.run(Needs::Space, || self.inner.append(path, length))?;
        Ok(Box::new(Open { vfs: self.clone(), file }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        let file = self.run(Needs::Nothing, || self.inner.open(path))?;
        Ok(Box::new(Reading { vfs: self.clone(), file }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.run(Needs::Nothing, || self.inner.list(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(Needs::Nothing, || self.inner.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.run(Needs::Removes, || self.inner.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.run(Needs::Removes, || self.inner.remove_dir(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.run(Needs::Nothing, || self.inner.sync_dir(dir))
    }
}

struct Open<V> {
    vfs: Faulty<V>,
    file: Box<dyn VfsFile>,
}

impl<V: Clone> Write for Open<V> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let hit = self.vfs.count() == self.vfs.at;
        let half = &bytes[..bytes.len().div_ceil(2)];
        if self.vfs.shared.limited.load(SeqCst) {
            return Err(Error::from(ErrorKind::FileTooLarge));
        }
        match self.vfs.fault {
            Fault::ShortWrite if hit => return self.vfs.run(Needs::Space, || self.file.write(half)),
            Fault::Limit if hit => {
                self.vfs.shared.limited.store(true, SeqCst);
                return self.vfs.run(Needs::Space, || self.file.write(half));
            }
            Fault::CrashWithin if hit => {
                self.file.write_all(half)?;
            }
            _ => {}
        }
        self.vfs.run(Needs::Space, || self.file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl<V: Clone + Send> VfsFile for Open<V> {
    fn sync(&mut self) -> io::Result<()> {
        self.vfs.run(Needs::Space, || self.file.sync())
    }
}

struct Reading<V> {
    vfs: Faulty<V>,
    file: Box<dyn Read + Send>,
}

impl<V: Clone> Read for Reading<V> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.vfs.run(Needs::Nothing, || self.file.read(buffer))
    }
}
