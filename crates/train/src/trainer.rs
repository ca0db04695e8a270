//! [`Trainer`]: one optimizer step on a model: forward and backward over ragged batches, clipping, update. The dry device
//! runs the same code, which is where forecasts come from.
//!
//! Knows no files, no recipe and no clock; the loop in `run.rs` does.

use std::sync::Arc;

use ounce_data::Batch;
use ounce_model::{Model, Training};
use ounce_optim::{Optimizer, Rounding, State, StepContext, clip};
use ounce_tensor::kernels::In;
use ounce_tensor::{
    Accumulate, Cost, Device, Elem, Loss, MemoryUse, ParamId, Policy, Purpose, Random, Rehearsal, Rows, Stage, Tensor,
    Weight,
};

/// A model in training.
pub struct Trainer {
    pub device: Device,
    pub model: Model,
    /// The trained parameters, in the order of everything that is saved.
    pub trained: Vec<ParamId>,
    pub states: Vec<State>,
    optimizer: Box<dyn Optimizer>,
    sink: Accumulate,
    wanted: Vec<bool>,
    policies: Vec<Policy>,
    micro_batch_tokens: usize,
    elem: Elem,
    seed: u64,
    /// Examples of the last step's batches.
    examples: Vec<u32>,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// Mean over the tokens that bear loss.
    pub loss: f64,
    pub grad_norm: f64,
    pub tokens: usize,
    pub loss_tokens: usize,
}

/// A loss or a gradient that is not a number, before an update; or a parameter, after one. Nothing of it was saved.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "step {step}: the {what} is {value}; the examples of the batch are {examples:?}; nothing of this step was saved"
)]
pub struct NonFinite {
    pub step: usize,
    /// `loss`, `gradient norm`, or a parameter's name.
    pub what: String,
    pub value: f64,
    /// Of the step's batches, as indices into the data set; empty if the step was done by another process.
    pub examples: Vec<u32>,
}

impl Trainer {
    /// `keep`: for each block, whether its activations are kept (or recomputed). Blocks beyond its end are kept.
    pub fn new(
        device: &Device,
        model: Model,
        trained: Vec<ParamId>,
        optimizer: Box<dyn Optimizer>,
        elem: Elem,
        keep: &[bool],
        seed: u64,
    ) -> Trainer {
        let mut wanted = vec![false; model.params.len()];
        for p in &trained {
            wanted[p.0 as usize] = true;
        }
        let policies = policies(model.family.blocks(), keep);
        let sink = Accumulate::new(device, &model.params, &trained);
        let elements = |p: &ParamId| {
            let (n, k) = model.params.weight(*p).shape();
            n * k
        };
        let states = match device.is_dry() {
            true => Vec::new(),
            false => trained.iter().map(|p| optimizer.init(elements(p))).collect(),
        };
        let device = device.clone();
        let (micro_batch_tokens, examples) = (0, Vec::new());
        Trainer {
            device,
            model,
            trained,
            states,
            optimizer,
            sink,
            wanted,
            policies,
            micro_batch_tokens,
            elem,
            seed,
            examples,
        }
    }

    /// Chooses again which blocks keep their activations.
    pub fn set_keep(&mut self, keep: &[bool]) {
        self.policies = policies(self.model.family.blocks(), keep);
    }

    /// Puts at most `tokens` tokens (whole sequences) through the model at once; 0: whole batches. Changes how sums of gradients
    /// are rounded, and so is part of what makes a run the same run.
    pub fn set_micro_batch(&mut self, tokens: usize) {
        self.micro_batch_tokens = tokens;
    }

