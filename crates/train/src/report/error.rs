//! What can go wrong while a report is written or read.

use std::{
    io,
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct ReportError {
    pub action: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl ReportError {
    /// For `map_err`.
    pub(crate) fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReportError {
        move |source| ReportError { action, path: path.into(), source }
    }

    /// Whether it was for want of space (disk, quota, file size limit).
    pub fn disk_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self.source.kind(), StorageFull | QuotaExceeded | FileTooLarge)
    }
}
