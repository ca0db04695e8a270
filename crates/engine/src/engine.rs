//! [`Engine`]: continuous batching over one cache in blocks. Running sequences decode one token a step; prompts are taken in chunks
//! beside them. A prompt that begins like an earlier one (the next turn of a chat, a shared instruction) computes only what is new.

use ounce_model::adapters::{self, Adapter, Layers};
use ounce_model::{Kv, Model};
use ounce_spec::ModelConfig;
use ounce_tensor::kernels::CacheType;
use ounce_tensor::{AdapterId, BLOCK, Device, ReadError};

use crate::adapters::{Adapters, ranges};
use crate::embedding::{Embedding, Embeddings};
use crate::sampler::{logprob, top_logprobs};
use crate::scheduler::{Scheduler, Turn};
use crate::sequence::{Finish, Output, Request, Scored, SeqId, Sequence};

/// Sizes of an engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Sequences that run at once.
    pub slots: usize,
    /// Positions of each, at most.
    pub context: usize,
    /// Prompt tokens in one step.
    pub prefill_chunk: usize,
    /// Use int8 products on quantised weights: faster, and rounded (about 1e-2 relative on the logits).
    pub int8: bool,
    /// What keys and values are kept as.
    pub cache: CacheType,
    /// Positions in the cache, at least those of one sequence; `None`: for as many full sequences as there are slots. With fewer,
    /// sequences share what there is, and wait where it is too little.
    pub cache_tokens: Option<usize>,
    /// Whether prompts may find their beginnings in the cache.
    pub prefix_cache: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        let (cache, cache_tokens, prefix_cache) = (CacheType::F32, None, true);
        Settings { slots: 1, context: 4096, prefill_chunk: 512, int8: true, cache, cache_tokens, prefix_cache }
    }
}

impl Settings {
    /// Blocks of the cache.
    pub fn blocks(&self) -> usize {
        let one = self.context.div_ceil(BLOCK);
        self.cache_tokens.map_or(self.slots * one, |tokens| tokens.div_ceil(BLOCK).max(one))
    }

    /// Bytes of the cache for a model, all of it filled.
    pub fn cache_bytes(&self, config: &ModelConfig) -> usize {
        self.blocks() * BLOCK * Kv::position_bytes(config, self.cache)
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
    #[error("the input has {input} tokens, but the context has {context} positions")]
    InputTooLong { input: usize, context: usize },
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
        Refusal::check_tokens(prompt, vocab)
    }

