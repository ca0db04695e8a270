//! The training loop: read it from top to bottom. It carries out a recipe and a plan, says what happens as events, and never
//! leaves a run that cannot go on.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ounce_data::{Batch, Batches, DataError, Tokenized};
use ounce_optim::schedule;
use ounce_spec::Event;
use ounce_spec::event::EndReason;
use ounce_spec::recipe::Recipe;
use ounce_tensor::ReadError;

use crate::checkpoint::{self, CheckpointError};
use crate::report::{ReportError, Reporter};
use crate::resident;
use crate::state::{self, Progress, StateError};
use crate::step::{NonFinite, StepError, StepResult};
use crate::trainer::Trainer;
use crate::vfs::Vfs;

/// What ended a run before its time.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    NonFinite(#[from] NonFinite),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error(transparent)]
    Data(#[from] DataError),
    /// A disk that failed with weights, optimizer state or activations on their way.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<StepError> for TrainError {
    fn from(error: StepError) -> TrainError {
        match error {
            StepError::NonFinite(e) => e.into(),
            StepError::Read(e) => e.into(),
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub reason: EndReason,
    pub progress: Progress,
    /// Steps of the whole run.
    pub steps: usize,
    /// Mean training loss of the last logged steps, and the last evaluation.
    pub train_loss: f64,
    pub valid_loss: Option<f64>,
    /// Median over the steps of this process.
    pub step_s: f64,
    pub tokens_per_s: f64,
    pub peak_memory_bytes: usize,
}

/// Shows an event and writes it to the log.
type Say<'a> = dyn FnMut(Event, &mut Reporter) -> Result<(), TrainError> + 'a;

/// Everything a run needs.
pub struct Run<'a> {
    pub recipe: &'a Recipe,
    pub trainer: Trainer,
    pub batches: Batches,
    pub valid: Vec<Tokenized>,
    pub dir: &'a Path,
    pub vfs: &'a dyn Vfs,
    /// Of everything that must not change between a run and its resumption: the one that checkpoints get, then others that a
    /// checkpoint of the same run may have, made by an older program.
    pub recipe_hashes: Vec<String>,
    /// Set from outside (Ctrl-C, SIGTERM): save and stop.
    pub stop: &'a AtomicBool,
}

impl Run<'_> {
    /// Optimizer steps of the whole run.
    pub fn steps(&self) -> usize {
        let batches = self.batches.steps_in(self.recipe.epochs);
        self.recipe.max_steps.unwrap_or_else(|| batches.div_ceil(self.recipe.gradient_accumulation.max(1)))
    }

    /// Trains to the end, from the newest checkpoint in `dir` if `resume`.
    pub fn train(&mut self, resume: bool, on_event: &mut dyn FnMut(&Event)) -> Result<Outcome, TrainError> {
        let steps = self.steps();
        let mut progress = Progress::default();
        let mut notes = Vec::new();
        if resume {
            let restored =
                state::restore(self.vfs, self.dir, &self.recipe_hashes, &mut self.trainer, &mut self.batches)?;
            if let Some((found, warnings)) = restored {
                progress = found;
                notes = warnings;
            }
        }
        checkpoint::sweep(self.vfs, self.dir)?;
        let mut reporter = match resume {
            true => Reporter::resume(self.vfs, self.dir, progress.log_bytes)?,
            false => Reporter::create(self.vfs, self.dir)?,
        };
        let start = self.start_event(progress.step, steps);
        if progress.step > 0 {
            // The log of the first part has its start already.
            on_event(&start);
        }
        let mut say = |event: Event, reporter: &mut Reporter| -> Result<(), TrainError> {
            on_event(&event);
            Ok(reporter.on_event(&event)?)
        };
        if progress.step == 0 {
            say(start, &mut reporter)?;
        }
        for text in notes {
            say(Event::Note { text }, &mut reporter)?;
        }

        let (mut times, mut rates) = (Vec::new(), Vec::new());
        let mut reason = EndReason::Done;
        // What a signal broke off in the last part of the run comes first in this one.
        if progress.eval_pending && !self.judge(&mut progress, &mut reporter, &mut say)? {
            reason = EndReason::Interrupted;
        }
        while reason == EndReason::Done && progress.step < steps {
            if self.waited_long_enough(&progress) {
                reason = EndReason::EarlyStop;
                break;
            }
            if self.stop.load(Ordering::Relaxed) {
                reason = EndReason::Interrupted;
                break;
            }
            // One step.
            let started = Instant::now();
            let step = progress.step + 1;
            let accumulation = self.recipe.gradient_accumulation.max(1);
            let batches: Vec<Batch> = (0..accumulation).map(|_| self.batches.next_batch()).collect();
            let lr =
                schedule::learning_rate(&self.recipe.schedule, self.recipe.optimizer.learning_rate, step - 1, steps);
            let done = self.trainer.step(&batches, step, progress.tokens, lr, self.recipe.max_grad_norm)?;
            let step_s = started.elapsed().as_secs_f64();
            progress.step = step;
            progress.tokens += done.tokens as u64;
            progress.train_s += step_s;
            times.push(step_s);
            rates.push(done.tokens as f64 / step_s);
            let loss_scale = self.trainer.loss_scale.map(|scale| scale.factor);
            if done.skipped {
                say(skipped(step, done, loss_scale), &mut reporter)?;
            } else if step.is_multiple_of(self.recipe.log_every.max(1)) || step == steps {
                let event = Event::Step {
                    step,
                    loss: done.loss,
                    grad_norm: done.grad_norm,
                    learning_rate: lr,
                    tokens: done.tokens,
                    loss_tokens: done.loss_tokens,
                    step_s,
                    memory_bytes: resident::peak_bytes(),
                    loss_scale,
                };
                say(event, &mut reporter)?;
            }

            // Once in a while: the loss on held-out data, and whether to go on.
            let last = step == steps;
            if !self.valid.is_empty() && (last || due(step, self.recipe.eval_every)) {
                progress.eval_pending = true;
                if !self.judge(&mut progress, &mut reporter, &mut say)? {
                    reason = EndReason::Interrupted;
                    break;
                }
            }
            if !last && !self.waited_long_enough(&progress) && due(step, self.recipe.save_every) {
                self.save(&mut progress, &mut reporter, &mut say)?;
            }
        }

        self.save(&mut progress, &mut reporter, &mut say)?;
        if reason != EndReason::Interrupted && self.recipe.patience > 0 && progress.best_loss.is_some() {
            state::load_best(self.vfs, self.dir, &mut self.trainer, &progress)?;
        }
        self.trainer.release()?;
        say(Event::End { step: progress.step, reason }, &mut reporter)?;
        // From the log, which also has the steps of earlier parts of the run.
        let logged = &reporter.metrics().steps;
        let tail = &logged[logged.len().saturating_sub(10)..];
        Ok(Outcome {
            reason,
            steps,
            train_loss: tail.iter().map(|s| s.loss).sum::<f64>() / tail.len().max(1) as f64,
            valid_loss: progress.valid_loss,
            step_s: median(&mut times),
            tokens_per_s: median(&mut rates),
            peak_memory_bytes: resident::peak_bytes(),
            progress,
        })
    }

    /// Does the evaluation that is due, and keeps the parameters if they are the best so far. False: a signal broke it off,
    /// and it stays due.
    fn judge(&self, progress: &mut Progress, reporter: &mut Reporter, say: &mut Say) -> Result<bool, TrainError> {
        let Some((loss, tokens)) = self.evaluate()? else { return Ok(false) };
        let best = loss.is_finite() && progress.best_loss.is_none_or(|b| loss < b);
        progress.eval_pending = false;
        progress.valid_loss = Some(loss);
        progress.evals_since_best = if best { 0 } else { progress.evals_since_best + 1 };
        if best {
            progress.best_loss = Some(loss);
            if self.recipe.patience > 0 {
                progress.best_hash = Some(state::save_best(self.vfs, self.dir, &self.trainer)?);
            }
        }
        say(Event::Eval { step: progress.step, loss, tokens, best }, reporter)?;
        Ok(true)
    }

    /// Mean loss over the held-out data, and the tokens it was taken over; `None` if a signal came before its end.
    pub fn evaluate(&self) -> Result<Option<(f64, usize)>, ReadError> {
        let budget = self.recipe.batch_size.max(1) * self.recipe.data.max_length;
        let (mut sum, mut tokens, mut start) = (0.0, 0, 0);
        while start < self.valid.len() {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let (mut end, mut size) = (start, 0);
            while end < self.valid.len() && (end == start || size + self.valid[end].ids.len() <= budget) {
                size += self.valid[end].ids.len();
                end += 1;
            }
            let (loss, count) = self.trainer.evaluate(&Batch::of(&self.valid[start..end]))?;
            sum += loss;
            tokens += count;
            start = end;
        }
        Ok(Some((sum / tokens.max(1) as f64, tokens)))
    }

    /// Whether so many evaluations in a row were no better that the run ends here. Asked of the saved state, so that a run
    /// that has ended this way and is resumed does not go on.
    fn waited_long_enough(&self, progress: &Progress) -> bool {
        self.recipe.patience > 0 && progress.evals_since_best >= self.recipe.patience
    }

    /// Writes a checkpoint, unless what is trained is no longer numbers: an update may do that with a gradient that was one.
    fn save(&self, progress: &mut Progress, reporter: &mut Reporter, say: &mut Say) -> Result<(), TrainError> {
        self.trainer.check_finite(progress.step)?;
        progress.log_bytes = reporter.sync()?;
        progress.cursor = Some(self.batches.cursor());
        progress.loss_scale = self.trainer.loss_scale;
        let keep = self.recipe.save_limit;
        let saved = state::save(self.vfs, self.dir, &self.recipe_hashes[0], &self.trainer, progress, keep)?;
        for text in saved.warnings {
            say(Event::Note { text }, reporter)?;
        }
        say(Event::Checkpoint { step: progress.step, path: saved.path.display().to_string() }, reporter)
    }

    fn start_event(&self, step: usize, steps: usize) -> Event {
        let size = |p| {
            let (n, k) = self.trainer.model.params.weight(p).shape();
            n * k
        };
        let trained: usize = self.trainer.trained.iter().map(|&p| size(p)).sum();
        let total: usize = self.trainer.model.params.ids().map(size).sum();
        let epoch_steps = self.batches.steps_per_epoch().div_ceil(self.recipe.gradient_accumulation.max(1));
        Event::Start { step, steps, epoch_steps, trainable: trained, total_params: total }
    }
}

/// What became of a step whose gradients did not fit into f16.
fn skipped(step: usize, done: StepResult, loss_scale: Option<f64>) -> Event {
    let why = match done.loss.is_finite() {
        true => format!("the gradient norm is {}", done.grad_norm),
        false => format!("the loss is {}", done.loss),
    };
    Event::Skipped { step, why, loss_scale: loss_scale.expect("steps are skipped for the sake of the scale") }
}

fn due(step: usize, every: usize) -> bool {
    every > 0 && step.is_multiple_of(every)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
