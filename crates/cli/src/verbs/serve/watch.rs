//! `--watch DIR`: looks about once a second for runs that have ended and puts their adapters beside the model, each under the name
//! of its run. A run that is replaced is swapped, one that cannot be used is told of and left. No fault here ends the server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use ounce_formats::peft;
use ounce_serve::App;
use ounce_train::report::SUMMARY;

use crate::output::Output;

const POLL: Duration = Duration::from_secs(1);
/// How often the flag that stops the server is looked at.
const NAP: Duration = Duration::from_millis(100);

/// When the files of a run that make it what it is were last written: settings, weights and the summary, which comes last.
type Stamp = [(SystemTime, u64); 3];

pub struct Watch {
    app: Arc<App>,
    dir: PathBuf,
    /// What the base may be called in a run's adapter.
    base: Vec<PathBuf>,
    out: Output,
    /// Runs that have been looked at, as they were then.
    seen: BTreeMap<PathBuf, Stamp>,
    /// Names that it gave: only these it replaces.
    named: BTreeSet<String>,
}

/// A run that has ended, as it stands on the disk.
struct Run {
    path: PathBuf,
    stamp: Stamp,
}

impl Watch {
    /// Watches `dir` for runs on the model at `model`, which was typed as `typed`.
    pub fn new(app: Arc<App>, dir: &Path, typed: &str, model: &Path, out: Output) -> Watch {
        let base = vec![PathBuf::from(typed), resolved(Path::new(typed)), resolved(model)];
        Watch { app, dir: dir.into(), base, out, seen: BTreeMap::new(), named: BTreeSet::new() }
    }

    /// Goes on until `stop` is set.
    pub fn start(mut self, stop: Arc<AtomicBool>) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("watch".into()).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                self.look();
                let until = std::time::Instant::now() + POLL;
                while std::time::Instant::now() < until && !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(NAP);
                }
            }
        })
    }

    /// One look at all runs.
    fn look(&mut self) {
        for run in ended(&self.dir) {
            if self.seen.get(&run.path) == Some(&run.stamp) {
                continue;
            }
            self.take(&run);
            self.seen.insert(run.path, run.stamp);
        }
    }

    fn take(&mut self, run: &Run) {
        let name = run.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shown = run.path.display();
        match self.is_of_base(&run.path) {
            Ok(true) => {}
            Ok(false) => return self.out.note(format!("{shown} is not used: it was tuned on another model")),
            Err(why) => return self.out.note(format!("{shown} is not used: {why}")),
        }
        match self.app.load_adapter(Some(&name), &run.path, self.named.contains(&name)) {
            Ok(()) => {
                self.out.note(format!("{shown} is served as {name}"));
                self.named.insert(name);
            }
            Err(fault) => self.out.note(format!("{shown} is not used: {fault}")),
        }
    }

    /// Whether the run's adapter names the model that is served as its base.
    fn is_of_base(&self, run: &Path) -> Result<bool, String> {
        let path = run.join(peft::CONFIG);
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let config = peft::parse_config(&text).map_err(|faults| faults.join("; "))?;
        // One that names none is known by whether it fits.
        let Some(base) = config.base_model_name_or_path.filter(|base| !base.is_empty()) else { return Ok(true) };
        let base = PathBuf::from(base);
        Ok(self.base.contains(&base) || self.base.contains(&resolved(&base)))
    }
}

/// The runs in `dir` that have ended with an adapter, by name, if nobody writes to them just now. A folder that cannot be read
/// has none.
fn ended(dir: &Path) -> Vec<Run> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let run = |path: PathBuf| {
        let mut stamp = [(SystemTime::UNIX_EPOCH, 0); 3];
        for (stamp, name) in stamp.iter_mut().zip([peft::CONFIG, peft::WEIGHTS, SUMMARY]) {
            let metadata = std::fs::metadata(path.join(name)).ok()?;
            *stamp = (metadata.modified().ok()?, metadata.len());
        }
        let newest = stamp.iter().map(|(modified, _)| *modified).max()?;
        let settled = newest.elapsed().map_or(true, |age| age >= POLL);
        settled.then_some(Run { path, stamp })
    };
    let mut runs: Vec<Run> = entries.flatten().filter_map(|entry| run(entry.path())).collect();
    runs.sort_by(|a, b| a.path.cmp(&b.path));
    runs
}

/// A path without links and `..`, or as it is where there is nothing.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.into())
}
