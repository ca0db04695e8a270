//! [`Trainer`]: one optimizer step on a model: forward and backward over ragged batches, clipping, update (at the end, or as
//! the gradients come). The dry device runs the same code, which is where forecasts come from.
//!
//! Knows no files, no recipe and no clock; the loop in `run.rs` does.

use std::cmp::Reverse;
use std::sync::Arc;

use ounce_data::Batch;
use ounce_formats::scratch::ScratchFile;
use ounce_model::{Model, Training};
use ounce_optim::{Optimizer, State, clip};
use ounce_spec::recipe::Gradients;
use ounce_tensor::{
    Accumulate, Device, Elem, MemoryUse, Offload, ParamId, Policy, Random, ReadError, Rehearsal, Stage, Store, Tensor,
    UpdateNow, Weight,
};

use crate::pass::{from_loss, policies, rows_of, scalar, stage};
use crate::scale::LossScale;
use crate::step::{NonFinite, StepError, StepResult};
use crate::tiers::Tiers;
use crate::update::{Updates, sum_squares};

/// A model in training.
pub struct Trainer {
    pub device: Device,
    pub model: Model,
    /// The trained parameters, in the order of everything that is saved.
    pub trained: Vec<ParamId>,
    /// Empty ones for what is in `tiers`, as on the dry device.
    pub states: Vec<State>,
    /// Where activations are f16.
    pub loss_scale: Option<LossScale>,
    /// Where what is trained is on disk.
    pub tiers: Option<Tiers>,
    pub optimizer: Box<dyn Optimizer>,
    gradients: Gradients,
    sink: Accumulate,
    wanted: Vec<bool>,
    policies: Vec<Policy>,
    offload: Option<Offload>,
    micro_batch_tokens: usize,
    elem: Elem,
    seed: u64,
    /// Examples of the last step's batches.
    examples: Vec<u32>,
}

/// What a step knows of one of its batches.
#[derive(Clone, Copy)]
struct Place {
    step: usize,
    first_row: u64,
    /// Of the whole step.
    loss_tokens: usize,
}

/// What a pass with immediate updates leaves: the `Σ g²` of each trained parameter, up to one that is not finite.
struct Updated {
    sums: Vec<f64>,
    bad: Option<(usize, f64)>,
}

impl Trainer {
    /// `activations`: for each block, what it does with them. Blocks beyond its end keep them.
    pub fn new(
        device: &Device,
        model: Model,
        trained: Vec<ParamId>,
        optimizer: Box<dyn Optimizer>,
        gradients: Gradients,
        elem: Elem,
        activations: &[Policy],
        seed: u64,
    ) -> Trainer {
        let mut wanted = vec![false; model.params.len()];
        for p in &trained {
            wanted[p.0 as usize] = true;
        }
        let policies = policies(model.family.blocks(), activations);
        let offload = device.is_dry().then(|| Offload::dry(device));
        let sink = match gradients {
            Gradients::Accumulate => Accumulate::new(device, &model.params, &trained),
            Gradients::UpdateNow => Accumulate::on_demand(&model.params, &trained),
        };
        // What is not dense goes to disk, and its state with it.
        let state = |p: &ParamId| match model.params.weight(*p) {
            Weight::Dense(t) => optimizer.init(t.len()),
            Weight::Stored { .. } => State::default(),
        };
        let states = match device.is_dry() {
            true => Vec::new(),
            false => trained.iter().map(state).collect(),
        };
        let loss_scale = (elem == Elem::F16).then(LossScale::default);
        let device = device.clone();
        let (micro_batch_tokens, examples) = (0, Vec::new());
        Trainer {
            device,
            model,
            trained,
            states,
            loss_scale,
            tiers: None,
            optimizer,
            gradients,
            sink,
            wanted,
            policies,
            offload,
            micro_batch_tokens,
            elem,
            seed,
            examples,
        }
    }

