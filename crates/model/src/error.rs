//! What can be wrong with a model or an adapter. All mismatches are reported at once.

use std::fmt;

#[derive(Debug)]
pub enum LoadError {
    /// No family of this name.
    UnknownFamily { model_type: String },
    /// Settings of a known family that are not supported.
    Unsupported { what: String },
    /// Names in an adapter's targets that no linear layer has, and those that some have.
    NoSuchLayer { names: Vec<String>, known: Vec<String> },
    /// Tensors that do not fit the configuration, one line each.
    Mismatch { path: String, problems: Vec<String>, hint: String },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            LoadError::UnknownFamily { model_type } => write!(
                f,
                "no support for model_type \"{model_type}\"; supported are {}",
                crate::families::SUPPORTED.join(", ")
            ),
            LoadError::NoSuchLayer { names, known } => {
                write!(f, "no linear layer is called {}; there are {}", names.join(" or "), known.join(", "))
            }
            LoadError::Unsupported { what } => write!(f, "not supported: {what}"),
            LoadError::Mismatch { path, problems, hint } => {
                let plural = if problems.len() == 1 { "tensor does" } else { "tensors do" };
                write!(f, "cannot load {path}: {} {plural} not fit", problems.len())?;
                for p in problems.iter().take(20) {
                    write!(f, "\n  {p}")?;
                }
                if problems.len() > 20 {
                    write!(f, "\n  … and {} more", problems.len() - 20)?;
                }
                if !hint.is_empty() {
                    write!(f, "\nhint: {hint}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for LoadError {}
