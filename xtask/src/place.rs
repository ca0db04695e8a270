//! Where things are: the workspace, the folder of fetched files and that of built ones.

use std::path::PathBuf;

/// The folder that holds the workspace's `Cargo.toml`.
pub fn workspace() -> PathBuf {
    // Cargo sets the variable when it runs the binary; the compiled-in value serves a binary that is started by hand.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.parent().map_or_else(|| here.clone(), PathBuf::from)
}

/// The folder of fetched files: `OUNCE_ASSETS`, else `assets` in the workspace.
pub fn assets() -> PathBuf {
    match std::env::var_os("OUNCE_ASSETS").filter(|v| !v.is_empty()) {
        // An absolute path, because tests run in their own crate's folder.
        Some(dir) => std::path::absolute(&dir).unwrap_or_else(|_| dir.into()),
        None => workspace().join("assets"),
    }
}

/// The folder that cargo builds into: `CARGO_TARGET_DIR`, else `target` in the workspace.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}