    /// Moves the trained matrices, as `masters`, and their moments to `file` (none on the dry device); a new run begins there.
    /// `let_go` is called in between: parts of what the model was loaded from are not needed any more.
    ///
    /// # Errors
    /// A disk that is too full, found before anything is written, or that fails.
    pub fn move_to_disk(
        &mut self,
        masters: Elem,
        file: Option<ScratchFile>,
        let_go: &dyn Fn(),
    ) -> Result<(), ReadError> {
        let layout = self.optimizer.layout();
        let tiers = Tiers::new(&self.device, &mut self.model, &self.trained, masters, layout, file, let_go)?;
        for (i, state) in self.states.iter_mut().enumerate() {
            if tiers.has(i) {
                *state = State::default();
            }
        }
        self.tiers = Some(tiers);
        Ok(())
    }

    /// Chooses again what each block does with its activations.
    pub fn set_activations(&mut self, activations: &[Policy]) {
        self.policies = policies(self.model.family.blocks(), activations);
    }

    /// Where activations go that are not to be in memory. Without it, none may be offloaded on a real device.
    pub fn offload_to(&mut self, store: Arc<dyn Store>) -> std::io::Result<()> {
        self.offload = Some(Offload::new(&self.device, store)?);
        Ok(())
    }

    /// Puts at most `tokens` tokens (whole sequences) through the model at once; 0: whole batches, as always where gradients are
    /// not accumulated. Changes how sums of gradients are rounded, and so is part of what makes a run the same run.
    pub fn set_micro_batch(&mut self, tokens: usize) {
        self.micro_batch_tokens = tokens;
    }

    /// Runs steps over batches like these without an update, and counts. On the dry device this costs next to nothing. The
    /// peak is that of the worst batch, the work that of all together.
    pub fn rehearse(&mut self, batches: &[Batch]) -> Result<Rehearsal, ReadError> {
        self.device.arena().trim();
        self.repeat(batches)
    }

    /// The same with the buffers that earlier work left, as the steps of a run find them.
    pub fn repeat(&mut self, batches: &[Batch]) -> Result<Rehearsal, ReadError> {
        self.device.arena().reset_peak();
        self.device.take_counter();
        self.offload.as_ref().map(Offload::take_peak_bytes);
        for batch in batches {
            let place = Place { step: 1, first_row: 0, loss_tokens: batch.loss_tokens() };
            match self.gradients {
                Gradients::Accumulate => {
                    self.sink.clear(&self.device);
                    self.accumulate(batch, place)?;
                    self.trained.iter().for_each(|&p| {
                        sum_squares(&self.device, self.sink.grad(p).expect("trained"));
                    });
                    // What only moves bytes costs time too.
                    let dry = self.device.is_dry();
                    if dry || self.tiers.is_some() {
                        self.update(1, 1, 0.0, 0.0, dry)?;
                    }
                }
                Gradients::UpdateNow => {
                    let dry = self.device.is_dry();
                    self.pass_and_update(batch, place, 0.0, dry)?;
                }
            }
        }
        let offloaded_bytes = self.offload.as_ref().map_or(0, Offload::take_peak_bytes);
        Ok(Rehearsal { memory: self.device.memory(), counter: self.device.take_counter(), offloaded_bytes })
    }

