//! Writing a checkpoint, and removing those that are no longer wanted. See the module's protocol.

use std::{
    borrow::Cow,
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{
    CheckpointError, FileEntry, Manifest,
    load::{complete, read_manifest, steps},
    names::{self, LATEST, MANIFEST, Name},
};
use crate::vfs::{Vfs, VfsFile, make_dir, remove_tree};

/// The state of a run after `step` updates.
pub struct Snapshot<'a> {
    pub step: usize,
    pub world_size: usize,
    pub recipe_hash: String,
    /// Kept in the manifest.
    pub meta: serde_json::Value,
    /// File names and what the files hold.
    pub blobs: Vec<(String, Blob<'a>)>,
}

/// The content of one file.
pub enum Blob<'a> {
    Bytes(Cow<'a, [u8]>),
    /// Writes the content piece by piece, so that nothing the size of a model is copied.
    Stream(Box<dyn Fn(&mut dyn Write) -> io::Result<()> + 'a>),
}

impl<'a> Blob<'a> {
    pub fn stream(write: impl Fn(&mut dyn Write) -> io::Result<()> + 'a) -> Blob<'a> {
        Blob::Stream(Box::new(write))
    }
}

impl From<Vec<u8>> for Blob<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Blob::Bytes(bytes.into())
    }
}

impl<'a> From<&'a [u8]> for Blob<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Blob::Bytes(bytes.into())
    }
}

/// A checkpoint that is on disk for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub path: PathBuf,
    /// Of all its files.
    pub bytes: u64,
    /// What did not work afterwards: updating `latest`, removing old checkpoints.
    pub warnings: Vec<String>,
}

/// Writes `dir/checkpoint-<step>` and then removes all but the newest `keep` checkpoints (at least 2).
/// A checkpoint of the same step that is already there is replaced.
///
/// When this returns `Ok`, the checkpoint survives a power cut.
///
/// # Errors
/// [`CheckpointError::DiskFull`] and `Io`: the checkpoints that were there are still there, and nothing half-written has
/// the name of a checkpoint. `Invalid`: names of blobs that cannot be names of files.
pub fn save(vfs: &dyn Vfs, dir: &Path, snapshot: &Snapshot, keep: usize) -> Result<Saved, CheckpointError> {
    let path = names::checkpoint(dir, snapshot.step);
    check_names(&path, snapshot)?;
    make_dir(vfs, dir).map_err(|e| CheckpointError::io("create directory", dir, e))?;
    let staged = names::unfinished(dir, snapshot.step);
    let written =
        stage(vfs, &staged, snapshot).and_then(|bytes| publish(vfs, dir, snapshot.step, &staged).map(|()| bytes));
    let bytes = match written {
        Ok(bytes) => bytes,
        Err(error) => {
            // The first error is the one to report; `sweep` removes at the next start what this could not.
            let _ = remove_tree(vfs, &staged);
            return Err(error);
        }
    };
    let mut warnings = vec![];
    if let Err(e) = point_latest(vfs, dir, &path) {
        warnings.push(format!("cannot update {}: {e}", dir.join(LATEST).display()));
    }
    prune(vfs, dir, snapshot.step, keep.max(2), &mut warnings);
    Ok(Saved { path, bytes, warnings })
}