    /// Runs steps over batches like these without an update, and counts. On the dry device this costs next to nothing. The
    /// peak is that of the worst batch, the work that of all together.
    pub fn rehearse(&mut self, batches: &[Batch]) -> Rehearsal {
        self.device.arena().trim();
        self.device.arena().reset_peak();
        self.device.take_counter();
        for batch in batches {
            self.sink.clear(&self.device);
            self.accumulate(batch, batch.loss_tokens(), 1, 0);
            self.trained.iter().for_each(|&p| {
                self.gradient_sum_squares(p);
            });
            if self.device.is_dry() {
                self.update(1, 0.0, 0.0);
            }
        }
        Rehearsal { memory: self.device.memory(), counter: self.device.take_counter() }
    }

    /// One step over `batches` (more than one: gradient accumulation; their tokens are weighted alike). `step` counts from 1;
    /// `first_row` is the number of tokens that all earlier steps of the run saw.
    pub fn step(
        &mut self,
        batches: &[Batch],
        step: usize,
        first_row: u64,
        lr: f64,
        max_grad_norm: f32,
    ) -> Result<StepResult, NonFinite> {
        let tokens = batches.iter().map(Batch::tokens).sum();
        let loss_tokens: usize = batches.iter().map(Batch::loss_tokens).sum();
        self.examples = batches.iter().flat_map(|b| b.examples.iter().copied()).collect();
        self.sink.clear(&self.device);
        let (mut loss, mut row) = (0.0, first_row);
        for batch in batches {
            loss += self.accumulate(batch, loss_tokens, step, row);
            row += batch.tokens() as u64;
        }
        if !loss.is_finite() {
            return Err(self.bad(step, "loss", loss));
        }
        let sums: Vec<f64> = self.trained.iter().map(|p| self.gradient_sum_squares(*p)).collect();
        let clipped =
            clip::global_norm(sums, 1.0, max_grad_norm).map_err(|e| self.bad(step, "gradient norm", e.norm))?;
        self.update(step, lr, clipped.grad_scale);
        Ok(StepResult { loss, grad_norm: clipped.norm, tokens, loss_tokens })
    }

    /// Whether everything that is trained is a number, after `step`.
    pub fn check_finite(&self, step: usize) -> Result<(), NonFinite> {
        for &p in &self.trained {
            let bad = match self.tensor(p).input() {
                In::F32(values) => values.iter().copied().find(|v| !v.is_finite()),
                In::Bf16(values) => values.iter().find(|v| !v.is_finite()).map(|v| v.to_f32()),
            };
            if let Some(value) = bad {
                return Err(self.bad(step, &self.model.params[p].name, f64::from(value)));
            }
        }
        Ok(())
    }

    fn bad(&self, step: usize, what: &str, value: f64) -> NonFinite {
        NonFinite { step, what: what.to_owned(), value, examples: self.examples.clone() }
    }

    /// Sum of cross-entropies and number of tokens that bear loss, without dropout or gradients.
    pub fn evaluate(&self, batch: &Batch) -> (f64, usize) {
        let (rows, count) = (rows_of(batch, 1, 0), batch.loss_tokens());
        let policies = vec![Policy::Recompute; self.policies.len()];
        let training = Training { family: &*self.model.family, elem: self.elem };
        let range = 0..self.model.segments();
        let stage = Stage { model: &training, range, policies: &policies, wanted: &[], random: None };
        let pass = stage.forward(&self.device, &self.model.params, &rows, Vec::new());
        (self.scalar(&pass.outputs[0]), count)
    }

    pub fn memory(&self) -> MemoryUse {
        self.device.memory()
    }

    /// Bytes of optimizer state, also before it exists.
    pub fn optimizer_bytes(&self) -> usize {
        let bytes = |p: &ParamId| {
            let (n, k) = self.model.params.weight(*p).shape();
            self.optimizer.state_bytes(n * k)
        };
        self.trained.iter().map(bytes).sum()
    }

    /// The values of a trained parameter.
    pub fn tensor(&self, p: ParamId) -> &Tensor {
        match self.model.params.weight(p) {
            Weight::Dense(t) => t,
            Weight::Stored { .. } => unreachable!("trained parameters are dense"),
        }
    }