    /// One step over `batches` (more than one: gradient accumulation; their tokens are weighted alike). `step` counts from 1;
    /// `first_row` is the number of tokens that all earlier steps of the run saw.
    ///
    /// # Errors
    /// A loss or gradient that is not finite. Where gradients are accumulated nothing is updated then. Where they are not, the
    /// loss is known before the backward pass and each gradient is looked at before its update, but parameters nearer to the
    /// loss have been updated: only a checkpoint leads back. With a loss scale that can still be halved it is no error: the
    /// step is skipped.
    pub fn step(
        &mut self,
        batches: &[Batch],
        step: usize,
        first_row: u64,
        lr: f64,
        max_grad_norm: f32,
    ) -> Result<StepResult, StepError> {
        let tokens = batches.iter().map(Batch::tokens).sum();
        let loss_tokens: usize = batches.iter().map(Batch::loss_tokens).sum();
        self.examples = batches.iter().flat_map(|b| b.examples.iter().copied()).collect();
        let place = Place { step, first_row, loss_tokens };
        if self.gradients == Gradients::UpdateNow {
            let allowed = batches.len() == 1 && max_grad_norm == 0.0 && self.loss_scale.is_none();
            assert!(allowed, "update_now: the recipe's check lets none of these through");
            let (loss, updated) = self.pass_and_update(&batches[0], place, lr, true)?;
            if !loss.is_finite() {
                return Err(self.bad(step, "loss", loss).into());
            }
            if let Some((i, sum)) = updated.bad {
                let name = &self.model.params[self.trained[i]].name;
                return Err(self.bad(step, &format!("gradient norm of {name}"), sum.sqrt()).into());
            }
            let grad_norm = updated.sums.iter().sum::<f64>().sqrt();
            return Ok(StepResult { loss, grad_norm, tokens, loss_tokens, skipped: false });
        }
        self.sink.clear(&self.device);
        let (mut loss, mut row) = (0.0, first_row);
        for batch in batches {
            loss += self.accumulate(batch, Place { first_row: row, ..place })?;
            if !loss.is_finite() {
                break;
            }
            row += batch.tokens() as u64;
        }
        let clipped = match loss.is_finite() {
            true => self.clip(max_grad_norm).map_err(|norm| ("gradient norm", norm)),
            false => Err(("loss", loss)),
        };
        let done = |grad_norm, skipped| StepResult { loss, grad_norm, tokens, loss_tokens, skipped };
        let (what, value) = match clipped {
            Ok(clipped) => {
                // Adam's correction counts updates.
                let update = step - self.loss_scale.map_or(0, |scale| scale.skipped);
                self.update(step, update, lr, clipped.grad_scale, true)?;
                self.loss_scale.iter_mut().for_each(LossScale::step_done);
                return Ok(done(clipped.norm, false));
            }
            Err(bad) => bad,
        };
        if self.loss_scale.as_mut().is_some_and(LossScale::skip) {
            return Ok(done(value, true));
        }
        let when = if self.loss_scale.is_some() { ", with a loss scale of 1," } else { "" };
        Err(self.bad(step, &format!("{what}{when}"), value).into())
    }

    /// The norm of the accumulated gradients and what to multiply them by; the norm if it is not finite.
    fn clip(&self, max_grad_norm: f32) -> Result<clip::Clip, f64> {
        let gradient = |p: &ParamId| sum_squares(&self.device, self.sink.grad(*p).expect("trained"));
        let sums: Vec<f64> = self.trained.iter().map(gradient).collect();
        clip::global_norm(sums, 1.0 / self.scale(), max_grad_norm).map_err(|e| e.norm)
    }

    /// What the loss is multiplied by before the backward pass.
    fn scale(&self) -> f64 {
        self.loss_scale.map_or(1.0, |scale| scale.factor)
    }

    pub(crate) fn bad(&self, step: usize, what: &str, value: f64) -> NonFinite {
        NonFinite { step, what: what.to_owned(), value, examples: self.examples.clone() }
    }

    /// Sum of cross-entropies and number of tokens that bear loss, without dropout or gradients.
    pub fn evaluate(&self, batch: &Batch) -> Result<(f64, usize), ReadError> {
        let (rows, count) = (rows_of(batch, 1, 0, 1.0), batch.loss_tokens());
        let policies = vec![Policy::Recompute; self.policies.len()];
        let training = Training { family: &*self.model.family, elem: self.elem };
        let range = 0..self.model.segments();
        let (random, offload) = (None, None);
        let stage = Stage { model: &training, range, policies: &policies, wanted: &[], random, offload };
        let pass = stage.forward(&self.device, &self.model.params, &rows, Vec::new())?;
        Ok((scalar(&pass.outputs[0], &self.device), count))
    }

    pub fn memory(&self) -> MemoryUse {
        self.device.memory()
    }

    /// Bytes of optimizer state that stays in memory, also before it exists.
    pub fn optimizer_bytes(&self) -> usize {
        let bytes = |(i, p): (usize, &ParamId)| {
            let (n, k) = self.model.params.weight(*p).shape();
            if self.tiers.as_ref().is_some_and(|tiers| tiers.has(i)) { 0 } else { self.optimizer.state_bytes(n * k) }
        };
        self.trained.iter().enumerate().map(bytes).sum()
    }

