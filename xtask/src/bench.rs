//! `cargo xtask bench`: Ounce and its rivals measured in turn on the same files, in one run, with the tables that
//! `docs/BENCHMARKS.md` shows. The rivals are in the folder that `PEERS` names; how to fill it stands on that page.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{fetch, place, proc};

mod cores;
mod curves;
mod decode;
mod forecast;
mod kernels;
mod machine;
mod measure;
mod options;
mod serve;
mod start;
mod table;
mod train;

use options::Options;

const PAGE: &str = "docs/BENCHMARKS.md";
/// Load from outside, in cores, above which a table says that the machine was busy.
const QUIET_CORES: f64 = 0.2;

/// Runs the measurement `what`, prints its table and, where asked, puts it into the page.
pub fn run(what: &str, args: &[&str]) -> Result<(), String> {
    let options = Options::parse(args)?;
    let peers = Peers::from_environment()?;
    let (page, text) = match what {
        "train" => (PAGE, train::run(&options, &peers)?),
        "decode" => (PAGE, decode::run(&options, &peers)?),
        "forecast" => (PAGE, forecast::run(&options, &peers)?),
        "kernels" => (PAGE, kernels::run(&options, &peers)?),
        "cores" => (PAGE, cores::run(&options, &peers)?),
        "serve" => (PAGE, serve::run(&options, &peers)?),
        "start" => (PAGE, start::run(&options, &peers)?),
        "curves" => ("docs/PRECISION.md", curves::run(&options, &peers)?),
        other => {
            return Err(format!(
                "there is no benchmark `{other}`: kernels, train, decode, serve, start, cores, forecast or curves"
            ));
        }
    };
    let command = [&["PEERS=… cargo xtask bench", what], args].concat().join(" ");
    let text = format!("`{command}`\n\n{text}");
    println!("\n{text}");
    if options.write {
        let path = place::workspace().join(page);
        let old = fs::read_to_string(&path).map_err(|e| format!("cannot read {page}: {e}"))?;
        fetch::write_whole(&path, table::replaced(&old, &format!("bench {what}"), &text)?.as_bytes())?;
        println!("written into {page}");
    }
    Ok(())
}

/// The folder of the rivals and their files.
pub struct Peers {
    folder: PathBuf,
}

impl Peers {
    fn from_environment() -> Result<Peers, String> {
        let folder = std::env::var_os("PEERS").filter(|v| !v.is_empty());
        let folder = folder.ok_or_else(|| {
            format!("PEERS names no folder: the rivals are found there\nhint: {PAGE} says how to fill one")
        })?;
        // Absolute, because programs are started in other folders.
        let folder = std::path::absolute(&folder).map_err(|e| format!("PEERS is no path: {e}"))?;
        Ok(Peers { folder })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The paths of files that a benchmark needs; all that are missing are named.
    fn need<const N: usize>(&self, names: [&str; N]) -> Result<[PathBuf; N], String> {
        let missing: Vec<&str> = names.into_iter().filter(|n| !self.at(n).exists()).collect();
        if missing.is_empty() {
            return Ok(names.map(|n| self.at(n)));
        }
        let (folder, missing) = (self.folder.display(), missing.join(", "));
        Err(format!("PEERS is {folder}, which lacks {missing}\nhint: {PAGE} says how to fill the folder"))
    }
}

/// Builds a binary or an example in release and returns its path.
fn built(package: &str, example: Option<&str>) -> Result<PathBuf, String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(place::workspace()).args(["build", "--quiet", "--release", "--package", package]);
    match example {
        Some(name) => {
            proc::run(cargo.args(["--example", name]))?;
            Ok(place::target().join("release/examples").join(name))
        }
        None => {
            proc::run(&mut cargo)?;
            Ok(place::target().join("release/ounce"))
        }
    }
}

/// A folder for files that a benchmark makes once and keeps.
fn kept() -> Result<PathBuf, String> {
    let folder = place::target().join("bench");
    fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    Ok(folder)
}

/// Something that is measured in turn with others, over rounds.
pub struct Entry<S> {
    pub setting: S,
    pub runs: Vec<measure::Run>,
    failure: Option<String>,
}

