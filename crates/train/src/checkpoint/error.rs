//! What can go wrong with a checkpoint.

use std::{
    io,
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// No room: the disk, a quota or a file size limit. Temporary: nothing of the new checkpoint is left, and older ones
    /// are untouched.
    #[error(
        "disk full: cannot save {} ({source}); older checkpoints are intact: free some space, then resume",
        path.display()
    )]
    DiskFull { path: PathBuf, source: io::Error },
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not a usable checkpoint: {}", path.display(), problems.join("; "))]
    Invalid { path: PathBuf, problems: Vec<String> },
    /// There are checkpoints, but every one of them is damaged.
    #[error(
        "no checkpoint in {} can be used: {}; move these directories away to start from the beginning",
        dir.display(),
        problems.join("; ")
    )]
    NoneUsable { dir: PathBuf, problems: Vec<String> },
}

impl CheckpointError {
    /// An error of one file operation; one for want of space gets its own kind.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> CheckpointError {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => CheckpointError::DiskFull { path: path.into(), source },
            _ => CheckpointError::Io { action, path: path.into(), source },
        }
    }
}
