//! Models in the cache of the Hugging Face hub: `models--org--name/{refs,snapshots,blobs}`. Nothing is downloaded, and
//! the environment is for the caller to read.

use std::path::{Path, PathBuf};

/// Why a name does not lead to a cached model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    #[error("{name:?} is neither a path that exists nor a hub name (org/name or name)")]
    Name { name: String },
    #[error("{revision:?} is not a revision: it must be a branch, a tag or a commit")]
    Revision { revision: String },
    #[error("{name} is not in the cache {}; download it with: ounce pull {name}", cache.display())]
    NotCached { name: String, cache: PathBuf },
    #[error("{name} is cached, but not its revision {revision} (there are: {})", there.join(", "))]
    NoRevision { name: String, revision: String, there: Vec<String> },
}

/// Whether `name` names a file in the directory at hand: one plain component, on every system.
pub fn plain_file_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}

/// Whether `name` can be a hub name: `name` or `org/name` of letters, digits, `-`, `_` and `.`.
pub fn is_hub_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && !part.contains("--")
            && !part.contains("..")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
    };
    match name.split_once('/') {
        Some((org, name)) => part(org) && part(name),
        None => part(name),
    }
}

/// The directory of a model: `name` itself if it is a path that exists, else its snapshot in `cache` (the directory
/// that `HF_HUB_CACHE` names). Without `revision`, that is `main`, or the only one there is. Containment is by name:
/// snapshots are links into `blobs`, so following them proves nothing.
pub fn resolve(name: &str, cache: &Path, revision: Option<&str>) -> Result<PathBuf, HubError> {
    if Path::new(name).exists() {
        return Ok(name.into());
    }
    if !is_hub_name(name) {
        return Err(HubError::Name { name: name.into() });
    }
    let wanted = revision.unwrap_or("main");
    // A branch may have directories in its name; none of them may lead out.
    if !wanted.split('/').all(plain_file_name) {
        return Err(HubError::Revision { revision: wanted.into() });
    }
    let repository = cache.join(format!("models--{}", name.replace('/', "--")));
    let snapshots = repository.join("snapshots");
    if !snapshots.is_dir() {
        return Err(HubError::NotCached { name: name.into(), cache: cache.into() });
    }
    let commit = std::fs::read_to_string(repository.join("refs").join(wanted)).ok();
    let commit = commit.as_deref().map(str::trim).filter(|commit| plain_file_name(commit));
    for candidate in commit.into_iter().chain(plain_file_name(wanted).then_some(wanted)) {
        let snapshot = snapshots.join(candidate);
        if snapshot.is_dir() {
            return Ok(snapshot);
        }
    }
    let mut there: Vec<String> = std::fs::read_dir(&snapshots)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    there.sort();
    match (&there[..], revision) {
        ([only], None) => Ok(snapshots.join(only)),
        _ => Err(HubError::NoRevision { name: name.into(), revision: wanted.into(), there }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_found_by_branch_and_by_commit() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("models--org--tiny.v1");
        std::fs::create_dir_all(repository.join("snapshots/abc")).unwrap();
        let find = |revision| resolve("org/tiny.v1", dir.path(), revision);
        assert_eq!(find(None), Ok(repository.join("snapshots/abc")), "the only snapshot");
        std::fs::create_dir_all(repository.join("snapshots/def")).unwrap();
        assert!(matches!(find(None), Err(HubError::NoRevision { there, .. }) if there == ["abc", "def"]));
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        std::fs::write(repository.join("refs/main"), "def\n").unwrap();
        assert_eq!(find(None), Ok(repository.join("snapshots/def")));
        assert_eq!(find(Some("abc")), Ok(repository.join("snapshots/abc")));
        assert!(matches!(find(Some("v2")), Err(HubError::NoRevision { .. })));
        assert!(matches!(resolve("org/other", dir.path(), None), Err(HubError::NotCached { .. })));
    }

    #[test]
    fn names_and_revisions_that_lead_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("models--a--b/snapshots")).unwrap();
        std::fs::create_dir_all(dir.path().join("models--a--b/refs")).unwrap();
        std::fs::write(dir.path().join("models--a--b/refs/main"), "../../outside").unwrap();
        std::fs::create_dir_all(dir.path().join("outside")).unwrap();
        assert!(matches!(resolve("a/b", dir.path(), None), Err(HubError::NoRevision { .. })));
        let long = "x".repeat(5000);
        for name in ["../nowhere", "a/../b", "/nowhere", "C:\\nowhere", "a/b/c", "a\0b", "a--b/c", "", &long] {
            assert!(matches!(resolve(name, dir.path(), None), Err(HubError::Name { .. })), "{name:?}");
        }
        for revision in ["../x", "/x", "a/../../b", "", "\0", "C:x"] {
            assert!(
                matches!(resolve("a/b", dir.path(), Some(revision)), Err(HubError::Revision { .. })),
                "{revision:?}"
            );
        }
    }
}
