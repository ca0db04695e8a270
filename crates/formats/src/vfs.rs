//! The file operations that saving is made of, as a trait: tests fail each one of them, and a caller may have less patience with a
//! disk that hangs than the system has. [`Disk`] is the real file system. Knows nothing of what is saved.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

/// A file system. Each call is one operation that can fail on its own.
pub trait Vfs: Send + Sync {
    /// Makes one directory; its parent must be there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a file, empty if it was there, for writing.
    fn create(&self, path: &Path) -> io::Result<Box<dyn VfsFile>>;
    /// Opens a file for writing at its end, which is its `length`th byte: a longer one is cut, a missing one is made.
    fn append(&self, path: &Path, length: u64) -> io::Result<Box<dyn VfsFile>>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>>;
    /// What lies in a directory, sorted by name, without names that are not UTF-8 (none of ours).
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// Renames within one directory, atomically. A file that was at `to` is replaced; a directory there is an error.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the directory's entries (names created, renamed, removed) survive a power cut.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// A file being written.
pub trait VfsFile: Write + Send {
    /// Makes the file's bytes survive a power cut. The name needs [`Vfs::sync_dir`].
    fn sync(&mut self) -> io::Result<()>;
}

/// One name in a directory. Links are [`Kind::Other`], whatever they point at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File { bytes: u64 },
    Dir,
    Other,
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Vfs for Disk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn append(&self, path: &Path, length: u64) -> io::Result<Box<dyn VfsFile>> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        file.set_len(length)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = vec![];
        for entry in fs::read_dir(here(dir))? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let data = match entry.metadata() {
                Ok(data) => data,
                // Removed since the directory was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let kind = match data.file_type() {
                t if t.is_file() => Kind::File { bytes: data.len() },
                t if t.is_dir() => Kind::Dir,
                _ => Kind::Other,
            };
            entries.push(Entry { name, kind });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if cfg!(not(unix)) {
            // A directory cannot be opened as a file, and its entries need no sync.
            return Ok(());
        }
        match File::open(here(dir))?.sync_all() {
            // Some network file systems have no such operation; there is nothing better to ask of them.
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            other => other,
        }
    }
}

impl VfsFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// The parent of a bare name is the empty path, which cannot be opened.
fn here(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() { Path::new(".") } else { dir }
}

/// Makes a directory and its missing parents, all of which survive a power cut.
pub fn make_dir(vfs: &dyn Vfs, dir: &Path) -> io::Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    match vfs.create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !parent.as_os_str().is_empty() => {
            make_dir(vfs, parent)?;
            vfs.create_dir(dir)?;
        }
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    // Also the names that were there: a process that died may have made them just before it could sync them.
    for ancestor in parent.ancestors() {
        match vfs.sync_dir(ancestor) {
            // Others' directories, which we could not have made.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => break,
            other => other?,
        }
    }
    Ok(())
}

/// Removes a file or a directory with all it holds; nothing there is no error. Links are removed, not followed.
pub fn remove_tree(vfs: &dyn Vfs, path: &Path) -> io::Result<()> {
    let entries = match vfs.list(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return vfs.remove_file(path),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let inner = path.join(&entry.name);
        match entry.kind {
            Kind::Dir => remove_tree(vfs, &inner)?,
            Kind::File { .. } | Kind::Other => vfs.remove_file(&inner)?,
        }
    }
    vfs.remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_does_what_the_trait_says() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b/c");
        make_dir(&Disk, &dir).unwrap();
        make_dir(&Disk, &dir).unwrap();
        let mut file = Disk.create(&dir.join("one")).unwrap();
        file.write_all(b"abc").unwrap();
        file.sync().unwrap();
        Disk.append(&dir.join("one"), 2).unwrap().write_all(b"de").unwrap();
        Disk.rename(&dir.join("one"), &dir.join("two")).unwrap();
        Disk.append(&dir.join("two"), 4).unwrap().write_all(b"f").unwrap();
        Disk.append(&dir.join("new"), 0).unwrap();
        Disk.create_dir(&dir.join("inner")).unwrap();
        Disk.create(&dir.join("inner/x")).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("/", dir.join("link")).unwrap();
        Disk.sync_dir(&dir).unwrap();
        let mut expected = vec![
            Entry { name: "inner".into(), kind: Kind::Dir },
            Entry { name: "new".into(), kind: Kind::File { bytes: 0 } },
            Entry { name: "two".into(), kind: Kind::File { bytes: 5 } },
        ];
        if cfg!(unix) {
            // Sorted: inner, link, new, two.
            expected.insert(1, Entry { name: "link".into(), kind: Kind::Other });
        }
        assert_eq!(Disk.list(&dir).unwrap(), expected);
        let mut text = String::new();
        Disk.open(&dir.join("two")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "abdef");
        remove_tree(&Disk, &root.path().join("a")).unwrap();
        remove_tree(&Disk, &root.path().join("a")).unwrap();
        assert_eq!(Disk.list(root.path()).unwrap(), []);
    }
}
