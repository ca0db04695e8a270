//! [`Engine`]: continuous batching over a fixed number of cache slots. Running sequences decode one token a step; prompts are
//! taken in chunks beside them. A slot remembers the tokens in its cache, so a prompt that begins like an earlier one
//! (the next turn of a chat, a shared instruction) computes only what is new.

use std::collections::VecDeque;

use ounce_model::adapters::{self, Adapter, Layers};
use ounce_model::{Kv, Model};
use ounce_tensor::{AdapterId, Device, Elem, ReadError};

use crate::adapters::{Adapters, ranges};
use crate::sampler::{Sampler, logprob, top_logprobs};
use crate::sequence::{Finish, Output, Request, Scored, SeqId, Sequence};

/// Rows of a prompt in one step where the logits of all are wanted: with 262,144 tokens to choose from, 64 rows are 64 MiB.
const SCORED_ROWS: usize = 64;

/// Sizes of an engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Sequences that run at once.
    pub slots: usize,
    /// Positions of each.
    pub context: usize,
    /// Prompt tokens in one step.
    pub prefill_chunk: usize,
    /// Use int8 products on quantised weights: faster, and rounded (about 1e-2 relative on the logits).
    pub int8: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { slots: 1, context: 4096, prefill_chunk: 512, int8: true }
    }
}

/// A request that cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the prompt is empty")]
    Empty,
    #[error(
        "the prompt has {prompt} tokens, but the context has {context} positions and the answer needs at least one"
    )]
    TooLong { prompt: usize, context: usize },
    #[error("the prompt has token {token}, but the vocabulary ends at {vocab}")]
    Token { token: u32, vocab: usize },
    #[error("its adapter has been taken away")]
    Adapter,
}

/// A request that was not answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Streamed weights that could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Refusal {
    /// Whether a prompt can run where the context has `context` positions and the vocabulary `vocab` tokens.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check(prompt: &[u32], context: usize, vocab: usize) -> Result<(), Refusal> {
        if prompt.is_empty() {
            return Err(Refusal::Empty);
        }
        if prompt.len() >= context {
            return Err(Refusal::TooLong { prompt: prompt.len(), context });
        }
        match prompt.iter().find(|&&t| t as usize >= vocab) {
            Some(&token) => Err(Refusal::Token { token, vocab }),
            None => Ok(()),
        }
    }
}

pub struct Engine {
    device: Device,
    model: Model,
    kv: Kv,
    settings: Settings,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// For each slot, the tokens whose keys and values it holds, and the adapter that made them.
    memory: Vec<Vec<u32>>,
    owners: Vec<Option<AdapterId>>,
    adapters: Adapters,
    next: u64,
}

