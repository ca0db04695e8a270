//! [`Patient`]: a file system that gives up on one that hangs. A call that is not answered cannot be taken back, so all calls are
//! made by a thread of its own, and whoever waits for that thread has a patience. It knows calls, no checkpoint.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ounce_formats::meter::{PATIENCE, STEP};
use ounce_formats::units;
use ounce_tensor::{Progress, ReadError, Watch};

use super::{Entry, Vfs, VfsFile};

/// Bytes that go to the thread at once: they are copied for it, since it may keep them for ever.
const PIECE: usize = 1 << 20;

/// See the module. After one call without an answer all others fail at once: nobody waits for the same disk twice.
pub struct Patient<V> {
    inner: Arc<V>,
    thread: Arc<Caller>,
}

/// The end of the thread that others have.
struct Caller {
    calls: Sender<Box<dyn FnOnce() + Send>>,
    patience: Duration,
    hung: Mutex<Option<ReadError>>,
}

impl<V: Vfs + 'static> Patient<V> {
    /// # Errors
    /// The system has no more threads.
    pub fn new(inner: V) -> io::Result<Patient<V>> {
        Patient::with_patience(inner, PATIENCE)
    }

    /// The same with another patience.
    pub fn with_patience(inner: V, patience: Duration) -> io::Result<Patient<V>> {
        let (calls, to_make): (_, Receiver<Box<dyn FnOnce() + Send>>) = channel();
        // Nobody joins it: it may be waiting for the disk.
        std::thread::Builder::new().name("files".into()).spawn(move || to_make.iter().for_each(|call| call()))?;
        let thread = Arc::new(Caller { calls, patience, hung: Mutex::default() });
        Ok(Patient { inner: Arc::new(inner), thread })
    }

    fn on<T: Send + 'static>(
        &self,
        what: &str,
        path: &Path,
        call: impl FnOnce(&V, &Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (inner, path) = (self.inner.clone(), path.to_owned());
        self.thread.ask(format!("{what} {}", path.display()), move || call(&inner, &path))
    }
}

impl Caller {
    /// The answer to `call`, which messages name `what`.
    fn ask<T: Send + 'static>(
        &self,
        what: String,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.check()?;
        let (answer, answers) = channel();
        let ended = || io::Error::other("the thread that uses the disk has ended");
        // Who does not wait any more needs no answer.
        self.calls.send(Box::new(move || drop(answer.send(call())))).map_err(|_| ended())?;
        let progress = || Progress { answered: 0, oldest: Some(what.clone()), patience: self.patience };
        match Watch::new("an answer", &progress).receive(&answers) {
            Ok(answer) => answer.ok_or_else(ended)?,
            Err(error) => {
                *self.hung.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                self.check()?;
                Err(ended())
            }
        }
    }

    /// Whether calls are still answered.
    fn check(&self) -> io::Result<()> {
        match &*self.hung.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(io::Error::new(io::ErrorKind::TimedOut, error.clone())),
            None => Ok(()),
        }
    }
}