    /// Adds one batch's gradients to the sink, part by part; returns its share of the mean loss. A part whose loss is not
    /// finite has no gradients.
    fn accumulate(&mut self, batch: &Batch, place: Place) -> Result<f64, ReadError> {
        let (mut loss, mut first_row) = (0.0, place.first_row);
        for part in batch.parts(self.micro_batch_tokens) {
            loss += self.accumulate_part(&part, Place { first_row, ..place })?;
            first_row += part.tokens() as u64;
        }
        Ok(loss)
    }

    fn accumulate_part(&mut self, part: &Batch, place: Place) -> Result<f64, ReadError> {
        let scale = self.scale();
        let Trainer { device, model, sink, offload, .. } = self;
        let training = Training { family: &*model.family, elem: self.elem };
        let random = Random { seed: self.seed, step: place.step as u64 };
        let stage = stage(&training, &self.policies, &self.wanted, random, offload.as_ref());
        let rows = rows_of(part, place.loss_tokens, place.first_row, scale);
        let pass = stage.forward(device, &model.params, &rows, Vec::new())?;
        let loss = scalar(&pass.outputs[0], device) / scale;
        if loss.is_finite() {
            stage.backward(device, &mut model.params, sink, &rows, pass, from_loss(device))?;
        }
        Ok(loss)
    }

    /// One whole batch's part of the mean loss, and the updates that its backward pass made, up to the first gradient that is
    /// not finite. With a loss that is not finite there are none. Without `update` everything is done but them.
    fn pass_and_update(
        &mut self,
        batch: &Batch,
        place: Place,
        lr: f64,
        update: bool,
    ) -> Result<(f64, Updated), ReadError> {
        let Trainer { device, model, sink, trained, states, tiers, offload, .. } = self;
        let training = Training { family: &*model.family, elem: self.elem };
        let random = Random { seed: self.seed, step: place.step as u64 };
        let stage = stage(&training, &self.policies, &self.wanted, random, offload.as_ref());
        let rows = rows_of(batch, place.loss_tokens, place.first_row, 1.0);
        let mut updated = Updated { sums: vec![0.0; trained.len()], bad: None };
        let pass = stage.forward(device, &model.params, &rows, Vec::new())?;
        let loss = scalar(&pass.outputs[0], device);
        if !loss.is_finite() {
            return Ok((loss, updated));
        }
        let mut failed = None;
        tiers.iter_mut().try_for_each(Tiers::begin)?;
        let tiers = tiers.as_mut();
        let mut updates = Updates {
            device,
            optimizer: &*self.optimizer,
            trained,
            states,
            tiers,
            change: update,
            step: place.step,
            lr,
            random,
        };
        let mut on_gradient = |i: usize, weight: &mut Weight, grad: &Tensor| {
            if updated.bad.is_some() || failed.is_some() {
                return;
            }
            let sum = sum_squares(device, grad);
            if !sum.is_finite() {
                updated.bad = Some((i, sum));
                return;
            }
            updated.sums[i] = sum;
            failed = updates.apply(i, weight, grad, 1.0).err();
        };
        let mut now = UpdateNow::new(device, sink, trained, &mut on_gradient);
        stage.backward(device, &mut model.params, &mut now, &rows, pass, from_loss(device))?;
        now.finish(&mut model.params);
        failed.map_or(Ok((loss, updated)), Err)
    }

    /// Updates every parameter by the accumulated gradients, for the `update`-th time in this run, or (without `change`) moves
    /// what that would move.
    fn update(&mut self, step: usize, update: usize, lr: f64, grad_scale: f32, change: bool) -> Result<(), ReadError> {
        let Trainer { device, model, sink, trained, states, tiers, .. } = self;
        let random = Random { seed: self.seed, step: step as u64 };
        // As a backward pass meets them: what is on disk comes in this order, and what it left in memory is used first.
        let mut order: Vec<usize> = (0..trained.len()).collect();
        order.sort_by_key(|&i| Reverse(model.params.complete_at(trained[i])));
        tiers.iter_mut().try_for_each(Tiers::begin)?;
        let tiers = tiers.as_mut();
        let optimizer = &*self.optimizer;
        let mut updates = Updates { device, optimizer, trained, states, tiers, change, step: update, lr, random };
        for i in order {
            let p = trained[i];
            updates.apply(i, &mut model.params[p].weight, sink.grad(p).expect("trained"), grad_scale)?;
        }
        Ok(())
    }
}
