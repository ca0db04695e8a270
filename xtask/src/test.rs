//! `cargo xtask test`: every check of the project in one run, each stage with its time, and one closing line of counts.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::{assets, fetch, neon, place, proc, python, tidy};

/// Mutated inputs per parser. The tests' own default is small, so that a single test stays quick by hand.
const FUZZ_ITERS: &str = "1000000";

#[derive(Default)]
struct Counts {
    passed: u64,
    failed: u64,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Ok,
    Failed,
    /// Not run, because this machine lacks what it needs.
    Skipped,
}

struct Stages {
    done: Vec<(String, f64, Outcome)>,
}

impl Stages {
    fn run(&mut self, name: &str, stage: impl FnOnce() -> Result<(), String>) -> bool {
        println!("\n== {name}");
        let start = Instant::now();
        let outcome = stage();
        let seconds = start.elapsed().as_secs_f64();
        match &outcome {
            Ok(()) => println!("== {name}: ok, {seconds:.1} s"),
            Err(message) => println!("== {name}: failed, {seconds:.1} s\n{message}"),
        }
        let ok = outcome.is_ok();
        self.done.push((name.into(), seconds, if ok { Outcome::Ok } else { Outcome::Failed }));
        ok
    }

    fn skip(&mut self, name: &str, why: &str) {
        println!("\n== {name}: skipped\n{why}");
        self.done.push((name.into(), 0.0, Outcome::Skipped));
    }

    fn with(&self, outcome: Outcome) -> Vec<&str> {
        self.done.iter().filter(|s| s.2 == outcome).map(|s| s.0.as_str()).collect()
    }
}

/// Runs all stages, also after one has failed, so that one run shows everything that is wrong.
pub fn run_all() -> Result<(), String> {
    let root = place::workspace();
    let mut stages = Stages { done: Vec::new() };
    let mut counts = Counts::default();
    stages.run("assets", assets::fetch_all);
    stages.run("python peers", python::ensure_reference);
    stages.run("format", || cargo(&root, &["fmt", "--all", "--check"]));
    stages.run("tidy", tidy::run);
    stages.run("lints", || {
        let args = ["clippy", "--locked", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"];
        cargo(&root, &args)
    });
    stages.run("tests", || {
        let mut command = cargo_command(&root);
        command.args(["test", "--locked", "--release", "--workspace", "--no-fail-fast"]);
        cargo_test(&mut command, &mut counts)
    });
    // Where the tests above ran as ARM code, they ran the table.
    if cfg!(not(target_arch = "aarch64")) {
        match neon::command() {
            Ok(mut command) => stages.run("neon", || cargo_test(&mut command, &mut counts)),
            Err(why) if in_ci() => stages.run("neon", || Err(why)),
            Err(why) => {
                stages.skip("neon", &why);
                true
            }
        };
    }
    stages.run("parity", || parity(&root, &mut counts));

    println!();
    for (name, seconds, outcome) in &stages.done {
        let word = match outcome {
            Outcome::Ok => "ok",
            Outcome::Failed => "failed",
            Outcome::Skipped => "SKIPPED: this machine lacks what it needs (see above)",
        };
        println!("{name:<14} {seconds:>8.1} s  {word}");
    }
    // A stage that is not made of tests (format, lints) and failed counts as one failure.
    let broken = stages.with(Outcome::Failed);
    let failed = counts.failed.max(broken.len() as u64);
    let skipped = stages.with(Outcome::Skipped);
    if !skipped.is_empty() {
        println!("\nskipped stages: {}", skipped.join(", "));
    }
    println!("\n{} passed, {failed} failed", counts.passed);
    if failed == 0 { Ok(()) } else { Err(format!("failed stages: {}", broken.join(", "))) }
}

/// The server's load tests with the numbers of the promise: a thousand streams, a hundred thousand hostile requests, ten
/// minutes of mixed load, on the program with a real model. One after another, so that each has the machine for itself.
pub fn soak() -> Result<(), String> {
    let root = place::workspace();
    let model = place::assets().join(assets::SMOLLM2);
    if !model.exists() {
        return Err(format!("there is no {}\nhint: cargo xtask assets smollm2", model.display()));
    }
    cargo(&root, &["build", "--locked", "--release", "--package", "ounce-cli"])?;
    let mut command = cargo_command(&root);
    command.args(["test", "--locked", "--release", "--package", "ounce-serve", "--no-fail-fast"]);
    for test in ["load", "patience", "crowd", "hostile", "soak"] {
        command.args(["--test", test]);
    }
    command.args(["--", "--nocapture", "--test-threads=1"]).env("OUNCE_SOAK", "1");
    command.env("OUNCE", place::target().join("release/ounce")).env("OUNCE_SOAK_MODEL", model);
    cargo_test(&mut command, &mut Counts::default())
}

/// Whether this is continuous integration, where nothing may be left out: `CI` is set, as its services do.
fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|v| !v.is_empty() && v != "false" && v != "0")
}