/// Runs each setting once a round, A B A B …, and says each figure as it comes. A setting that failed is not tried again; the
/// others go on, and the failures come back together, after everything that could be measured has been printed.
fn in_turn<S>(
    settings: Vec<S>,
    rounds: usize,
    name: impl Fn(&S) -> String,
    command: impl Fn(&S) -> Command,
    summary: impl Fn(&measure::Run) -> Result<String, String>,
) -> Result<Vec<Entry<S>>, String> {
    let mut entries: Vec<Entry<S>> =
        settings.into_iter().map(|setting| Entry { setting, runs: Vec::new(), failure: None }).collect();
    for round in 1..=rounds {
        for entry in entries.iter_mut().filter(|e| e.failure.is_none()) {
            let outcome = measure::run(&mut command(&entry.setting)).and_then(|r| Ok((summary(&r)?, r)));
            let name = name(&entry.setting);
            match outcome {
                Ok((line, run)) => {
                    let (peak, foreign) = (run.peak_mib, run.foreign_cores);
                    println!("round {round}  {name}: {line}, {peak:.0} MiB, others {foreign:.2} cores");
                    entry.runs.push(run);
                }
                Err(message) => {
                    println!("round {round}  {name}: failed");
                    entry.failure = Some(format!("{name}: {message}"));
                }
            }
        }
    }
    let failures: Vec<&str> = entries.iter().filter_map(|e| e.failure.as_deref()).collect();
    if failures.is_empty() { Ok(entries) } else { Err(failures.join("\n")) }
}

/// The medians of a figure over the rounds of each entry that `of` picks.
fn medians<S>(entries: &[Entry<S>], of: impl Fn(&S) -> bool, figure: impl Fn(&measure::Run) -> f64) -> Vec<f64> {
    let chosen = entries.iter().filter(|e| of(&e.setting));
    chosen.map(|e| table::median(&e.runs.iter().map(&figure).collect::<Vec<f64>>())).collect()
}

/// A sentence for a table that was measured while others had more than a little of the machine; empty where they had not.
fn busy<S>(entries: &[Entry<S>]) -> String {
    let most = entries.iter().flat_map(|e| &e.runs).map(|r| r.foreign_cores).fold(0.0, f64::max);
    if most <= QUIET_CORES {
        return String::new();
    }
    format!(" **The machine was busy: others had up to {most:.2} cores. These figures are no comparison.**")
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_run_in_turn_and_a_failure_does_not_stop_the_rest() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let command = |s: &&str| {
            let mut command = Command::new("sh");
            let script = r#"echo "$1" >> "$2"; [ "$1" != bad ] && echo "{\"n\": 1}""#;
            command.args(["-c", script, "sh", s]).arg(log.path());
            command
        };
        let run = |settings| in_turn(settings, 2, |s| s.to_string(), command, |r| r.number("n").map(|n| n.to_string()));
        let entries = run(vec!["a", "b"]).unwrap();
        assert_eq!(fs::read_to_string(log.path()).unwrap(), "a\nb\na\nb\n");
        assert_eq!(medians(&entries, |s| *s == "b", |r| r.number("n").unwrap()), [1.0]);

        let mut entries = entries;
        entries.iter_mut().flat_map(|e| &mut e.runs).for_each(|r| r.foreign_cores = 0.1);
        assert_eq!(busy(&entries), "");
        entries[1].runs[0].foreign_cores = 0.7;
        assert!(busy(&entries).contains("0.70 cores"));

        fs::write(log.path(), "").unwrap();
        let message = run(vec!["bad", "b"]).err().unwrap();
        assert!(message.starts_with("bad: "), "{message}");
        assert_eq!(fs::read_to_string(log.path()).unwrap(), "bad\nb\nb\n");
    }

    #[test]
    fn everything_that_peers_lacks_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("here"), "").unwrap();
        let peers = Peers { folder: folder.path().into() };
        assert_eq!(peers.need(["here"]).unwrap(), [folder.path().join("here")]);
        let message = peers.need(["one", "here", "two"]).unwrap_err();
        assert!(message.contains("lacks one, two\n"), "{message}");
    }
}
