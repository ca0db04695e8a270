//! Writes a run's report while it trains. The log is appended to, one line an event; on resume it is cut back to where the
//! checkpoint was, so that it reads as if nothing had happened.

use std::{
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use ounce_spec::Event;

use super::{Metrics, ReportError, metrics, svg, tfevents};
use crate::vfs::{Vfs, VfsFile, make_dir};

/// The log's file name.
pub const METRICS: &str = "metrics.jsonl";
/// The end result's file name.
pub const SUMMARY: &str = "summary.json";
/// The loss curve's file name.
pub const LOSS_CHART: &str = "loss.svg";
/// TensorBoard looks for `tfevents` in names. A fixed name, so that a resumed run replaces the file.
const BOARD: &str = "tensorboard/events.out.tfevents.0000000000.ounce";

/// The open report of one run.
pub struct Reporter<'v> {
    vfs: &'v dyn Vfs,
    dir: PathBuf,
    log: Box<dyn VfsFile>,
    length: u64,
    board: Box<dyn VfsFile>,
    metrics: Metrics,
}

impl<'v> Reporter<'v> {
    /// Starts a report in `dir`, which is made if needed. A report that was there is overwritten.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn create(vfs: &'v dyn Vfs, dir: &Path) -> Result<Reporter<'v>, ReportError> {
        Reporter::open(vfs, dir, 0)
    }

    /// Goes on with the report in `dir` from the length that the checkpoint recorded ([`Reporter::sync`]). Lines after it
    /// belong to updates that will be done again, and are cut off. A log that is shorter or missing loses its lines, but
    /// stops no run.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn resume(vfs: &'v dyn Vfs, dir: &Path, length: u64) -> Result<Reporter<'v>, ReportError> {
        Reporter::open(vfs, dir, length)
    }

    fn open(vfs: &'v dyn Vfs, dir: &Path, length: u64) -> Result<Reporter<'v>, ReportError> {
        make_dir(vfs, dir).map_err(ReportError::of("create directory", dir))?;
        let path = dir.join(METRICS);
        let mut kept = vec![];
        match vfs.open(&path) {
            Ok(log) => drop(log.take(length).read_to_end(&mut kept).map_err(ReportError::of("read", &path))?),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(ReportError::of("read", &path)(e)),
        }
        // Whole lines only, whatever the length says.
        kept.truncate(kept.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1));
        let length = kept.len() as u64;
        let log = vfs.append(&path, length).map_err(ReportError::of("open", &path))?;
        let metrics = Metrics::parse(&kept);

        let path = dir.join(BOARD);
        let parent = path.parent().unwrap_or(dir);
        make_dir(vfs, parent).map_err(ReportError::of("create directory", parent))?;
        let started = if kept.is_empty() { tfevents::header(now()) } else { tfevents::file(&metrics) };
        replace(vfs, &path, &started)?;
        let board = vfs.append(&path, started.len() as u64).map_err(ReportError::of("open", &path))?;
        Ok(Reporter { vfs, dir: dir.into(), log, length, board, metrics })
    }

    /// Writes one event.
    ///
    /// # Errors
    /// A file that cannot be written. The log then ends where it ended before, so that the caller may go on.
    pub fn on_event(&mut self, event: &Event) -> Result<(), ReportError> {
        let time = now();
        let line = metrics::line(event, time) + "\n";
        if let Err(e) = self.log.write_all(line.as_bytes()) {
            // Half a line would spoil the next one.
            if let Ok(cut) = self.vfs.append(&self.dir.join(METRICS), self.length) {
                self.log = cut;
            }
            return Err(self.error("write", METRICS, e));
        }
        self.length += line.len() as u64;
        self.metrics.push(event, time);
        let record = match event {
            Event::Step { .. } => self.metrics.steps.last().map(tfevents::step),
            Event::Eval { .. } => self.metrics.evals.last().map(tfevents::eval),
            _ => None,
        };
        if let Some(record) = record {
            self.board.write_all(&record).map_err(|e| self.error("write", BOARD, e))?;
        }
        if let Event::Checkpoint { .. } = event {
            self.draw()?;
        }
        Ok(())
    }

    /// Bytes of the log so far.
    pub fn position(&self) -> u64 {
        self.length
    }

    /// Makes the log survive a power cut, and returns [`Reporter::position`]: what a checkpoint stores, so call it before
    /// the checkpoint is saved.
    ///
    /// # Errors
    /// The log cannot be synced.
    pub fn sync(&mut self) -> Result<u64, ReportError> {
        self.log.sync().map_err(|e| self.error("sync", METRICS, e))?;
        Ok(self.length)
    }

    /// The numbers so far.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Writes summary.json and the chart; everything survives a power cut.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn finish(&mut self, summary: serde_json::Value) -> Result<(), ReportError> {
        self.sync()?;
        self.board.sync().map_err(|e| self.error("sync", BOARD, e))?;
        self.draw()?;
        replace(self.vfs, &self.dir.join(SUMMARY), format!("{summary:#}\n").as_bytes())
    }

    fn draw(&self) -> Result<(), ReportError> {
        let name = self.dir.file_name().map_or("training".into(), |name| name.to_string_lossy());
        let chart = svg::loss(&format!("loss of {name}"), &self.metrics);
        replace(self.vfs, &self.dir.join(LOSS_CHART), chart.as_bytes())
    }

    fn error(&self, action: &'static str, name: &str, source: std::io::Error) -> ReportError {
        ReportError { action, path: self.dir.join(name), source }
    }
}

