//! Where fetched test files are: the folder in `OUNCE_ASSETS`, else `assets` in the workspace.

use std::path::{Path, PathBuf};

/// The path of a fetched file or folder, by its name in the assets folder.
///
/// # Panics
/// If it is not there.
pub fn path(name: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets");
    let root = std::env::var_os("OUNCE_ASSETS").filter(|v| !v.is_empty()).map_or(workspace, PathBuf::from);
    let path = root.join(name);
    assert!(path.exists(), "{} is not there: run cargo xtask assets", path.display());
    path
}
