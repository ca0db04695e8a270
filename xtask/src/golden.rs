//! Golden files: tiny random models run by the Python peers, with every number that the Rust side must reproduce. The
//! arithmetic is in `xtask/golden/make_golden.py`; this only runs it with the pinned packages.

use std::process::Command;

use crate::{place, proc, python};

/// Writes `tests/golden/<family>` for one family or for all.
pub fn write(family: Option<&str>) -> Result<(), String> {
    let python = python::ensure_venv()?;
    let root = place::workspace();
    let mut command = Command::new(python);
    command.arg(root.join("xtask/golden/make_golden.py")).arg(root.join("tests/golden")).args(family);
    proc::run(&mut command)
}