/// Cargo in the workspace with the environment that tests see.
fn cargo_command(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).env("OUNCE_ASSETS", place::assets()).env("OUNCE_FUZZ_ITERS", FUZZ_ITERS);
    command
}

fn cargo(root: &Path, args: &[&str]) -> Result<(), String> {
    proc::run(cargo_command(root).args(args))
}

fn cargo_test(command: &mut Command, counts: &mut Counts) -> Result<(), String> {
    let before = counts.passed;
    let ok = proc::run_seeing_lines(command, |line| {
        if let Some((passed, failed)) = cargo_summary(line) {
            counts.passed += passed;
            counts.failed += failed;
        }
    })?;
    match (ok, counts.passed > before) {
        (true, true) => Ok(()),
        (true, false) => Err("cargo test ran no test".into()),
        (false, _) => Err(format!("`{}` failed", proc::shown(command))),
    }
}

/// Every script in `tests/parity` compares Ounce with a Python peer. It finds the binary in `OUNCE`, the fetched files in
/// `OUNCE_ASSETS`, and closes with the line `N passed, N failed`.
fn parity(root: &Path, counts: &mut Counts) -> Result<(), String> {
    let python = python::ensure_venv()?;
    cargo(root, &["build", "--locked", "--release", "--package", "ounce-cli"])?;
    let folder = root.join("tests/parity");
    let scripts = fetch::files_under(&folder)?;
    let mut wrong = Vec::new();
    // A name that begins with an underscore is a module that scripts import.
    let is_script = |p: &&std::path::PathBuf| {
        p.extension().is_some_and(|e| e == "py") && p.file_name().is_some_and(|n| !n.to_string_lossy().starts_with('_'))
    };
    for script in scripts.iter().filter(is_script) {
        let name = script.strip_prefix(root).unwrap_or(script).display().to_string();
        println!("-- {name}");
        let mut command = Command::new(&python);
        command.current_dir(root).arg(script).env("OUNCE_ASSETS", place::assets());
        command.env("OUNCE", place::target().join("release/ounce")).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut closing = None;
        let ok = proc::run_seeing_lines(&mut command, |line| closing = plain_summary(line).or(closing))?;
        match (ok, closing) {
            (true, Some((passed, 0))) if passed > 0 => counts.passed += passed,
            (_, closing) => {
                let (passed, failed) = closing.unwrap_or((0, 0));
                counts.passed += passed;
                counts.failed += failed.max(1);
                wrong.push(name);
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("parity scripts that failed: {}", wrong.join(", "))) }
}

/// `test result: ok. 3 passed; 0 failed; …` → (3, 0).
fn cargo_summary(line: &str) -> Option<(u64, u64)> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut parts = counts.split("; ");
    let mut count = |word: &str| parts.next()?.strip_suffix(word)?.trim().parse().ok();
    Some((count("passed")?, count("failed")?))
}

/// `3 passed, 0 failed` → (3, 0).
fn plain_summary(line: &str) -> Option<(u64, u64)> {
    let (passed, failed) = line.trim().split_once(", ")?;
    Some((passed.strip_suffix(" passed")?.parse().ok()?, failed.strip_suffix(" failed")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(cargo_summary(line), Some((12, 3)));
        assert_eq!(cargo_summary("test tidy::tests::all ... ok"), None);
        assert_eq!(plain_summary("4 passed, 1 failed"), Some((4, 1)));
        assert_eq!(plain_summary("passed, failed"), None);
    }

    #[test]
    fn a_failed_stage_and_a_skipped_one_are_remembered() {
        let mut stages = Stages { done: Vec::new() };
        assert!(stages.run("good", || Ok(())));
        assert!(!stages.run("bad", || Err("no".into())));
        stages.skip("left out", "no compiler");
        assert_eq!(stages.with(Outcome::Failed), ["bad"]);
        assert_eq!(stages.with(Outcome::Skipped), ["left out"]);
    }
}
