//! Rules about single files: how long, how they begin, and which words do not belong where.

use super::Finding;
use super::blank::{blank, test_start};

/// A longer file is asked to say why it is one file.
const LONG: usize = 400;
/// A longer file is never accepted.
const TOO_LONG: usize = 800;
/// What the opening comment of a file above [`LONG`] lines has to say, with the reason after it.
const REASON: &str = "Long because";

/// Code that was left for later, and tests that do not run.
const UNFINISHED: [&str; 3] = ["todo!(", "unimplemented!(", "#[ignore"];
const PRINTS: [&str; 5] = ["println!", "eprintln!", "print!", "eprint!", "dbg!"];
const ENVIRONMENT: [&str; 4] = ["std::env", "env::var", "env::args", "env::current_dir"];
/// Folders and hosts of somebody's machine. In pieces, so that this file does not name them.
const MACHINE: [&str; 8] = [
    concat!("/ro", "ot/"),
    concat!("/ho", "me/runner"),
    concat!("/wo", "rk/"),
    concat!("/opt/", "peers"),
    concat!("/opt/", "wheels"),
    concat!("py", "pi.org"),
    concat!("pythonhosted", ".org"),
    concat!("static.", "crates.io"),
];

/// Rules for every text file.
pub fn check_any(path: &str, text: &str, findings: &mut Vec<Finding>) {
    if path.ends_with("Cargo.lock") {
        return;
    }
    for (n, line) in text.lines().enumerate() {
        for word in MACHINE.iter().filter(|w| line.contains(**w)) {
            findings.push(at(path, n + 1, format!("`{word}` is a place on one machine")));
        }
    }
}

/// Rules for Rust files.
pub fn check_rust(path: &str, text: &str, findings: &mut Vec<Finding>) {
    check_shape(path, text, findings);
    let code = blank(text);
    let tests_from = test_start(path, &code);
    let speaks = may_speak(path);
    for (n, line) in code.lines().enumerate() {
        let mut forbid = |words: &[&str], why: &str| {
            for word in words.iter().filter(|w| has_word(line, w)) {
                findings.push(at(path, n + 1, format!("`{word}` {why}")));
            }
        };
        forbid(&UNFINISHED, "is unfinished work");
        if !speaks && n < tests_from {
            forbid(&PRINTS, "prints: only the cli crate prints, a library returns or emits an event");
            forbid(&ENVIRONMENT, "reads the process's surroundings: only the cli crate does, and hands them on");
        }
        if !may_be_unsafe(path) {
            forbid(&["unsafe"], "belongs in crates/kernels or the mmap module of crates/formats");
        } else if opens_unsafe(line) && !is_explained(text, n) {
            findings.push(at(path, n + 1, "unsafe without a `// SAFETY:` comment right above".into()));
        }
    }
}

fn check_shape(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let opening: Vec<&str> = text.lines().take_while(|l| l.starts_with("//")).collect();
    if opening.is_empty() {
        let what = "begins with no comment: say what the file is for and what it must not know (`//!`)";
        findings.push(at(path, 1, what.into()));
    }
    let lines = text.lines().count();
    if lines > TOO_LONG {
        findings.push(at(path, 0, format!("{lines} lines, more than {TOO_LONG}: it is more than one idea")));
    } else if lines > LONG && !opening.iter().any(|l| l.contains(REASON)) {
        let what = format!("{lines} lines, more than {LONG}: split it, or write `{REASON} …` in the opening comment");
        findings.push(at(path, 0, what));
    }
}

fn at(path: &str, line: usize, what: String) -> Finding {
    Finding { path: path.into(), line, what }
}

/// True where `word` stands in `line` and is not the tail or head of a longer name (`println!` is not `eprintln!`).
fn has_word(line: &str, word: &str) -> bool {
    let named = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        let head = line[..start].chars().next_back();
        let tail = line[start + word.len()..].chars().next();
        let inside = |c: Option<char>, edge: Option<char>| c.is_some_and(named) && edge.is_some_and(named);
        !inside(head, word.chars().next()) && !inside(tail, word.chars().next_back())
    })
}

/// Where printing and reading the environment are the job.
fn may_speak(path: &str) -> bool {
    let kind = |part| matches!(part, "tests" | "examples" | "benches");
    path.starts_with("crates/cli/") || path.starts_with("xtask/") || path.split('/').any(kind)
}