/// Removes what interrupted saves left behind; call it once at start, while no other process saves into `dir`.
/// Returns the names it removed.
///
/// # Errors
/// The first thing that could not be removed.
pub fn sweep(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<String>, CheckpointError> {
    let entries = match vfs.list(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(CheckpointError::io("list", dir, e)),
    };
    let mut removed = vec![];
    for entry in entries {
        let path = dir.join(&entry.name);
        match Name::parse(&entry.name) {
            Some(Name::Unfinished) => {}
            Some(Name::Displaced { step }) => {
                let place = names::checkpoint(dir, step);
                if !complete(vfs, &place, step) {
                    // Interrupted between the two renames of a replacement: the old one is still the good one. If
                    // something else took its place, it stays where it is, and loading finds it there.
                    let _ = vfs.rename(&path, &place);
                    continue;
                }
            }
            _ => continue,
        }
        if removed.is_empty() {
            // A checkpoint may have lost its name without that being safe on disk: a power cut would give the name back to
            // a directory without its files.
            vfs.sync_dir(dir).map_err(|e| CheckpointError::io("sync", dir, e))?;
        }
        remove_tree(vfs, &path).map_err(|e| CheckpointError::io("remove", &path, e))?;
        removed.push(entry.name);
    }
    Ok(removed)
}

/// Removes the checkpoints after `step`: a run that goes on from an older checkpoint must not be continued later from one
/// of the abandoned future.
///
/// # Errors
/// The first one that could not be removed.
pub fn discard_after(vfs: &dyn Vfs, dir: &Path, step: usize) -> Result<(), CheckpointError> {
    let later: Vec<usize> = steps(vfs, dir)?
        .into_iter()
        .filter(|&other| other > step && read_manifest(vfs, &names::checkpoint(dir, other)).is_ok())
        .collect();
    match discard(vfs, dir, &later).into_iter().next() {
        Some((path, e)) => Err(CheckpointError::io("remove", &path, e)),
        None => Ok(()),
    }
}

fn check_names(path: &Path, snapshot: &Snapshot) -> Result<(), CheckpointError> {
    let mut problems: Vec<String> = vec![];
    let mut seen = std::collections::HashSet::from([MANIFEST]);
    for (name, _) in &snapshot.blobs {
        problems.extend(names::file_problem(name));
        if !seen.insert(name) {
            problems.push(format!("{name}: two files of this name"));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(CheckpointError::Invalid { path: path.into(), problems }) }
}

/// Writes everything into the unfinished directory; returns the bytes of all files.
fn stage(vfs: &dyn Vfs, staged: &Path, snapshot: &Snapshot) -> Result<u64, CheckpointError> {
    remove_tree(vfs, staged).map_err(|e| CheckpointError::io("remove", staged, e))?;
    vfs.create_dir(staged).map_err(|e| CheckpointError::io("create directory", staged, e))?;
    let mut manifest = Manifest::new(snapshot.step, snapshot.world_size, &snapshot.recipe_hash, snapshot.meta.clone());
    for (name, blob) in &snapshot.blobs {
        let path = staged.join(name);
        let (bytes, blake3) = write(vfs, &path, blob).map_err(|e| CheckpointError::io("write", &path, e))?;
        manifest.files.push(FileEntry { name: name.clone(), bytes, blake3 });
    }
    let path = staged.join(MANIFEST);
    let (bytes, _) =
        write(vfs, &path, &manifest.to_bytes().into()).map_err(|e| CheckpointError::io("write", &path, e))?;
    vfs.sync_dir(staged).map_err(|e| CheckpointError::io("sync", staged, e))?;
    Ok(bytes + manifest.files.iter().map(|f| f.bytes).sum::<u64>())
}

/// Writes and syncs one file; returns its size and hash.
fn write(vfs: &dyn Vfs, path: &Path, blob: &Blob) -> io::Result<(u64, String)> {
    let mut file = Hashing { file: vfs.create(path)?, hasher: blake3::Hasher::new() };
    match blob {
        Blob::Bytes(bytes) => file.write_all(bytes)?,
        Blob::Stream(write) => {
            let mut buffered = io::BufWriter::with_capacity(1 << 20, &mut file);
            write(&mut buffered)?;
            buffered.flush()?;
        }
    }
    file.file.sync()?;
    Ok((file.hasher.count(), file.hasher.finalize().to_hex().to_string()))
}

/// Hashes exactly the bytes that the file accepted.
struct Hashing {
    file: Box<dyn VfsFile>,
    hasher: blake3::Hasher,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let accepted = self.file.write(bytes)?;
        self.hasher.update(&bytes[..accepted]);
        Ok(accepted)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Gives the staged directory its name, for good.
fn publish(vfs: &dyn Vfs, dir: &Path, step: usize, staged: &Path) -> Result<(), CheckpointError> {
    let path = names::checkpoint(dir, step);
    let aside = names::displaced(dir, step);
    let displaced = match vfs.rename(&path, &aside) {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => return Err(CheckpointError::io("rename", &path, e)),
    };
    if let Err(e) = vfs.rename(staged, &path) {
        if displaced {
            // If this fails too, loading finds the old one under its other name.
            let _ = vfs.rename(&aside, &path);
        }
        return Err(CheckpointError::io("rename", staged, e));
    }
    vfs.sync_dir(dir).map_err(|e| CheckpointError::io("sync", dir, e))?;
    if displaced {
        // Left to `sweep` if it fails.
        let _ = remove_tree(vfs, &aside);
    }
    Ok(())
}

fn point_latest(vfs: &dyn Vfs, dir: &Path, path: &Path) -> io::Result<()> {
    let temporary = names::unfinished_latest(dir);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut file = vfs.create(&temporary)?;
    let written = file.write_all(format!("{name}\n").as_bytes()).and_then(|()| file.sync());
    drop(file);
    if let Err(e) = written.and_then(|()| vfs.rename(&temporary, &dir.join(LATEST))) {
        let _ = vfs.remove_file(&temporary);
        return Err(e);
    }
    vfs.sync_dir(dir)
}

/// Removes the oldest complete checkpoints up to `step` until `keep` are left. Damaged ones are not counted, since they
/// are no way back, and not removed, since they may not be ours.
fn prune(vfs: &dyn Vfs, dir: &Path, step: usize, keep: usize, warnings: &mut Vec<String>) {
    let mut older = match steps(vfs, dir) {
        Ok(steps) => steps,
        Err(e) => return warnings.push(e.to_string()),
    };
    older.retain(|&other| other < step && complete(vfs, &names::checkpoint(dir, other), other));
    older.truncate((older.len() + 1).saturating_sub(keep));
    for (path, e) in discard(vfs, dir, &older) {
        warnings.push(format!("cannot remove {}: {e}", path.display()));
    }
}

/// Takes away the checkpoints' names, for good, before their files: an interruption leaves no half of one. Returns those
/// that could not be removed, and why.
fn discard(vfs: &dyn Vfs, dir: &Path, steps: &[usize]) -> Vec<(PathBuf, io::Error)> {
    let mut failed = vec![];
    let mut doomed = vec![];
    for &step in steps {
        let (path, nameless) = (names::checkpoint(dir, step), names::unfinished(dir, step));
        match vfs.rename(&path, &nameless) {
            Ok(()) => doomed.push(nameless),
            Err(e) => failed.push((path, e)),
        }
    }
    if doomed.is_empty() {
        return failed;
    }
    if let Err(e) = vfs.sync_dir(dir) {
        failed.push((dir.into(), e));
        return failed;
    }
    for path in doomed {
        if let Err(e) = remove_tree(vfs, &path) {
            failed.push((path, e));
        }
    }
    failed
}
