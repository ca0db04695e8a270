//! Why a model or adapter could not be opened.

use std::{io, path::PathBuf};

use crate::gguf::GgufError;

/// Each variant names the file, what is wrong with it and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot read {}: {source}", path.display())]
    Gguf { path: PathBuf, source: GgufError },
    #[error("cannot read {}: {why}", path.display())]
    Safetensors { path: PathBuf, why: String },
    #[error("cannot read {}: {why}", path.display())]
    Json { path: PathBuf, why: String },
    /// All that is wrong with one file or directory, one line each.
    #[error("cannot use {}: {}", path.display(), list(problems))]
    Problems { path: PathBuf, problems: Vec<String> },
    #[error("{} is not a model: {why}", path.display())]
    NotAModel { path: PathBuf, why: String },
}

/// One problem on the same line, several on lines of their own.
pub(crate) fn list(problems: &[String]) -> String {
    match problems {
        [one] => one.clone(),
        many => {
            let mut text = format!("{} problems", many.len());
            for problem in many {
                text += "\n  ";
                text += problem;
            }
            text
        }
    }
}

impl OpenError {
    pub(crate) fn problems(path: impl Into<PathBuf>, problems: Vec<String>) -> Self {
        OpenError::Problems { path: path.into(), problems }
    }
}
