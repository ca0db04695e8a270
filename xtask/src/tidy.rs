//! `cargo xtask tidy`: the rules of the house that no compiler checks. Each rule is a plain function from text to findings,
//! so that its test is a few lines; this file only walks the tree and prints. All findings are reported, not the first.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use crate::{fetch, place};

mod blank;
mod layers;
mod licences;
mod map;
mod words;

/// One broken rule: where, and what to do about it.
#[derive(Debug, PartialEq)]
pub struct Finding {
    pub path: String,
    /// Counted from 1; 0 where the whole file is meant.
    pub line: usize,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

/// Folders that are never the project's own text.
const SKIPPED: [&str; 6] = [".git", ".ounce", "assets", "runs", "target", "__pycache__"];

/// Checks the whole workspace and prints the lines of code per crate.
pub fn run() -> Result<(), String> {
    let root = place::workspace();
    let paths = all_paths(&root)?;

    let mut findings = Vec::new();
    let mut lines: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for path in &paths {
        let full = root.join(path);
        // A file that is not text (a golden file, an image) has no words to check.
        let Ok(text) = fs::read_to_string(&full) else { continue };
        words::check_any(path, &text, &mut findings);
        if path.ends_with(".rs") {
            words::check_rust(path, &text, &mut findings);
            let count = lines.entry(unit_of(path)).or_default();
            let test_from = blank::test_start(path, &blank::blank(&text));
            count.0 += text.lines().count().min(test_from);
            count.1 += text.lines().count().saturating_sub(test_from);
        }
    }
    layers::check(&root, &mut findings)?;
    licences::check(&root, &mut findings)?;
    map::check(&root, &mapped(&root, &paths)?, &mut findings)?;

    println!("{:<16} {:>7} {:>7}", "crate", "lines", "tests");
    let total = lines.values().fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
    for (unit, (code, tests)) in &lines {
        println!("{unit:<16} {code:>7} {tests:>7}");
    }
    println!("{:<16} {:>7} {:>7}", "all", total.0, total.1);
    if findings.is_empty() {
        println!("tidy: {} files, nothing to say", paths.len());
        return Ok(());
    }
    for finding in &findings {
        println!("{finding}");
    }
    Err(format!("tidy: {} findings", findings.len()))
}

/// Writes the code map of `docs/ARCHITECTURE.md` anew.
pub fn write_map() -> Result<(), String> {
    let root = place::workspace();
    map::write(&root, &mapped(&root, &all_paths(&root)?)?)
}

fn all_paths(root: &Path) -> Result<Vec<String>, String> {
    let mut paths = Vec::new();
    collect(root, root, &mut paths)?;
    paths.sort();
    Ok(paths)
}

/// The source files that the code map lists, with their texts: not the tests.
fn mapped(root: &Path, paths: &[String]) -> Result<Vec<(String, String)>, String> {
    let is_source = |p: &&String| p.ends_with(".rs") && p.contains("/src/") && blank::test_start(p, "") > 0;
    let read = |p: &String| {
        let text = fs::read_to_string(root.join(p)).map_err(|e| format!("cannot read {p}: {e}"))?;
        Ok((p.clone(), text))
    };
    paths.iter().filter(is_source).map(read).collect()
}

/// `crates/tensor/src/lib.rs` → `tensor`; elsewhere the first folder.
fn unit_of(path: &str) -> String {
    let mut parts = path.split('/');
    match (parts.next(), parts.next()) {
        (Some("crates"), Some(name)) => name.into(),
        (Some(first), Some(_)) => first.into(),
        _ => "(root)".into(),
    }
}

/// The paths of all files, relative to the root and with `/` between the parts.
fn collect(root: &Path, folder: &Path, paths: &mut Vec<String>) -> Result<(), String> {
    let fail = |e| format!("cannot list {}: {e}", folder.display());
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().map_err(fail)?;
        if SKIPPED.contains(&name.as_str()) || name.ends_with(".tmp") {
            continue;
        }
        if kind.is_dir() {
            collect(root, &entry.path(), paths)?;
        } else if kind.is_file() {
            let path = entry.path();
            paths.push(path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/"));
        }
    }
    Ok(())
}

/// The `Cargo.toml` files of the crates, with each crate's folder name.
fn manifests(root: &Path) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    for path in fetch::files_under(&root.join("crates"))? {
        let short = path.strip_prefix(root.join("crates")).unwrap_or(&path);
        if short.components().count() == 2 && short.ends_with("Cargo.toml") {
            let name = short.parent().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
            let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
            found.push((name, text));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_under_their_crate() {
        assert_eq!(unit_of("crates/tensor/src/ops/rope.rs"), "tensor");
        assert_eq!(unit_of("xtask/src/main.rs"), "xtask");
        assert_eq!(unit_of("README.md"), "(root)");
    }

    #[test]
    fn a_finding_says_where() {
        let finding = Finding { path: "a.rs".into(), line: 3, what: "too odd".into() };
        assert_eq!(finding.to_string(), "a.rs:3: too odd");
        assert_eq!(Finding { line: 0, ..finding }.to_string(), "a.rs: too odd");
    }
}