/// Writes a file that is whole or not there.
fn replace(vfs: &dyn Vfs, path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let written = vfs.create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync()?;
        vfs.rename(&temporary, path)
    });
    written.map_err(|e| {
        let _ = vfs.remove_file(&temporary);
        ReportError { action: "write", path: path.into(), source: e }
    })
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use ounce_spec::event::EndReason;

    use super::*;
    use crate::vfs::Disk;

    fn step(step: usize) -> Event {
        Event::Step {
            step,
            loss: 4.0 / step as f64,
            grad_norm: 1.0,
            learning_rate: 1e-4,
            tokens: 64,
            loss_tokens: 32,
            step_s: 0.5,
            memory_bytes: 1 << 30,
            loss_scale: None,
        }
    }

    fn losses(dir: &Path) -> Vec<(f64, f64)> {
        let read = Metrics::read(&dir.join(METRICS)).unwrap();
        assert_eq!(read.skipped, []);
        read.losses()
    }

    #[test]
    fn a_resumed_log_reads_as_if_nothing_had_happened() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Reporter::create(&Disk, dir.path()).unwrap();
        first.on_event(&step(1)).unwrap();
        first.on_event(&step(2)).unwrap();
        let length = first.sync().unwrap();
        assert_eq!(length, first.position());
        first.on_event(&step(3)).unwrap();
        // Killed while it wrote a line.
        first.log.write_all(br#"{"event":"st"#).unwrap();
        drop(first);
        let board = fs::read(dir.path().join(BOARD)).unwrap();

        let mut second = Reporter::resume(&Disk, dir.path(), length).unwrap();
        assert_eq!(second.position(), length);
        assert_eq!(losses(dir.path()), [(1.0, 4.0), (2.0, 2.0)]);
        second.on_event(&step(3)).unwrap();
        second.on_event(&Event::Eval { step: 3, loss: 1.0, tokens: 3, best: true }).unwrap();
        second.on_event(&Event::End { step: 3, reason: EndReason::Done }).unwrap();
        second.finish(serde_json::json!({"loss": 1.5})).unwrap();
        assert_eq!(losses(dir.path()).len(), 3);
        assert_eq!(second.position(), fs::metadata(dir.path().join(METRICS)).unwrap().len());
        // Header and three steps are as long as before; one evaluation is new.
        let resumed = fs::read(dir.path().join(BOARD)).unwrap();
        assert_eq!(resumed.len(), board.len() + tfevents::eval(&second.metrics().evals[0]).len());
        assert_eq!(fs::read_to_string(dir.path().join(SUMMARY)).unwrap(), "{\n  \"loss\": 1.5\n}\n");
        assert!(fs::read_to_string(dir.path().join(LOSS_CHART)).unwrap().contains("<circle"));
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["loss.svg", "metrics.jsonl", "summary.json", "tensorboard"]);
    }

    #[test]
    fn a_log_shorter_than_recorded_keeps_its_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Reporter::create(&Disk, dir.path()).unwrap();
        first.on_event(&step(1)).unwrap();
        let one = first.position();
        first.on_event(&step(2)).unwrap();
        let log = OpenOptions::new().write(true).open(dir.path().join(METRICS)).unwrap();
        log.set_len(first.length - 3).unwrap();
        assert_eq!(Reporter::resume(&Disk, dir.path(), first.length).unwrap().position(), one);
        fs::remove_file(dir.path().join(METRICS)).unwrap();
        assert_eq!(Reporter::resume(&Disk, dir.path(), first.length).unwrap().position(), 0);
    }

    #[test]
    fn a_new_report_replaces_an_old_one() {
        let dir = tempfile::tempdir().unwrap();
        Reporter::create(&Disk, dir.path()).unwrap().on_event(&step(1)).unwrap();
        Reporter::create(&Disk, dir.path()).unwrap().on_event(&step(7)).unwrap();
        assert_eq!(losses(dir.path()).iter().map(|p| p.0).collect::<Vec<_>>(), [7.0]);
    }

    #[test]
    fn an_unwritable_place_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let error = Reporter::create(&Disk, &dir.path().join("file/run")).err().unwrap().to_string();
        assert!(error.starts_with("cannot create directory ") && error.contains("file/run"), "{error}");
    }
}
