//! Finding the newest checkpoint that is whole, and reading it. Trusts a hash, never a name.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{
    CheckpointError, Manifest,
    names::{self, MANIFEST, Name},
};
use crate::vfs::{Entry, Kind, Vfs};

/// A manifest is some kilobytes; a file of this name that is larger is not read into memory.
const MANIFEST_LIMIT: u64 = 16 << 20;

/// A checkpoint whose every file has been verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub path: PathBuf,
    pub step: usize,
    pub manifest: Manifest,
    /// Newer directories that were passed over, and why.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// One file, to be read from front to back and verified once more on the way.
    ///
    /// # Errors
    /// `Invalid`: the checkpoint has no such file. `Io`.
    pub fn open(&self, vfs: &dyn Vfs, name: &str) -> Result<Verified, CheckpointError> {
        let Some(entry) = self.manifest.files.iter().find(|f| f.name == name) else {
            let problems = vec![format!("it has no {name}")];
            return Err(CheckpointError::Invalid { path: self.path.clone(), problems });
        };
        let path = self.path.join(name);
        let file = vfs.open(&path).map_err(|e| CheckpointError::io("read", &path, e))?;
        Ok(Verified { file, hasher: blake3::Hasher::new(), path, bytes: entry.bytes, blake3: entry.blake3.clone() })
    }

    /// The content of one small file.
    ///
    /// # Errors
    /// `Invalid`: the checkpoint has no such file, or it changed since it was loaded. `Io`.
    pub fn blob(&self, vfs: &dyn Vfs, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let mut file = self.open(vfs, name)?;
        let mut bytes = vec![];
        let limit = file.bytes.saturating_add(1);
        (&mut file).take(limit).read_to_end(&mut bytes).map_err(|e| CheckpointError::io("read", &file.path, e))?;
        file.finish()?;
        Ok(bytes)
    }
}

/// A file of a checkpoint as it is read. What was read is to be trusted when [`Verified::finish`] says so.
pub struct Verified {
    file: Box<dyn Read + Send>,
    hasher: blake3::Hasher,
    path: PathBuf,
    bytes: u64,
    blake3: String,
}

