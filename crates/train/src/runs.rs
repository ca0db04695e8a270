//! Run folders: what earlier runs were and how they ended, for `ounce runs`. Reads only; any folder can be looked at, also
//! that of a run which is still going or was killed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ounce_spec::event::EndReason;

use crate::report::{METRICS, Metrics, ReportError, SUMMARY, StepPoint};

/// The resolved recipe's file name in a run folder.
pub const RECIPE: &str = "recipe.yaml";
/// Steps that the reported training loss is the mean of.
const TAIL: usize = 10;

/// One run folder.
#[derive(Clone, Debug, PartialEq)]
pub struct RunFolder {
    pub path: PathBuf,
    /// Last part of the path.
    pub name: String,
    pub metrics: Metrics,
    /// summary.json, of a run that came to its end.
    pub summary: Option<serde_json::Value>,
    /// The resolved recipe as it was saved.
    pub recipe: Option<String>,
    /// Steps of the directories named as checkpoints, rising; none of them is verified here.
    pub checkpoints: Vec<usize>,
    /// Files that are there but cannot be read, and lines of the log that are no events.
    pub warnings: Vec<String>,
}

/// How far a run came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ended(EndReason),
    /// Still going, or killed: the log cannot tell.
    Unfinished,
}

/// The runs in `dir`: `dir` itself if it is a run folder, else the run folders directly in it, newest first.
///
/// # Errors
/// `dir`, or the log of a run in it, cannot be read.
pub fn list(dir: &Path) -> Result<Vec<RunFolder>, ReportError> {
    if dir.join(METRICS).is_file() {
        return Ok(vec![open(dir)?]);
    }
    let mut runs = vec![];
    for entry in fs::read_dir(dir).map_err(ReportError::of("list", dir))? {
        let path = entry.map_err(ReportError::of("list", dir))?.path();
        if path.join(METRICS).is_file() {
            runs.push(open(&path)?);
        }
    }
    runs.sort_by(|a, b| b.started().total_cmp(&a.started()).then_with(|| a.name.cmp(&b.name)));
    Ok(runs)
}

/// One run folder.
///
/// # Errors
/// It has no readable metrics.jsonl, so it is no run folder.
pub fn open(path: &Path) -> Result<RunFolder, ReportError> {
    let metrics = Metrics::read(&path.join(METRICS))?;
    let mut warnings: Vec<String> =
        metrics.skipped.iter().map(|(line, problem)| format!("{METRICS}:{line}: {problem}")).collect();
    let mut text = |name: &str| match fs::read_to_string(path.join(name)) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => {
            warnings.push(format!("cannot read {name}: {e}"));
            None
        }
    };
    let (recipe, summary) = (text(RECIPE), text(SUMMARY));
    let summary = summary.and_then(|text| match serde_json::from_str(&text) {
        Ok(value) => Some(value),
        Err(e) => {
            warnings.push(format!("{SUMMARY}: {e}"));
            None
        }
    });
    let name = path.canonicalize().unwrap_or(path.into());
    let name = name.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
    let checkpoints = checkpoints(path, &mut warnings);
    Ok(RunFolder { path: path.into(), name, metrics, summary, recipe, checkpoints, warnings })
}

fn checkpoints(path: &Path, warnings: &mut Vec<String>) -> Vec<usize> {
    match crate::checkpoint::steps(&crate::vfs::Disk, path) {
        Ok(steps) => steps,
        Err(e) => {
            warnings.push(e.to_string());
            vec![]
        }
    }
}

impl RunFolder {
    pub fn status(&self) -> Status {
        self.metrics.end.map_or(Status::Unfinished, |(_, reason)| Status::Ended(reason))
    }

    /// The last update.
    pub fn last(&self) -> Option<&StepPoint> {
        self.metrics.steps.last()
    }

    /// Updates that the run was to do.
    pub fn steps(&self) -> Option<usize> {
        self.metrics.start.map(|start| start.steps)
    }

