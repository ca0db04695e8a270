//! One file from the hub into the cache: `blobs/<etag>.incomplete` → checked → renamed → linked from its snapshot.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::client::{Broken, Client, FileInfo};
use super::{Cache, Repository, sha256_of_etag};
use crate::codes;
use crate::error::{CliError, Result};

/// Tries in a row that may fail before a file is given up; any progress starts the count again.
const TRIES: u32 = 5;

/// How a file came to be in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub size: u64,
    /// The checksum that was verified, for LFS files.
    pub sha256: Option<String>,
    /// It was there already.
    pub reused: bool,
}

/// Fetches `file` unless the cache has it; `progress(done, size)` is called as bytes arrive.
pub fn fetch(
    client: &Client,
    cache: &Cache,
    repository: &Repository,
    file: &str,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Fetched> {
    let info = client.file_info(repository, file)?;
    let blob = cache.blob(&info.etag);
    let reused = blob.is_file();
    if !reused {
        make_dir(blob.parent().expect("blobs lie in a directory"))?;
        download(client, cache, repository, file, &info, progress)?;
    }
    link(&blob, &cache.snapshot(&repository.commit), file)?;
    Ok(Fetched { size: info.size, sha256: sha256_of_etag(&info.etag).map(str::to_owned), reused })
}

fn download(
    client: &Client,
    cache: &Cache,
    repository: &Repository,
    file: &str,
    info: &FileInfo,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let path = cache.incomplete(&info.etag);
    let failed = |e: std::io::Error| CliError::write(&path, &e);
    let mut out = OpenOptions::new().create(true).read(true).append(true).open(&path).map_err(failed)?;
    // Another process may be fetching the same file: it goes first. File systems without locks are trusted.
    let _ = out.lock();
    if cache.blob(&info.etag).is_file() {
        return Ok(());
    }
    let (mut hash, mut have) = (Sha256::new(), 0);
    rehash(&path, &mut hash, &mut have)?;
    let mut failures = 0;
    while have < info.size {
        let before = have;
        match append(client, repository, file, info, &mut out, &path, &mut hash, &mut have, progress) {
            Ok(()) => {}
            Err(Broken::Final(error)) => return Err(error),
            Err(Broken::Temporary(error)) => {
                failures = if have > before { 1 } else { failures + 1 };
                if failures >= TRIES {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(100 << failures));
            }
        }
    }
    out.sync_all().map_err(failed)?;
    let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    let expected = sha256_of_etag(&info.etag).map(str::to_ascii_lowercase);
    if have != info.size || expected.as_ref().is_some_and(|e| *e != found) {
        // Whatever it is, it must not be resumed.
        let _ = fs::remove_file(&path);
        let mut error = CliError::new(&codes::CHECKSUM, format!("{file} is not what the hub announced"));
        error = error.detail(format!("{have} bytes, announced are {}", info.size));
        if let Some(expected) = expected {
            error = error.detail(format!("sha256 {found}, announced is {expected}"));
        }
        return Err(error.help("run the same command again; if it stays so, do not use this source"));
    }
    fs::rename(&path, cache.blob(&info.etag)).map_err(failed)
}

/// Hashes what an earlier try left, and says how much it is.
fn rehash(path: &Path, hash: &mut Sha256, have: &mut u64) -> Result<()> {
    let failed = |e: std::io::Error| CliError::read(path, &e);
    let mut file = File::open(path).map_err(failed)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(()),
            n => {
                hash.update(&buffer[..n]);
                *have += n as u64;
            }
        }
    }
}

/// One request's worth of bytes.
fn append(
    client: &Client,
    repository: &Repository,
    file: &str,
    info: &FileInfo,
    out: &mut File,
    path: &Path,
    hash: &mut Sha256,
    have: &mut u64,
    progress: &mut dyn FnMut(u64, u64),
) -> std::result::Result<(), Broken> {
    let failed = |e: std::io::Error| Broken::Final(CliError::write(path, &e));
    let stream = client.file(repository, file, *have)?;
    if stream.start != *have {
        out.set_len(0).map_err(failed)?;
        (*hash, *have) = (Sha256::new(), 0);
    }
    let broken = |e: String| {
        let error = CliError::new(&codes::NETWORK, format!("{file}: the connection broke off")).detail(e);
        Broken::Temporary(error.help("run the same command again: it goes on where it stopped"))
    };
    // One byte more than announced is enough to see that something is wrong.
    let mut body = stream.body.into_reader().take(info.size - *have + 1);
    let mut buffer = vec![0; 1 << 18];
    loop {
        match body.read(&mut buffer) {
            Ok(0) if *have < info.size => return Err(broken(format!("after {have} of {} bytes", info.size))),
            Ok(0) => return Ok(()),
            Ok(n) => {
                out.write_all(&buffer[..n]).map_err(failed)?;
                hash.update(&buffer[..n]);
                *have += n as u64;
                progress(*have, info.size);
            }
            Err(e) => return Err(broken(e.to_string())),
        }
    }
}

/// Links `snapshot/file` to a blob, by a relative path, as the hub's own tools do.
fn link(blob: &Path, snapshot: &Path, file: &str) -> Result<()> {
    let path = snapshot.join(file);
    let parent = path.parent().expect("a file lies in a directory");
    make_dir(parent)?;
    let name = blob.file_name().expect("a blob has a name");
    let up = "../".repeat(2 + file.matches('/').count());
    let target = Path::new(&up).join("blobs").join(name);
    if fs::read_link(&path).is_ok_and(|there| there == target) {
        return Ok(());
    }
    let temporary = parent.join(format!(".link-{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    #[cfg(unix)]
    let made = std::os::unix::fs::symlink(&target, &temporary);
    #[cfg(not(unix))]
    let made = fs::copy(blob, &temporary).map(|_| ());
    made.and_then(|()| fs::rename(&temporary, &path)).map_err(|e| CliError::write(&path, &e))
}

/// Records which commit a branch or tag is.
pub fn write_reference(cache: &Cache, revision: &str, commit: &str) -> Result<()> {
    let path = cache.reference(revision);
    let parent = path.parent().expect("a reference lies in a directory");
    make_dir(parent)?;
    let temporary = parent.join(format!(".ref-{}", std::process::id()));
    fs::write(&temporary, commit).and_then(|()| fs::rename(&temporary, &path)).map_err(|e| CliError::write(&path, &e))
}

fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| CliError::write(path, &e))
}
