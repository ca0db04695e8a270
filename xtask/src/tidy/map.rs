//! The code map of `docs/ARCHITECTURE.md`: one line for each source file, taken from the file's own first sentence, so that
//! it cannot go stale. `cargo xtask map` writes it, `cargo xtask tidy` finds a difference.

use std::fs;
use std::path::Path;

use super::Finding;

const PAGE: &str = "docs/ARCHITECTURE.md";
const BEGIN: &str = "<!-- code map: written by cargo xtask map -->\n";
const END: &str = "<!-- end of code map -->";

/// Compares the page with the files `(path, text)`.
pub fn check(root: &Path, files: &[(String, String)], findings: &mut Vec<Finding>) -> Result<(), String> {
    let (_, written, _) = parts(&page(root)?)?;
    if written != render(files) {
        let what = "the code map is not what the files say: run `cargo xtask map`".into();
        findings.push(Finding { path: PAGE.into(), line: 0, what });
    }
    Ok(())
}

/// Puts the map of `files` into the page.
pub fn write(root: &Path, files: &[(String, String)]) -> Result<(), String> {
    let (before, _, after) = parts(&page(root)?)?;
    crate::fetch::write_whole(&root.join(PAGE), (before + &render(files) + &after).as_bytes())
}

fn page(root: &Path) -> Result<String, String> {
    fs::read_to_string(root.join(PAGE)).map_err(|e| format!("cannot read {PAGE}: {e}"))
}

/// What is before the map, the map, what is after it. The marks belong to the outer parts.
fn parts(page: &str) -> Result<(String, String, String), String> {
    let begin = page.find(BEGIN).map(|at| at + BEGIN.len());
    let end = page.find(END);
    match (begin, end) {
        (Some(begin), Some(end)) if begin <= end => {
            Ok((page[..begin].into(), page[begin..end].into(), page[end..].into()))
        }
        _ => Err(format!("{PAGE} has no place for the code map: {} … {END}", BEGIN.trim_end())),
    }
}

/// A heading for each crate, a line for each file below its `src`; files ordered by path.
fn render(files: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut current = "";
    for (path, text) in files {
        let mut split = path.split("/src/");
        let (Some(unit), Some(file)) = (split.next(), split.next()) else { continue };
        if unit != current {
            out.push_str(&format!("\n### `{unit}`\n\n"));
            current = unit;
        }
        out.push_str(&format!("- `{file}`: {}\n", first_sentence(text)));
    }
    out.push('\n');
    out
}

/// The first sentence of the `//!` block, without the brackets of links to items.
fn first_sentence(text: &str) -> String {
    let lines = text.lines().map_while(|l| l.strip_prefix("//!")).map(str::trim);
    let block: Vec<&str> = lines.take_while(|l| !l.is_empty()).collect();
    let block = block.join(" ").replace("[`", "`").replace("`]", "`");
    let ends = |at: usize| {
        let after = block[at + 1..].trim_start().chars().next();
        after.is_none_or(|c| c.is_uppercase() || !c.is_alphanumeric()) && block[at + 1..].starts_with([' ', '\n'])
    };
    let end = block.match_indices('.').map(|(at, _)| at).find(|&at| ends(at)).map_or(block.len(), |at| at + 1);
    block[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sentence_is_taken() {
        for (text, want) in [
            ("//! One. Two.\n", "One."),
            ("//! Reads `a.json` and\n//! more. Not this.\n", "Reads `a.json` and more."),
            ("//! [`A`]: a thing (Hu et al. 2021).\n//!\n//! More.\n", "`A`: a thing (Hu et al. 2021)."),
            ("//! No end\nuse x;", "No end"),
            ("fn a() {}", ""),
        ] {
            assert_eq!(first_sentence(text), want);
        }
    }

    #[test]
    fn a_stale_map_is_found_and_mended() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = dir.path();
        fs::create_dir_all(root.join("docs")).expect("made");
        fs::write(root.join(PAGE), format!("a\n{BEGIN}{END}\nb\n")).expect("written");
        let files = [("crates/x/src/lib.rs".to_string(), "//! X.\n".to_string())];
        let findings = || {
            let mut findings = Vec::new();
            check(root, &files, &mut findings).expect("checked");
            findings.len()
        };
        assert_eq!(findings(), 1);
        write(root, &files).expect("written");
        assert_eq!(findings(), 0);
        let page = fs::read_to_string(root.join(PAGE)).expect("read");
        assert_eq!(page, format!("a\n{BEGIN}\n### `crates/x`\n\n- `lib.rs`: X.\n\n{END}\nb\n"));
    }
}
