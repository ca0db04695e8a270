//! The numbers of a run: events as lines of metrics.jsonl, and read back. Any bytes can be read; what is no event is
//! skipped and counted.

use std::{fs, io, path::Path};

use ounce_spec::event::{EndReason, Event};
use serde_json::Value;

use super::ReportError;

/// Everything a run has said about its progress.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// The last start: of the run, or of its last resumption.
    pub start: Option<StartPoint>,
    pub steps: Vec<StepPoint>,
    pub evals: Vec<EvalPoint>,
    pub notes: Vec<String>,
    /// Steps without an update, and the loss scale after each.
    pub skipped_steps: Vec<(usize, f64)>,
    pub end: Option<(usize, EndReason)>,
    /// Line number (from 1) and what is wrong with it.
    pub skipped: Vec<(usize, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StartPoint {
    pub step: usize,
    pub steps: usize,
    pub epoch_steps: usize,
    pub trainable: usize,
    pub total_params: usize,
    /// Seconds since 1970.
    pub time: f64,
}

/// One update. Numbers that were not finite are NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepPoint {
    pub step: usize,
    pub loss: f64,
    pub grad_norm: f64,
    pub learning_rate: f64,
    pub tokens: usize,
    pub loss_tokens: usize,
    pub step_s: f64,
    pub memory_bytes: usize,
    pub loss_scale: Option<f64>,
    /// Seconds since 1970.
    pub time: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvalPoint {
    pub step: usize,
    pub loss: f64,
    pub tokens: usize,
    pub best: bool,
    /// Seconds since 1970.
    pub time: f64,
}

/// One line of metrics.jsonl, without its newline: the event and when it happened.
pub(super) fn line(event: &Event, time: f64) -> String {
    let mut value = serde_json::to_value(event).expect("an event has string keys only");
    // Milliseconds: no one needs more, and lines stay short.
    value["time"] = Value::from((time * 1e3).round() / 1e3);
    value.to_string()
}

/// Reads one line back. JSON has no NaN: a number that was not finite was written as null.
fn parse_line(line: &str) -> Result<(Event, f64), String> {
    let value: Value = serde_json::from_str(line).map_err(|e| format!("not JSON: {e}"))?;
    let number = |key: &str| match &value[key] {
        Value::Null => Ok(f64::NAN),
        other => other.as_f64().ok_or_else(|| format!("{key} is not a number")),
    };
    let count = |key: &str| {
        let found = value[key].as_u64().and_then(|n| usize::try_from(n).ok());
        found.ok_or_else(|| format!("{key} is missing or not a count"))
    };
    let time = value["time"].as_f64().unwrap_or(0.0);
    let event = match value["event"].as_str() {
        Some("step") => Event::Step {
            step: count("step")?,
            loss: number("loss")?,
            grad_norm: number("grad_norm")?,
            learning_rate: number("learning_rate")?,
            tokens: count("tokens")?,
            loss_tokens: count("loss_tokens")?,
            step_s: number("step_s")?,
            memory_bytes: count("memory_bytes")?,
            loss_scale: value["loss_scale"].as_f64(),
        },
        Some("eval") => Event::Eval {
            step: count("step")?,
            loss: number("loss")?,
            tokens: count("tokens")?,
            best: value["best"].as_bool().unwrap_or(false),
        },
        _ => serde_json::from_value(value).map_err(|e| format!("not an event: {e}"))?,
    };
    Ok((event, time))
}

impl Metrics {
    /// Reads metrics.jsonl.
    ///
    /// # Errors
    /// The file cannot be read. Lines that are no events are in `skipped`; so is the unfinished last line of a run that
    /// was killed.
    pub fn read(path: &Path) -> Result<Metrics, ReportError> {
        Ok(Metrics::parse(&fs::read(path).map_err(ReportError::of("read", path))?))
    }

    /// Reads the content of a metrics.jsonl.
    pub fn parse(bytes: &[u8]) -> Metrics {
        let mut metrics = Metrics::default();
        for (index, bytes) in bytes.split(|b| *b == b'\n').enumerate() {
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let parsed = str::from_utf8(bytes).map_err(|_| "not UTF-8".to_string()).and_then(parse_line);
            match parsed {
                Ok((event, time)) => metrics.push(&event, time),
                Err(problem) => metrics.skipped.push((index + 1, problem)),
            }
        }
        metrics
    }

    /// Adds what an event at `time` (seconds since 1970) says.
    pub fn push(&mut self, event: &Event, time: f64) {
        match *event {
            Event::Start { step, steps, epoch_steps, trainable, total_params } => {
                self.start = Some(StartPoint { step, steps, epoch_steps, trainable, total_params, time });
                self.end = None;
            }
            Event::Step {
                step,
                loss,
                grad_norm,
                learning_rate,
                tokens,
                loss_tokens,
                step_s,
                memory_bytes,
                loss_scale,
            } => self.steps.push(StepPoint {
                step,
                loss,
                grad_norm,
                learning_rate,
                tokens,
                loss_tokens,
                step_s,
                memory_bytes,
                loss_scale,
                time,
            }),
            Event::Skipped { step, loss_scale, .. } => self.skipped_steps.push((step, loss_scale)),
            Event::Eval { step, loss, tokens, best } => self.evals.push(EvalPoint { step, loss, tokens, best, time }),
            Event::Note { ref text } => self.notes.push(text.clone()),
            Event::End { step, reason } => self.end = Some((step, reason)),
            Event::Checkpoint { .. } => {}
        }
    }

    /// Training loss by step, without the values that are not finite.
    pub fn losses(&self) -> Vec<(f64, f64)> {
        finite(self.steps.iter().map(|p| (p.step, p.loss)))
    }

    /// Evaluation loss by step, without the values that are not finite.
    pub fn eval_losses(&self) -> Vec<(f64, f64)> {
        finite(self.evals.iter().map(|p| (p.step, p.loss)))
    }

    /// The lowest evaluation loss, with its step.
    pub fn best_eval(&self) -> Option<EvalPoint> {
        self.evals.iter().filter(|p| p.loss.is_finite()).min_by(|a, b| a.loss.total_cmp(&b.loss)).copied()
    }

    /// One row per step, for a spreadsheet.
    ///
    /// # Errors
    /// Of `out`.
    pub fn write_csv(&self, out: &mut dyn io::Write) -> io::Result<()> {
        writeln!(
            out,
            "step,loss,eval_loss,grad_norm,learning_rate,tokens,loss_tokens,step_s,memory_bytes,time,loss_scale"
        )?;
        let mut evals = self.evals.iter().peekable();
        for p in &self.steps {
            // An evaluation before this step (before the first update) has a row of its own.
            while let Some(e) = evals.next_if(|e| e.step < p.step) {
                writeln!(out, "{},,{},,,,,,,{},", e.step, e.loss, e.time)?;
            }
            let eval = evals.next_if(|e| e.step == p.step).map_or(String::new(), |e| e.loss.to_string());
            let StepPoint { step, loss, grad_norm, learning_rate, tokens, loss_tokens, step_s, memory_bytes, .. } = p;
            let (time, scale) = (p.time, p.loss_scale.map_or(String::new(), |s| s.to_string()));
            write!(out, "{step},{loss},{eval},{grad_norm},{learning_rate},{tokens},{loss_tokens},")?;
            writeln!(out, "{step_s},{memory_bytes},{time},{scale}")?;
        }
        for e in evals {
            writeln!(out, "{},,{},,,,,,,{},", e.step, e.loss, e.time)?;
        }
        Ok(())
    }
}

fn finite(points: impl Iterator<Item = (usize, f64)>) -> Vec<(f64, f64)> {
    points.filter(|(_, loss)| loss.is_finite()).map(|(step, loss)| (step as f64, loss)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(step: usize, loss: f64) -> Event {
        Event::Step {
            step,
            loss,
            grad_norm: 1.5,
            learning_rate: 2e-4,
            tokens: 100,
            loss_tokens: 60,
            step_s: 0.25,
            memory_bytes: 1 << 20,
            loss_scale: (step == 2).then_some(1024.0),
        }
    }

    #[test]
    fn lines_read_back() {
        let events = [
            Event::Start { step: 0, steps: 2, epoch_steps: 2, trainable: 10, total_params: 100 },
            step(1, 3.5),
            Event::Note { text: "line\nbreak \"quoted\"".into() },
            Event::Eval { step: 1, loss: 3.25, tokens: 50, best: true },
            Event::Checkpoint { step: 1, path: "out/checkpoint-1".into() },
            step(2, f64::NAN),
            Event::Skipped { step: 3, why: "the gradient norm is inf".into(), loss_scale: 512.0 },
            Event::End { step: 2, reason: EndReason::Interrupted },
        ];
        let text: String = events.iter().map(|e| line(e, 1000.1234) + "\n").collect();
        assert!(text.starts_with(r#"{"event":"start","step":0,"steps":2,"#), "{text}");
        let read = Metrics::parse(text.as_bytes());
        assert_eq!(read.skipped, []);
        assert_eq!((read.steps.len(), read.evals.len(), read.notes.len()), (2, 1, 1));
        assert_eq!(read.steps[0].loss, 3.5);
        assert_eq!((read.steps[0].loss_scale, read.steps[1].loss_scale), (None, Some(1024.0)));
        assert_eq!(read.skipped_steps, [(3, 512.0)]);
        assert_eq!(read.steps[0].time, 1000.123);
        assert!(read.steps[1].loss.is_nan());
        assert_eq!(read.losses(), [(1.0, 3.5)]);
        assert_eq!(read.best_eval().map(|e| (e.step, e.loss)), Some((1, 3.25)));
        assert_eq!(read.notes[0], "line\nbreak \"quoted\"");
        assert_eq!(read.end, Some((2, EndReason::Interrupted)));
    }

    #[test]
    fn bad_lines_are_skipped_with_their_numbers() {
        let good = line(&step(1, 2.0), 0.0);
        let text = format!(
            "{good}\nnonsense\n\n{{\"event\":\"step\",\"step\":-1}}\n{{\"event\":\"what\"}}\n[1]\n{}",
            &good[..20]
        );
        let read = Metrics::parse(text.as_bytes());
        assert_eq!(read.steps.len(), 1);
        assert_eq!(read.skipped.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4, 5, 6, 7]);
    }

    #[test]
    fn csv_has_a_row_for_each_step_and_lone_evaluation() {
        let mut metrics = Metrics::default();
        metrics.push(&Event::Eval { step: 0, loss: 4.0, tokens: 9, best: true }, 1.0);
        metrics.push(&step(1, 3.5), 2.0);
        metrics.push(&Event::Eval { step: 1, loss: 3.0, tokens: 9, best: true }, 3.0);
        metrics.push(&Event::Eval { step: 5, loss: 2.0, tokens: 9, best: true }, 4.0);
        let mut csv = vec![];
        metrics.write_csv(&mut csv).unwrap();
        let csv = String::from_utf8(csv).unwrap();
        let rows: Vec<&str> = csv.lines().skip(1).collect();
        assert_eq!(rows, ["0,,4,,,,,,,1,", "1,3.5,3,1.5,0.0002,100,60,0.25,1048576,2,", "5,,2,,,,,,,4,"]);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            Metrics::parse(&bytes);
        }

        #[test]
        fn a_damaged_log_can_be_read(cut in 0usize..400, at in 0usize..400, byte in any::<u8>()) {
            let mut text: Vec<u8> = (0..3).flat_map(|i| (line(&step(i, 1.0), 5.0) + "\n").into_bytes()).collect();
            text.truncate(cut);
            if let Some(b) = text.get_mut(at) {
                *b = byte;
            }
            let read = Metrics::parse(&text);
            prop_assert!(read.steps.len() <= 3);
        }
    }
}