impl Verified {
    /// Reads what is left.
    ///
    /// # Errors
    /// `Invalid`: it changed since the checkpoint was loaded. `Io`.
    pub fn finish(mut self) -> Result<(), CheckpointError> {
        let limit = self.bytes.saturating_add(1);
        io::copy(&mut (&mut self).take(limit), &mut io::sink())
            .map_err(|e| CheckpointError::io("read", &self.path, e))?;
        if self.hasher.count() != self.bytes || self.hasher.finalize().to_hex().as_str() != self.blake3 {
            let name = self.path.file_name().unwrap_or_default().to_string_lossy();
            let problems = vec![format!("{name} does not match its hash: it was damaged or edited")];
            return Err(CheckpointError::Invalid { path: self.path.parent().unwrap_or(&self.path).into(), problems });
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Read for Verified {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(into)?;
        self.hasher.update(&into[..read]);
        Ok(read)
    }
}

/// The newest checkpoint in `dir` that verifies; `None` when there is none at all.
///
/// # Errors
/// `NoneUsable` when there are directories named as checkpoints, but all of them are damaged or not ours: starting
/// afresh would silently throw away a run. `Io` when `dir` cannot be listed.
pub fn load_latest(vfs: &dyn Vfs, dir: &Path) -> Result<Option<Loaded>, CheckpointError> {
    let entries = match vfs.list(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(CheckpointError::io("list", dir, e)),
    };
    // Newest first; of two with the same step, the one that bears the name.
    let mut candidates: Vec<(usize, bool, PathBuf)> = vec![];
    for entry in entries.into_iter().filter(|entry| entry.kind == Kind::Dir) {
        match Name::parse(&entry.name) {
            Some(Name::Checkpoint { step }) => candidates.push((step, true, dir.join(entry.name))),
            Some(Name::Displaced { step }) => candidates.push((step, false, dir.join(entry.name))),
            Some(Name::Unfinished) | None => {}
        }
    }
    candidates.sort_by(|a, b| b.cmp(a));
    let mut warnings = vec![];
    for (step, _, path) in candidates {
        match verify(vfs, &path) {
            Ok(manifest) if manifest.step != step => {
                warnings.push(format!("{} holds step {}: it was renamed or copied", path.display(), manifest.step));
            }
            Ok(manifest) => return Ok(Some(Loaded { path, step, manifest, warnings })),
            Err(problems) => warnings.push(format!("{}: {}", path.display(), problems.join("; "))),
        }
    }
    if warnings.is_empty() {
        Ok(None)
    } else {
        Err(CheckpointError::NoneUsable { dir: dir.into(), problems: warnings })
    }
}

/// One checkpoint, under whatever name it has.
///
/// # Errors
/// `Invalid` with everything that is wrong with it.
pub fn load(vfs: &dyn Vfs, path: &Path) -> Result<Loaded, CheckpointError> {
    match verify(vfs, path) {
        Ok(manifest) => Ok(Loaded { path: path.into(), step: manifest.step, manifest, warnings: vec![] }),
        Err(problems) => Err(CheckpointError::Invalid { path: path.into(), problems }),
    }
}

/// The steps of the directories in `dir` that are named as checkpoints, rising. None of them is looked into.
///
/// # Errors
/// `dir` cannot be listed.
pub fn steps(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<usize>, CheckpointError> {
    let step = |entry: Entry| match (Name::parse(&entry.name), entry.kind) {
        (Some(Name::Checkpoint { step }), Kind::Dir) => Some(step),
        _ => None,
    };
    let entries = vfs.list(dir).map_err(|e| CheckpointError::io("list", dir, e))?;
    let mut steps: Vec<usize> = entries.into_iter().filter_map(step).collect();
    steps.sort_unstable();
    Ok(steps)
}

/// Reads every file and compares it with the manifest; all problems are returned.
fn verify(vfs: &dyn Vfs, path: &Path) -> Result<Manifest, Vec<String>> {
    let manifest = read_manifest(vfs, path).map_err(|problem| vec![problem])?;
    let mut problems = sizes(vfs, path, &manifest);
    if problems.is_empty() {
        for entry in &manifest.files {
            match hash(vfs, &path.join(&entry.name)) {
                Ok(found) if found == entry.blake3 => {}
                Ok(_) => problems.push(format!("{} does not match its hash: it was damaged or edited", entry.name)),
                Err(e) => problems.push(format!("cannot read {}: {e}", entry.name)),
            }
        }
    }
    if problems.is_empty() { Ok(manifest) } else { Err(problems) }
}

/// Whether everything a checkpoint of `step` lists is there in its full size; no content is read.
pub(super) fn complete(vfs: &dyn Vfs, path: &Path, step: usize) -> bool {
    read_manifest(vfs, path).is_ok_and(|manifest| manifest.step == step && sizes(vfs, path, &manifest).is_empty())
}

/// The manifest of a directory, if it has one that matches its own hash.
pub(super) fn read_manifest(vfs: &dyn Vfs, path: &Path) -> Result<Manifest, String> {
    let mut bytes = vec![];
    let found = vfs.list(path).map_err(|e| format!("cannot list it: {e}"))?.into_iter().find(|e| e.name == MANIFEST);
    match found.map(|entry| entry.kind) {
        None => return Err(format!("it has no {MANIFEST}, so it is not a checkpoint of this program")),
        Some(Kind::File { bytes }) if bytes <= MANIFEST_LIMIT => {}
        Some(_) => return Err(format!("{MANIFEST} is not a file of at most {MANIFEST_LIMIT} bytes")),
    }
    vfs.open(&path.join(MANIFEST))
        .and_then(|file| file.take(MANIFEST_LIMIT).read_to_end(&mut bytes))
        .map_err(|e| format!("cannot read {MANIFEST}: {e}"))?;
    Manifest::parse(&bytes)
}

/// Files that are missing, are not plain files, or have another size. Asked before any of them is opened: what lies there
/// may be a pipe that never ends.
fn sizes(vfs: &dyn Vfs, path: &Path, manifest: &Manifest) -> Vec<String> {
    let entries = match vfs.list(path) {
        Ok(entries) => entries,
        Err(e) => return vec![format!("cannot list it: {e}")],
    };
    let mut problems = vec![];
    for file in &manifest.files {
        if let Some(problem) = names::file_problem(&file.name) {
            problems.push(problem);
            continue;
        }
        match entries.iter().find(|e| e.name == file.name).map(|e| e.kind) {
            None => problems.push(format!("{} is missing", file.name)),
            Some(Kind::File { bytes }) if bytes == file.bytes => {}
            Some(Kind::File { bytes }) => {
                problems.push(format!("{} has {bytes} bytes, the manifest says {}", file.name, file.bytes));
            }
            Some(Kind::Dir | Kind::Other) => problems.push(format!("{} is not a plain file", file.name)),
        }
    }
    problems
}

fn hash(vfs: &dyn Vfs, path: &Path) -> io::Result<String> {
    let mut file = vfs.open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().to_hex().to_string()),
            Ok(read) => _ = hasher.update(&buffer[..read]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