fn may_be_unsafe(path: &str) -> bool {
    path.starts_with("crates/kernels/") || (path.starts_with("crates/formats/src/") && path.ends_with("/mmap.rs"))
}

/// An unsafe block or impl; an `unsafe fn` states its duties in its docs, which clippy sees to.
fn opens_unsafe(line: &str) -> bool {
    ["unsafe {", "unsafe impl"].iter().any(|w| has_word(line, w))
}

/// A `SAFETY:` on the line itself, or in the comment above the statement that the line belongs to.
fn is_explained(text: &str, n: usize) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    lines[n.saturating_sub(6)..=n].iter().any(|l| l.contains("SAFETY"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks `text` as the file `path` and compares the found lines with `want`.
    fn check(path: &str, text: &str, want: &[usize]) {
        let mut findings = Vec::new();
        check_rust(path, text, &mut findings);
        check_any(path, text, &mut findings);
        let mut lines: Vec<usize> = findings.iter().map(|f| f.line).collect();
        lines.sort();
        assert_eq!(lines, want, "{path}: {findings:?}");
    }

    #[test]
    fn a_file_begins_with_a_comment() {
        check("crates/a/src/b.rs", "//! A thing.\nfn a() {}", &[]);
        check("crates/a/src/b.rs", "fn a() {}", &[1]);
    }

    #[test]
    fn length_needs_a_reason_and_has_an_end() {
        let file = |first: &str, lines: usize| format!("{first}\n{}", "fn a() {}\n".repeat(lines - 1));
        check("crates/a/src/b.rs", &file("//! A.", 400), &[]);
        check("crates/a/src/b.rs", &file("//! A.", 401), &[0]);
        check("crates/a/src/b.rs", &file("//! A. Long because one table.", 800), &[]);
        check("crates/a/src/b.rs", &file("//! A. Long because one table.", 801), &[0]);
    }

    #[test]
    fn nothing_is_unfinished() {
        check("crates/a/src/b.rs", "//! A.\nfn a() { todo!() }\nfn b() { unimplemented!(\"c\") }", &[2, 3]);
        check("crates/a/tests/b.rs", "//! A.\n#[ignore = \"slow\"]\nfn a() {}", &[2]);
        check("crates/a/src/b.rs", "//! Not todo!() here.\nconst A: &str = \"todo!()\";", &[]);
    }

    #[test]
    fn libraries_do_not_print() {
        check("crates/a/src/b.rs", "//! A.\nfn a() { println!(); }\nfn b() { eprint!(); }", &[2, 3]);
        check("crates/cli/src/b.rs", "//! A.\nfn a() { println!(); }", &[]);
        check("crates/a/src/b.rs", "//! A.\n#[cfg(test)]\nmod tests {\n    fn a() { println!(); }\n}", &[]);
        check("crates/a/src/b.rs", "//! A.\nfn a() { my_println!(); }", &[]);
    }

    #[test]
    fn libraries_do_not_read_the_environment() {
        check("crates/a/src/b.rs", "//! A.\nuse std::env;\nfn a() { env::var(\"X\"); }", &[2, 3]);
        check("crates/a/src/b.rs", "//! A.\nconst D: &str = env!(\"CARGO_PKG_VERSION\");", &[]);
        check("crates/a/tests/b.rs", "//! A.\nfn a() { std::env::var(\"X\"); }", &[]);
    }

    #[test]
    fn unsafe_stays_in_its_place_and_says_why() {
        check("crates/a/src/b.rs", "//! A.\nfn a() { unsafe { b() } }", &[2]);
        check("crates/a/src/b.rs", "//! A.\n#![forbid(unsafe_code)]", &[]);
        check("crates/kernels/src/b.rs", "//! A.\nfn a() {\n    // SAFETY: b is fine\n    unsafe { b() }\n}", &[]);
        check("crates/kernels/src/b.rs", "//! A.\nfn a() {\n    unsafe { b() }\n}", &[3]);
        check("crates/formats/src/mmap.rs", "//! A.\n// SAFETY: c\nunsafe impl Send for A {}", &[]);
    }

    #[test]
    fn no_place_of_one_machine() {
        check("crates/a/src/b.rs", concat!("//! A.\n// see /ro", "ot/x"), &[2]);
        check("Cargo.lock", concat!("// /wo", "rk/x"), &[]);
    }
}