    /// Whether an input can be embedded: as [`Refusal::check`], with no room for an answer.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check_input(input: &[u32], context: usize, vocab: usize) -> Result<(), Refusal> {
        match input.len() {
            0 => Err(Refusal::Empty),
            n if n > context => Err(Refusal::InputTooLong { input: n, context }),
            _ => Refusal::check_tokens(input, vocab),
        }
    }

    fn check_tokens(tokens: &[u32], vocab: usize) -> Result<(), Refusal> {
        match tokens.iter().find(|&&t| t as usize >= vocab) {
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
    scheduler: Scheduler,
    adapters: Adapters,
    embeddings: Embeddings,
    next: u64,
}

impl Engine {
    pub fn new(device: &Device, mut model: Model, settings: Settings) -> Engine {
        if settings.int8 {
            model.interleave(device);
        }
        let context = settings.context.min(model.context);
        let settings = Settings { context, slots: settings.slots.max(1), ..settings };
        let kv = Kv::new(device, &model.config, settings.cache, settings.blocks());
        let (device, adapters) = (device.clone(), Adapters::default());
        let (scheduler, embeddings) = (Scheduler::new(settings), Embeddings::default());
        Engine { device, model, kv, settings, scheduler, adapters, embeddings, next: 0 }
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Bytes of the cache, all of it filled.
    pub fn cache_bytes(&self) -> usize {
        self.settings.cache_bytes(&self.model.config)
    }

    /// Changes the model (adapters on or off). What the cache holds is of no use to later requests.
    pub fn change_model<T>(&mut self, change: impl FnOnce(&mut Model) -> T) -> T {
        self.scheduler.forget();
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
        let used = self.scheduler.sequences().filter_map(|s| s.adapter).chain(self.embeddings.adapters());
        for id in self.adapters.gone(used) {
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
        self.scheduler.submit(Sequence::new(id, request));
        Ok(id)
    }

    /// Queues an input to be embedded; [`Engine::embed`] gives the vector.
    pub fn submit_embedding(&mut self, embedding: Embedding) -> Result<SeqId, Refusal> {
        Refusal::check_input(&embedding.input, self.settings.context, self.model.config.vocab_size)?;
        if embedding.adapter.is_some_and(|id| !self.adapters.has(id)) {
            return Err(Refusal::Adapter);
        }
        let id = SeqId(self.next);
        self.next += 1;
        self.embeddings.push(id, embedding);
        Ok(id)
    }

    /// Works on embeddings for about as long as a step on a prompt takes; the vectors of those that are done.
    pub fn embed(&mut self) -> Result<Vec<(SeqId, Vec<f32>)>, ReadError> {
        let Settings { prefill_chunk, int8, .. } = self.settings;
        let done = self.embeddings.advance(&self.model, &self.device, prefill_chunk.max(1), int8)?;
        self.free_adapters();
        Ok(done)
    }

    /// Drops a request, wherever it stands.
    pub fn cancel(&mut self, id: SeqId) {
        self.scheduler.cancel(id);
        self.embeddings.cancel(id);
        self.free_adapters();
    }

    /// Whether anything waits or runs.
    pub fn is_idle(&self) -> bool {
        self.load() == (0, 0) && self.embeddings.is_idle()
    }

    /// Sequences that run, and sequences that wait.
    pub fn load(&self) -> (usize, usize) {
        (self.scheduler.running.len(), self.scheduler.waiting())
    }

    /// The share of the cache's blocks that sequences have.
    pub fn cache_usage(&self) -> f64 {
        let blocks = self.scheduler.blocks();
        1.0 - blocks.available() as f64 / blocks.count() as f64
    }

    /// How often a sequence had to give its part of the cache back, and was computed anew later.
    pub fn preemptions(&self) -> u64 {
        self.scheduler.preemptions()
    }

    /// Schedules, runs the model once, accepts. After a failure everything stands where it stood before the step.
    pub fn step(&mut self) -> Result<Vec<Output>, ReadError> {
        let mut out = Vec::new();
        for copied in self.scheduler.admit(&mut out) {
            self.kv.copy_block(&self.device, copied.to, copied.from);
        }
        let turns = self.scheduler.plan();
        if turns.is_empty() {
            return Ok(out);
        }
        let parts: Vec<_> = turns.iter().map(|turn| self.scheduler.running[turn.i].part(turn.n)).collect();
        let mut rows = self.kv.begin(&parts);
        rows.adapted = ranges(turns.iter().map(|turn| (turn.n, self.scheduler.running[turn.i].adapter))).into();
        let (asked, wanted) = self.questions(&turns);
        let logits = self.model.infer(&self.device, &rows, &mut self.kv, &wanted, self.settings.int8)?;
        for &Turn { i, n } in &turns {
            self.scheduler.advance(i, n);
        }
        let v = logits.cols();
        let mut ended = Vec::new();
        for (k, &(i, next)) in asked.iter().enumerate() {
            let logits = &logits.f32()[k * v..(k + 1) * v];
            let sequence = &mut self.scheduler.running[i];
            if let Some(&token) = sequence.tokens.get(next) {
                let top = top_logprobs(logits, sequence.params.prompt_logprobs.unwrap_or(0));
                let token = Scored { token, logprob: logprob(logits, token), top };
                out.push(Output::Prompt { id: sequence.id, token });
                sequence.scored = next + 1;
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
            out.push(Output::Finished { id: self.scheduler.running[i].id, reason, token });
            self.scheduler.retire(i);
        }
        self.free_adapters();
        Ok(out)
    }

    /// Where logits are needed: at the last token of a sequence, and in prompts that are to be scored. Each as the sequence with the
    /// place of the token that they are about, and as a row of the batch.
    fn questions(&self, turns: &[Turn]) -> (Vec<(usize, usize)>, Vec<u32>) {
        let (mut asked, mut wanted) = (Vec::new(), Vec::new());
        let mut row = 0;
        for &Turn { i, n } in turns {
            let sequence = &self.scheduler.running[i];
            let from = if sequence.is_scored() { 0 } else { n - 1 };
            for r in from..n {
                let next = sequence.cached + r + 1;
                let scores = sequence.is_scored() && next >= sequence.scored && next < sequence.prompt_len;
                if next == sequence.tokens.len() || scores {
                    asked.push((i, next));
                    wanted.push((row + r) as u32);
                }
            }
            row += n;
        }
        (asked, wanted)
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

    /// Takes a sampled token into sequence `i`, or says why it ends and with which token.
    fn accept(&mut self, i: usize, scored: Scored, out: &mut Vec<Output>) -> Option<(Finish, Option<Scored>)> {
        let (sequence, token) = (&mut self.scheduler.running[i], scored.token);
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
}
