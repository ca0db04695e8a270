//! The names of checkpoint directories and of what is left of interrupted saves. Knows no contents.

use std::path::{Path, PathBuf};

/// The file that lists a checkpoint's files.
pub(super) const MANIFEST: &str = "MANIFEST.json";
/// The file that names the newest checkpoint.
pub(super) const LATEST: &str = "latest";

/// A name of ours in a run directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// `checkpoint-30`
    Checkpoint { step: usize },
    /// `checkpoint-30.old-4711`: pushed aside by a second checkpoint of the same step.
    Displaced { step: usize },
    /// `checkpoint-30.tmp-4711`, `latest.tmp-4711`: of a save that did not finish.
    Unfinished,
}

impl Name {
    /// `None`: not one of ours.
    pub(super) fn parse(name: &str) -> Option<Name> {
        let (stem, tail) = match name.split_once('.') {
            Some((stem, tail)) => (stem, Some(tail)),
            None => (name, None),
        };
        let unfinished = |tail: &str| tail.strip_prefix("tmp-").and_then(number).map(|_| Name::Unfinished);
        if stem == LATEST {
            return unfinished(tail?);
        }
        let step = number(stem.strip_prefix("checkpoint-")?)?;
        match tail {
            None => Some(Name::Checkpoint { step }),
            Some(tail) => match tail.strip_prefix("old-") {
                Some(pid) => number(pid).map(|_| Name::Displaced { step }),
                None => unfinished(tail),
            },
        }
    }
}

/// Digits as we print them: no sign, no leading zero.
fn number(text: &str) -> Option<usize> {
    let value: usize = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

pub(super) fn checkpoint(dir: &Path, step: usize) -> PathBuf {
    dir.join(format!("checkpoint-{step}"))
}

pub(super) fn unfinished(dir: &Path, step: usize) -> PathBuf {
    dir.join(format!("checkpoint-{step}.tmp-{}", std::process::id()))
}

pub(super) fn displaced(dir: &Path, step: usize) -> PathBuf {
    dir.join(format!("checkpoint-{step}.old-{}", std::process::id()))
}

pub(super) fn unfinished_latest(dir: &Path) -> PathBuf {
    dir.join(format!("{LATEST}.tmp-{}", std::process::id()))
}

/// Why a name cannot be that of a file inside a checkpoint, which must lie in its directory on every file system.
pub(super) fn file_problem(name: &str) -> Option<String> {
    let bad = |c: char| c.is_control() || "/\\:".contains(c);
    (name.is_empty() || name.len() > 200 || name.starts_with('.') || name.contains(bad))
        .then(|| format!("{name:?} is not a plain file name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_spelling_is_recognised() {
        assert_eq!(Name::parse("checkpoint-30"), Some(Name::Checkpoint { step: 30 }));
        assert_eq!(Name::parse("checkpoint-0"), Some(Name::Checkpoint { step: 0 }));
        assert_eq!(Name::parse("checkpoint-30.old-7"), Some(Name::Displaced { step: 30 }));
        assert_eq!(Name::parse("checkpoint-30.tmp-7"), Some(Name::Unfinished));
        assert_eq!(Name::parse("latest.tmp-7"), Some(Name::Unfinished));
        for junk in [
            "checkpoint-",
            "checkpoint-+3",
            "checkpoint-03",
            "checkpoint- 3",
            "checkpoint-3 ",
            "checkpoint-3.bak",
            "30",
            "",
            "latest",
            "latest.tmp-",
            "latest.old-3",
            "checkpoint-3.tmp-",
            "checkpoint-3.tmp-x",
            "Checkpoint-3",
            "checkpoint-3.",
            "checkpoint-99999999999999999999999",
            "checkpoint-best",
            "checkpoint-3.tmp-1.tmp-2",
            "checkpoint-٣",
        ] {
            assert_eq!(Name::parse(junk), None, "{junk}");
        }
    }

    #[test]
    fn a_file_name_cannot_leave_its_directory() {
        for bad in ["", ".", "..", "../x", "/x", "a/b", "C:x", "a\\b", "a\0b", "a\nb", ".hidden"] {
            assert!(file_problem(bad).is_some(), "{bad:?}");
        }
        assert_eq!(file_problem("optimizer-00001-of-00002.safetensors"), None);
    }
}