    pub fn tensor_mut(&mut self, p: ParamId) -> &mut Tensor {
        match &mut self.model.params[p].weight {
            Weight::Dense(t) => t,
            Weight::Stored { .. } => unreachable!("trained parameters are dense"),
        }
    }

    /// Adds one batch's gradients to the sink, part by part; returns its share of the mean loss.
    fn accumulate(&mut self, batch: &Batch, loss_tokens: usize, step: usize, first_row: u64) -> f64 {
        let (mut loss, mut row) = (0.0, first_row);
        for part in batch.parts(self.micro_batch_tokens) {
            loss += self.accumulate_part(&part, loss_tokens, step, row);
            row += part.tokens() as u64;
        }
        loss
    }

    fn accumulate_part(&mut self, batch: &Batch, loss_tokens: usize, step: usize, first_row: u64) -> f64 {
        let rows = rows_of(batch, loss_tokens, first_row);
        let training = Training { family: &*self.model.family, elem: self.elem };
        let stage = Stage {
            model: &training,
            range: 0..self.policies.len(),
            policies: &self.policies,
            wanted: &self.wanted,
            random: Some(Random { seed: self.seed, step: step as u64 }),
        };
        let pass = stage.forward(&self.device, &self.model.params, &rows, Vec::new());
        let loss = pass.outputs[0].clone();
        let one = Tensor::from_f32(&self.device, &[1.0], 1, 1, Purpose::Activations);
        let grads = vec![Some(one), None];
        stage.backward(&self.device, &mut self.model.params, &mut self.sink, &rows, pass, grads);
        self.scalar(&loss)
    }

    fn scalar(&self, t: &Tensor) -> f64 {
        if self.device.is_dry() { 0.0 } else { t.f32()[0] as f64 }
    }

    fn gradient_sum_squares(&self, p: ParamId) -> f64 {
        let grad = self.sink.grad(p).expect("trained");
        let mut sum = 0.0;
        self.device.run(Cost::elementwise(grad.len(), 4), |cpu| sum = cpu.sum_squares(grad.input()));
        sum
    }

    fn update(&mut self, step: usize, lr: f64, grad_scale: f32) {
        let random = Random { seed: self.seed, step: step as u64 };
        for (i, &p) in self.trained.iter().enumerate() {
            let grad = self.sink.grad(p).expect("trained");
            let cost =
                Cost::elementwise(grad.len(), 8 + 2 * self.optimizer.state_bytes(grad.len()) / grad.len().max(1));
            let Weight::Dense(param) = &mut self.model.params[p].weight else {
                unreachable!("trained parameters are dense")
            };
            let (optimizer, state) = (&self.optimizer, self.states.get_mut(i));
            let rounding = Rounding { key: random.parameter_key(p), first: 0 };
            let at = StepContext { step, lr, grad_scale, rounding };
            self.device.run(cost, |cpu| {
                optimizer.step(cpu, param.output(), grad.f32(), state.expect("a state for each parameter"), &at)
            });
        }
    }
}

fn policies(blocks: usize, keep: &[bool]) -> Vec<Policy> {
    let policy = |block: usize| match keep.get(block) {
        Some(false) => Policy::Recompute,
        _ => Policy::Keep,
    };
    // The embedding has nothing to recompute, and the head is walked back at once.
    let ends = std::iter::once(Policy::Keep);
    ends.clone().chain((0..blocks).map(policy)).chain(ends).collect()
}

/// A batch for the model: the loss is the mean over `loss_tokens` tokens.
fn rows_of(batch: &Batch, loss_tokens: usize, first_row: u64) -> Rows {
    let mut rows = Rows::whole(batch.ids.clone(), &batch.bounds);
    let weight = 1.0 / loss_tokens.max(1) as f32;
    let weights: Arc<[f32]> = batch.weights.iter().map(|w| w * weight).collect();
    rows.loss = Some(Loss { targets: batch.targets.as_slice().into(), weights });
    rows.first_row = first_row;
    rows
}