impl Engine {
    pub fn new(device: &Device, mut model: Model, settings: Settings) -> Engine {
        if settings.int8 {
            model.interleave(device);
        }
        let context = settings.context.min(model.context);
        let settings = Settings { context, slots: settings.slots.max(1), ..settings };
        let kv = Kv::new(device, &model.config, Elem::F32, settings.slots, context);
        let (memory, owners) = (vec![Vec::new(); settings.slots], vec![None; settings.slots]);
        let (device, adapters) = (device.clone(), Adapters::default());
        let (waiting, running) = (VecDeque::new(), Vec::new());
        Engine { device, model, kv, settings, waiting, running, memory, owners, adapters, next: 0 }
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes the model (adapters on or off). What the cache remembers is forgotten.
    pub fn change_model<T>(&mut self, change: impl FnOnce(&mut Model) -> T) -> T {
        self.memory.iter_mut().for_each(Vec::clear);
        change(&mut self.model)
    }

    /// What adapters for this engine are read and checked against, wherever that is done.
    pub fn layers(&self) -> Layers {
        Layers::of(&self.model, &self.device)
    }

    /// Puts an adapter beside the base and the others: requests may name it.
    pub fn load_adapter(&mut self, adapter: Adapter) -> AdapterId {
        let id = self.adapters.open();
        adapter.put_beside(&mut self.model, id);
        id
    }

    /// Requests that name the adapter are refused from now on. Its memory is free once the last sequence of it has ended.
    pub fn drop_adapter(&mut self, id: AdapterId) {
        self.adapters.close(id);
        self.free_adapters();
    }

    fn free_adapters(&mut self) {
        let sequences = self.waiting.iter().chain(&self.running);
        for id in self.adapters.gone(sequences.filter_map(|s| s.adapter)) {
            adapters::take_from_beside(&mut self.model, id);
        }
    }

    /// Queues a request.
    pub fn submit(&mut self, request: Request) -> Result<SeqId, Refusal> {
        Refusal::check(&request.prompt, self.settings.context, self.model.config.vocab_size)?;
        if request.adapter.is_some_and(|id| !self.adapters.has(id)) {
            return Err(Refusal::Adapter);
        }
        let id = SeqId(self.next);
        self.next += 1;
        let sampler = Sampler::new(&request.params, &request.prompt);
        let Request { prompt: tokens, params, adapter, constraint } = request;
        let prompt_len = tokens.len();
        let (slot, cached) = (0, 0);
        let sequence = Sequence { id, tokens, prompt_len, params, sampler, adapter, constraint, slot, cached };
        self.waiting.push_back(sequence);
        Ok(id)
    }

    /// Drops a request, wherever it stands.
    pub fn cancel(&mut self, id: SeqId) {
        self.waiting.retain(|s| s.id != id);
        if let Some(i) = self.running.iter().position(|s| s.id == id) {
            self.retire(i);
        }
        self.free_adapters();
    }

    /// Whether anything waits or runs.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Sequences that have a slot, and sequences that wait for one.
    pub fn load(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// The share of the cache's positions that running sequences fill.
    pub fn cache_usage(&self) -> f64 {
        let filled: usize = self.running.iter().map(|s| s.cached).sum();
        filled as f64 / (self.settings.slots * self.settings.context) as f64
    }

    /// Schedules, runs the model once, accepts. After a failure everything stands where it stood before the step.
    pub fn step(&mut self) -> Result<Vec<Output>, ReadError> {
        let mut out = Vec::new();
        self.admit(&mut out);
        let parts = self.schedule();
        if parts.is_empty() {
            return Ok(out);
        }
        let slices: Vec<(usize, &[u32])> = parts
            .iter()
            .map(|&(i, n)| (self.running[i].slot, &self.running[i].tokens[self.running[i].cached..][..n]))
            .collect();
        let mut rows = self.kv.begin(&slices);
        rows.adapted = ranges(parts.iter().map(|&(i, n)| (n, self.running[i].adapter))).into();
        // Logits are needed where a sequence's last token is in the batch, and for prompts that are to be scored.
        let (mut asked, mut wanted) = (Vec::new(), Vec::new());
        let mut row = 0;
        for &(i, n) in &parts {
            let sequence = &self.running[i];
            let from = if sequence.is_scored() { 0 } else { n - 1 };
            for r in from..n {
                let next = sequence.cached + r + 1;
                if next == sequence.tokens.len() || sequence.is_scored() {
                    asked.push((i, next));
                    wanted.push((row + r) as u32);
                }
            }
            row += n;
        }
        let logits = self.model.infer(&self.device, &rows, &mut self.kv, &wanted, self.settings.int8);
        let logits = logits.inspect_err(|_| {
            for &(i, _) in &parts {
                self.kv.truncate(self.running[i].slot, self.running[i].cached);
            }
        })?;
        for &(i, n) in &parts {
            let sequence = &mut self.running[i];
            self.memory[sequence.slot].extend_from_slice(&sequence.tokens[sequence.cached..][..n]);
            sequence.cached += n;
        }
        let v = logits.cols();
        let mut ended = Vec::new();
        for (k, &(i, next)) in asked.iter().enumerate() {
            let logits = &logits.f32()[k * v..(k + 1) * v];
            let sequence = &mut self.running[i];
            if let Some(&token) = sequence.tokens.get(next) {
                let top = top_logprobs(logits, sequence.params.prompt_logprobs.unwrap_or(0));
                let token = Scored { token, logprob: logprob(logits, token), top };
                out.push(Output::Prompt { id: sequence.id, token });
                continue;
            }
            let choice = match sequence.draw(logits) {
                Ok(choice) => choice,
                Err(reason) => {
                    ended.push((i, reason, None));
                    continue;
                }
            };
            let top = top_logprobs(logits, sequence.params.logprobs);
            let scored = Scored { token: choice.token, logprob: choice.logprob, top };
            if let Some((reason, token)) = self.accept(i, scored, &mut out) {
                ended.push((i, reason, token));
            }
        }
        // From the last on: who ends leaves its place to the last.
        ended.sort_by_key(|(i, ..)| std::cmp::Reverse(*i));
        for (i, reason, token) in ended {
            out.push(Output::Finished { id: self.running[i].id, reason, token });
            self.retire(i);
        }
        self.free_adapters();
        Ok(out)
    }

    /// Runs one request to its end. `on_step` gets the token of each step, or nothing after a step that read a part of a long
    /// prompt, and ends the request by returning false.
    pub fn run(&mut self, request: Request, mut on_step: impl FnMut(Option<u32>) -> bool) -> Result<Finish, Failure> {
        let id = self.submit(request)?;
        loop {
            let (mut token, mut finish) = (None, None);
            let outputs = self.step().inspect_err(|_| self.cancel(id))?;
            for output in outputs {
                match output {
                    Output::Token { id: of, token: chosen } if of == id => token = Some(chosen.token),
                    Output::Finished { id: of, reason, .. } if of == id => finish = Some(reason),
                    _ => {}
                }
            }
            // A sequence may end with a token or without one.
            let go_on = (token.is_none() && finish.is_some()) || on_step(token);
            match finish {
                Some(reason) => return Ok(if go_on { reason } else { Finish::Stop }),
                None if !go_on => {
                    self.cancel(id);
                    return Ok(Finish::Stop);
                }
                None => {}
            }
        }
    }

    /// Gives waiting sequences free slots: the one that remembers the longest common beginning.
    fn admit(&mut self, out: &mut Vec<Output>) {
        while self.running.len() < self.settings.slots {
            let Some(mut sequence) = self.waiting.pop_front() else { return };
            let busy = |slot: &usize| self.running.iter().any(|s| s.slot == *slot);
            // At least one token must run to give logits; all of them where each is scored.
            let limit = if sequence.params.prompt_logprobs.is_some() { 0 } else { sequence.tokens.len() - 1 };
            // What another adapter made of the same tokens is something else.
            let shared = |slot: usize| match self.owners[slot] == sequence.adapter {
                true => common(&self.memory[slot], &sequence.tokens).min(limit),
                false => 0,
            };
            let free: Vec<usize> = (0..self.settings.slots).filter(|s| !busy(s)).collect();
            let Some(&slot) = free
                .iter()
                .max_by_key(|&&s| (shared(s), std::cmp::Reverse(self.memory[s].len()), std::cmp::Reverse(s)))
            else {
                return self.waiting.push_front(sequence);
            };
            let kept = shared(slot);
            self.kv.truncate(slot, kept);
            self.memory[slot].truncate(kept);
            self.owners[slot] = sequence.adapter;
            (sequence.slot, sequence.cached) = (slot, kept);
            out.push(Output::Started { id: sequence.id, cached: kept });
            self.running.push(sequence);
        }
    }

    /// Which running sequences take part in this step, and with how many tokens: all that decode, and prompts up to the chunk.
    fn schedule(&self) -> Vec<(usize, usize)> {
        let mut budget = self.settings.prefill_chunk.max(1);
        let mut parts = Vec::new();
        for (i, sequence) in self.running.iter().enumerate() {
            let left = sequence.tokens.len() - sequence.cached;
            let most = if sequence.is_scored() { SCORED_ROWS } else { usize::MAX };
            let n = if left == 1 { 1 } else { left.min(budget).min(most) };
            if left > 1 {
                budget -= n;
            }
            if n > 0 {
                parts.push((i, n));
            }
        }
        // Rows of one adapter are multiplied together.
        parts.sort_by_key(|&(i, _)| self.running[i].adapter);
        parts
    }

    /// Takes a sampled token into sequence `i`, or says why it ends and with which token.
    fn accept(&mut self, i: usize, scored: Scored, out: &mut Vec<Output>) -> Option<(Finish, Option<Scored>)> {
        let (sequence, token) = (&mut self.running[i], scored.token);
        let heeds_eos = !sequence.params.ignore_eos || sequence.constraint.is_some();
        let ends = heeds_eos && self.model.config.eos_token_id.contains(&token);
        if ends || sequence.params.stop_tokens.contains(&token) {
            return Some((Finish::Stop, Some(scored)));
        }
        sequence.tokens.push(token);
        out.push(Output::Token { id: sequence.id, token: scored });
        if let Some(constraint) = &mut sequence.constraint {
            match constraint.accept(token) {
                Err(_) => return Some((Finish::Unmet, None)),
                Ok(()) if constraint.is_complete() => return Some((Finish::Stop, None)),
                Ok(()) => {}
            }
        }
        let answered = sequence.tokens.len() - sequence.prompt_len;
        let full = sequence.tokens.len() >= self.settings.context;
        (full || answered >= sequence.params.max_tokens).then_some((Finish::Length, None))
    }

    fn retire(&mut self, i: usize) {
        self.running.swap_remove(i);
    }
}

/// Length of the common beginning.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}
