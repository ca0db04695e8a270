//! Files on their way into the assets folder: checksums, unpacking, and writes that are whole or not there.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The SHA-256 of `bytes`, in lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The SHA-256 of a file, read in pieces.
pub fn sha256_file(path: &Path) -> Result<String, String> {
    let fail = |e| format!("cannot read {}: {e}", path.display());
    let mut file = fs::File::open(path).map_err(fail)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).map_err(fail)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&piece[..n]),
        }
    }
}

/// One SHA-256 for all files of a folder: over the lines `<sha256>  <relative path>`, ordered by path.
pub fn sha256_folder(folder: &Path) -> Result<String, String> {
    let mut lines = String::new();
    for path in files_under(folder)? {
        let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
        lines.push_str(&format!("{}  {name}\n", sha256_file(&path)?));
    }
    Ok(sha256(lines.as_bytes()))
}

/// All regular files under `folder`, ordered by path. Links are not followed; Python's own caches are not seen, so that
/// running a fetched script does not make its folder look changed.
pub fn files_under(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let fail = |e| format!("cannot list {}: {e}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let kind = entry.file_type().map_err(fail)?;
        if entry.file_name() == "__pycache__" {
            continue;
        }
        if kind.is_dir() {
            files.extend(files_under(&entry.path())?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Writes a file that is either whole or absent: a temporary neighbour, then a rename.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let fail = |e| format!("cannot write {}: {e}", path.display());
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(fail)?;
    }
    fs::write(&temporary, bytes).map_err(fail)?;
    fs::rename(&temporary, path).map_err(fail)
}

/// A folder of this process's own inside `parent`, removed when dropped. In `parent`, so that a rename out of it stays on
/// one file system.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn open(parent: &Path, name: &str) -> Result<Self, String> {
        let path = parent.join(format!("{name}-{}.tmp", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        Ok(Self(path))
    }

    pub fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.0.join(name);
        fs::create_dir_all(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing depends on it being gone: the next run with the same number removes it first.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_sha256() {
        // FIPS 180-2, appendix B.1
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_folders_checksum_sees_names_and_contents() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path();
        write_whole(&path.join("a/one"), b"1").expect("written");
        write_whole(&path.join("two"), b"2").expect("written");
        let first = sha256_folder(path).expect("read");
        assert_eq!(first, sha256_folder(path).expect("read"));
        write_whole(&path.join("two"), b"3").expect("written");
        let changed = sha256_folder(path).expect("read");
        assert_ne!(first, changed);
        fs::rename(path.join("two"), path.join("three")).expect("renamed");
        assert_ne!(changed, sha256_folder(path).expect("read"));
    }

    #[test]
    fn no_temporary_file_is_left() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write_whole(&dir.path().join("x"), b"1").expect("written");
        write_whole(&dir.path().join("x"), b"2").expect("written again");
        assert_eq!(files_under(dir.path()).expect("listed"), [dir.path().join("x")]);
        let kept = Scratch::open(dir.path(), "work").expect("made");
        let inner = kept.folder("inner").expect("made");
        drop(kept);
        assert!(!inner.exists());
    }
}
