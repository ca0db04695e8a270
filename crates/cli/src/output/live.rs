//! A run while it goes on: one live line on a terminal, plain lines elsewhere, and the loss curve at the end.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ounce_spec::Event;
use ounce_spec::event::EndReason;

use super::{Output, units};

/// Draws the events of one run.
pub struct Live {
    output: Output,
    bar: Option<ProgressBar>,
    steps: usize,
    /// Step and time at which this process began: earlier steps of a resumed run say nothing about its speed.
    begun: (usize, Instant),
    losses: Vec<(f64, f64)>,
    last_line: Option<Instant>,
    eval: Option<f64>,
}

/// Where there is no terminal, a line at most this often.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

impl Live {
    pub fn new(output: Output) -> Live {
        let begun = (0, Instant::now());
        Live { output, bar: None, steps: 0, begun, losses: Vec::new(), last_line: None, eval: None }
    }

    /// Takes the next event. With `--json`, events go to stdout as they are, one a line.
    pub fn event(&mut self, event: &Event) {
        if self.output.json {
            self.output.data(serde_json::to_string(event).expect("plain data"));
        }
        match event {
            Event::Start { step, steps, trainable, total_params, .. } => {
                self.steps = *steps;
                self.begun = (*step, Instant::now());
                let share = *trainable as f64 / (*total_params).max(1) as f64 * 100.0;
                let (trained, total) = (units::count(*trainable as f64), units::count(*total_params as f64));
                let from = if *step > 0 { format!(", going on after step {step}") } else { String::new() };
                self.say(&format!("training {trained} of {total} parameters ({share:.2} %), {steps} steps{from}"));
                self.start_bar(*step);
            }
            Event::Step { step, loss, tokens, step_s, memory_bytes, .. } => {
                self.losses.push((*step as f64, *loss));
                self.step(*step, *loss, *tokens as f64 / step_s, *memory_bytes);
            }
            Event::Skipped { step, why, loss_scale } => {
                self.say(&format!("step {step}: skipped, {why} in f16; the loss scale is {loss_scale} from here on"));
            }
            Event::Eval { step, loss, tokens, best } => {
                self.eval = Some(*loss);
                let best = if *best { ", the best so far" } else { "" };
                self.say(&format!(
                    "step {step}: loss on held-out data {loss:.4} ({} tokens{best})",
                    units::count(*tokens as f64)
                ));
            }
            Event::Checkpoint { step, path } => {
                if self.bar.is_none() {
                    self.say(&format!("step {step}: saved {path}"));
                }
            }
            Event::Note { text } => self.say(text),
            Event::End { step, reason } => {
                self.clear();
                let why = match reason {
                    EndReason::Done => "done",
                    EndReason::EarlyStop => "stopped early: the loss on held-out data no longer falls",
                    EndReason::Interrupted => "interrupted and saved",
                };
                self.say(&format!("step {step} of {}: {why}", self.steps));
            }
        }
    }

    /// Takes the live line away, before an error is shown.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// The loss by step, for the curve at the end.
    pub fn losses(&self) -> &[(f64, f64)] {
        &self.losses
    }

    fn step(&mut self, step: usize, loss: f64, tokens_s: f64, memory: usize) {
        let done = step.saturating_sub(self.begun.0).max(1);
        let left = self.begun.1.elapsed().as_secs_f64() / done as f64 * self.steps.saturating_sub(step) as f64;
        let eval = self.eval.map(|e| format!(" (held out {e:.4})")).unwrap_or_default();
        let text = format!(
            "loss {loss:.4}{eval}  {} tok/s  {}  {} left",
            units::count(tokens_s.round()),
            units::bytes(memory),
            units::seconds(left)
        );
        if let Some(bar) = &self.bar {
            bar.set_position(step as u64);
            bar.set_message(text);
            return;
        }
        let due = self.last_line.is_none_or(|at| at.elapsed() >= PLAIN_EVERY) || step == self.steps;
        if due && !self.output.json {
            self.last_line = Some(Instant::now());
            self.say(&format!("step {step}/{}  {text}", self.steps));
        }
    }

    fn start_bar(&mut self, step: usize) {
        if !self.output.live {
            return;
        }
        let style =
            ProgressStyle::with_template("step {pos}/{len} {bar:20} {wide_msg}").expect("the template is right");
        let bar = ProgressBar::with_draw_target(Some(self.steps as u64), ProgressDrawTarget::stderr_with_hz(8));
        bar.set_style(style);
        bar.set_position(step as u64);
        self.bar = Some(bar);
    }

    fn say(&self, text: &str) {
        if self.output.json {
            return;
        }
        match &self.bar {
            Some(bar) => bar.suspend(|| self.output.note(text)),
            None => self.output.note(text),
        }
    }
}