    /// When it was started, or resumed for the last time without its first log: seconds since 1970, 0 if unknown.
    pub fn started(&self) -> f64 {
        self.metrics.start.map(|start| start.time).or(self.metrics.steps.first().map(|p| p.time)).unwrap_or(0.0)
    }

    /// Mean training loss of the last ten logged updates that were finite.
    pub fn train_loss(&self) -> Option<f64> {
        let losses = self.metrics.losses();
        let tail = &losses[losses.len().saturating_sub(TAIL)..];
        (!tail.is_empty()).then(|| tail.iter().map(|p| p.1).sum::<f64>() / tail.len() as f64)
    }

    /// Time between the first and the last update.
    pub fn seconds(&self) -> f64 {
        match (self.metrics.steps.first(), self.metrics.steps.last()) {
            (Some(first), Some(last)) => (last.time - first.time).max(0.0) + first.step_s.max(0.0),
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use ounce_spec::Event;

    use super::*;
    use crate::report::Reporter;

    fn run(dir: &Path, losses: &[f64], end: Option<EndReason>) {
        let mut reporter = Reporter::create(&crate::vfs::Disk, dir).unwrap();
        let steps = 20;
        reporter.on_event(&Event::Start { step: 0, steps, epoch_steps: 20, trainable: 1, total_params: 2 }).unwrap();
        for (i, &loss) in losses.iter().enumerate() {
            let (grad_norm, learning_rate, tokens, loss_tokens, step_s, memory_bytes) = (1.0, 1e-4, 10, 5, 0.1, 100);
            let step = i + 1;
            let event = Event::Step {
                step,
                loss,
                grad_norm,
                learning_rate,
                tokens,
                loss_tokens,
                step_s,
                memory_bytes,
                loss_scale: None,
            };
            reporter.on_event(&event).unwrap();
        }
        if let Some(reason) = end {
            reporter.on_event(&Event::End { step: losses.len(), reason }).unwrap();
            reporter.finish(serde_json::json!({"steps": losses.len()})).unwrap();
        }
    }

    #[test]
    fn runs_are_listed_with_how_they_ended() {
        let dir = tempfile::tempdir().unwrap();
        run(&dir.path().join("a"), &[3.0, 2.0, 1.0], Some(EndReason::Done));
        fs::write(dir.path().join("a").join(RECIPE), "model: x\n").unwrap();
        fs::create_dir(dir.path().join("a/checkpoint-3")).unwrap();
        run(&dir.path().join("b"), &[4.0, f64::NAN], None);
        fs::write(dir.path().join("b").join(SUMMARY), "{").unwrap();
        fs::create_dir(dir.path().join("no run")).unwrap();
        let mut runs = list(dir.path()).unwrap();
        runs.sort_by(|a, b| a.name.cmp(&b.name));
        let [a, b] = &runs[..] else { panic!("{runs:?}") };
        assert_eq!((a.name.as_str(), a.status(), a.steps()), ("a", Status::Ended(EndReason::Done), Some(20)));
        assert_eq!((a.train_loss(), a.last().map(|p| p.step)), (Some(2.0), Some(3)));
        assert_eq!((a.recipe.as_deref(), &a.checkpoints[..]), (Some("model: x\n"), &[3][..]));
        assert_eq!(a.summary, Some(serde_json::json!({"steps": 3})));
        assert_eq!((b.status(), b.train_loss(), b.summary.is_none()), (Status::Unfinished, Some(4.0), true));
        assert_eq!(b.warnings.len(), 1, "{:?}", b.warnings);
        assert!(b.warnings[0].starts_with("summary.json: "));
        // A run folder stands for itself.
        assert_eq!(list(&dir.path().join("a")).unwrap()[0].name, "a");
        assert!(list(&dir.path().join("nowhere")).unwrap_err().to_string().contains("nowhere"));
    }
}