impl<V: Vfs + 'static> Vfs for Patient<V> {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.on("directory", path, |vfs, path| vfs.create_dir(path))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        let file = self.on("creation of", path, |vfs, path| vfs.create(path))?;
        Ok(Box::new(Opened { thread: self.thread.clone(), path: path.into(), file: Some(file), at: 0, unsynced: 0 }))
    }

    fn append(&self, path: &Path, length: u64) -> io::Result<Box<dyn VfsFile>> {
        let file = self.on("opening of", path, move |vfs, path| vfs.append(path, length))?;
        Ok(Box::new(Opened {
            thread: self.thread.clone(),
            path: path.into(),
            file: Some(file),
            at: length,
            unsynced: 0,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        let file = self.on("opening of", path, |vfs, path| vfs.open(path))?;
        Ok(Box::new(Opened { thread: self.thread.clone(), path: path.into(), file: Some(file), at: 0, unsynced: 0 }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.on("names in", dir, |vfs, dir| vfs.list(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let to = to.to_owned();
        self.on("renaming of", from, move |vfs, from| vfs.rename(from, &to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.on("removal of", path, |vfs, path| vfs.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.on("removal of", path, |vfs, path| vfs.remove_dir(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.on("sync of", dir, |vfs, dir| vfs.sync_dir(dir))
    }
}

/// A file that is with the thread while it is used, and stays there if the call never ends.
struct Opened<F> {
    thread: Arc<Caller>,
    path: PathBuf,
    file: Option<F>,
    /// For messages: where the next call begins.
    at: u64,
    unsynced: usize,
}

impl<F: Send + 'static> Opened<F> {
    fn call<T: Send + 'static>(
        &mut self,
        what: &str,
        call: impl FnOnce(&mut F) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.thread.check()?;
        let mut file = self.file.take().ok_or_else(|| io::Error::other("the file has gone with a fault"))?;
        let (file, answer) = self.thread.ask(format!("{what} {}", self.path.display()), move || {
            let answer = call(&mut file);
            Ok((file, answer))
        })?;
        self.file = Some(file);
        answer
    }
}

impl Write for Opened<Box<dyn VfsFile>> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.unsynced >= STEP {
            // No sync has more to do than a disk does within the patience, if it does anything.
            self.sync()?;
        }
        let piece = bytes[..bytes.len().min(PIECE)].to_vec();
        let what = format!("write of {} at byte {} of", units::bytes(piece.len()), self.at);
        let n = self.call(&what, move |file| file.write(&piece))?;
        self.at += n as u64;
        self.unsynced += n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.call("write to", |file| file.flush())
    }
}

impl VfsFile for Opened<Box<dyn VfsFile>> {
    fn sync(&mut self) -> io::Result<()> {
        self.unsynced = 0;
        self.call("sync of", |file| file.sync())
    }
}

impl Read for Opened<Box<dyn Read + Send>> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = into.len().min(PIECE);
        let what = format!("read of {} at byte {} of", units::bytes(len), self.at);
        let piece = self.call(&what, move |file| {
            let mut piece = vec![0; len];
            let n = file.read(&mut piece)?;
            piece.truncate(n);
            Ok(piece)
        })?;
        into[..piece.len()].copy_from_slice(&piece);
        self.at += piece.len() as u64;
        Ok(piece.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::{Disk, make_dir, remove_tree};

    #[test]
    fn it_does_what_the_disk_does() {
        let root = tempfile::tempdir().unwrap();
        let (vfs, dir) = (Patient::new(Disk).unwrap(), root.path().join("a/b"));
        make_dir(&vfs, &dir).unwrap();
        let content: Vec<u8> = (0..3 * PIECE + 5).map(|i| (i / 7) as u8).collect();
        let mut file = vfs.create(&dir.join("one")).unwrap();
        assert_eq!(file.write(&content).unwrap(), PIECE);
        file.write_all(&content[PIECE..]).unwrap();
        file.flush().and_then(|()| file.sync()).unwrap();
        vfs.rename(&dir.join("one"), &dir.join("two")).unwrap();
        vfs.append(&dir.join("two"), content.len() as u64).unwrap().write_all(b"more").unwrap();
        vfs.append(&dir.join("two"), content.len() as u64 + 1).unwrap().flush().unwrap();
        vfs.sync_dir(&dir).unwrap();
        assert_eq!(vfs.list(&dir).unwrap(), Disk.list(&dir).unwrap());
        let mut read = Vec::new();
        vfs.open(&dir.join("two")).unwrap().read_to_end(&mut read).unwrap();
        assert!(read == [&content[..], b"m"].concat(), "other bytes");
        assert_eq!(vfs.open(&dir.join("one")).err().unwrap().kind(), io::ErrorKind::NotFound);
        remove_tree(&vfs, &root.path().join("a")).unwrap();
        assert_eq!(vfs.list(root.path()).unwrap(), []);
    }
}
