//! [`Engine`]: continuous batching over one cache in blocks. Running sequences decode one token a step; prompts are taken in chunks
//! beside them. A prompt that begins like an earlier one (the next turn of a chat, a shared instruction) computes only what is new.

use ounce_model::adapters::{self, Adapter, Layers};
use ounce_model::{Kv, Model, Part};
use ounce_spec::ModelConfig;
use ounce_tensor::kernels::CacheType;
use ounce_tensor::{AdapterId, BLOCK, Device, ReadError};

use crate::adapters::{Adapters, ranges};
use crate::embedding::{Embedding, Embeddings};
use crate::refusal::{Failure, Refusal};
use crate::sampler::{logprob, top_logprobs};
use crate::scheduler::{Scheduler, Turn};
use crate::sequence::{Finish, Output, Request, Scored, SeqId, Sequence};
use crate::speculation::{DraftModel, ShortDraft, Speculated};

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
    /// Tokens of an answer that are guessed ahead in a step, at most: from what came after its last tokens before, or by a draft model
    /// ([`Engine::draft_with`]). What a constraint foresees is guessed anyhow. Answers do not depend on it.
    pub speculate: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        let (cache, cache_tokens, prefix_cache) = (CacheType::F32, None, true);
        let speculate = 0;
        Settings {
            slots: 1,
            context: 4096,
            prefill_chunk: 512,
            int8: true,
            cache,
            cache_tokens,
            prefix_cache,
            speculate,
        }
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

/// Why a sequence ends, and with which token, where one ends it.
type End = (Finish, Option<Scored>);

pub struct Engine {
    device: Device,
    model: Model,
    kv: Kv,
    settings: Settings,
    scheduler: Scheduler,
    adapters: Adapters,
    embeddings: Embeddings,
    draft_model: Option<DraftModel>,
    speculated: Speculated,
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
        let (draft_model, speculated) = (None, Speculated::default());
        Engine { device, model, kv, settings, scheduler, adapters, embeddings, draft_model, speculated, next: 0 }
    }

    /// Lets a smaller model with the same tokens make the guesses, [`Settings::speculate`] of them. Before any request.
    ///
    /// # Errors
    /// Where it reads fewer positions than the context has.
    pub fn draft_with(&mut self, model: Model) -> Result<(), ShortDraft> {
        let Settings { context, cache, .. } = self.settings;
        if model.context < context {
            return Err(ShortDraft { draft: model.context, context });
        }
        self.draft_model = Some(DraftModel::new(&self.device, model, cache, self.settings.blocks()));
        self.scheduler.forget();
        self.scheduler.drafts = true;
        Ok(())
    }

    /// What became of guesses so far.
    pub fn speculated(&self) -> Speculated {
        self.speculated
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
            self.draft_model.iter_mut().for_each(|draft| draft.copy_block(&self.device, copied.to, copied.from));
        }
        let mut turns = self.scheduler.plan();
        if turns.is_empty() {
            return Ok(out);
        }
        if let Some(draft) = &mut self.draft_model {
            draft.guess(&self.device, &mut self.scheduler.running, &mut turns)?;
        }
        let running = &self.scheduler.running;
        let tokens: Vec<_> = turns.iter().map(|turn| running[turn.i].next(turn.n)).collect();
        let asked: Vec<_> = turns.iter().map(|turn| running[turn.i].asked(turn.n)).collect();
        let (mut parts, mut wanted, mut first) = (Vec::new(), Vec::new(), 0);
        for ((turn, tokens), asked) in turns.iter().zip(&tokens).zip(&asked) {
            let Sequence { cached, blocks, .. } = &running[turn.i];
            parts.push(Part { tokens, past: *cached, blocks });
            wanted.extend(asked.iter().map(|row| (first + row) as u32));
            first += turn.n;
        }
        let mut rows = self.kv.begin(&parts);
        rows.adapted = ranges(turns.iter().map(|turn| (turn.n, running[turn.i].adapter))).into();
        let logits = self.model.infer(&self.device, &rows, &mut self.kv, &wanted, self.settings.int8)?;
        let mut logits = logits.f32().chunks_exact(logits.cols());
        let mut ended = Vec::new();
        for (turn, asked) in turns.iter().zip(&asked) {
            let logits: Vec<_> = logits.by_ref().take(asked.len()).collect();
            let (read, end) = self.hear(turn, asked, &logits, &mut out);
            self.scheduler.advance(turn.i, read);
            ended.extend(end.map(|(reason, token)| (turn.i, reason, token)));
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

    /// Takes in what the model says after the rows `asked` of a turn: scores of a prompt, or the next tokens, as long as what was
    /// guessed is what is drawn. How many of the turn's rows are of the text as it now is, and the end if it ends.
    fn hear(&mut self, turn: &Turn, asked: &[usize], logits: &[&[f32]], out: &mut Vec<Output>) -> (usize, Option<End>) {
        let sequence = &mut self.scheduler.running[turn.i];
        let guesses = std::mem::take(&mut sequence.guesses.tokens);
        let (mut accepted, mut end) = (0, None);
        for (row, logits) in asked.iter().zip(logits) {
            let sequence = &mut self.scheduler.running[turn.i];
            let next = sequence.cached + row + 1;
            if next < sequence.prompt_len {
                let token = sequence.tokens[next];
                let top = top_logprobs(logits, sequence.params.prompt_logprobs.unwrap_or(0));
                let token = Scored { token, logprob: logprob(logits, token), top };
                out.push(Output::Prompt { id: sequence.id, token });
                sequence.scored = next + 1;
                continue;
            }
            let choice = match sequence.draw(logits) {
                Ok(choice) => choice,
                Err(reason) => {
                    end = Some((reason, None));
                    break;
                }
            };
            let top = top_logprobs(logits, sequence.params.logprobs);
            end = self.accept(turn.i, Scored { token: choice.token, logprob: choice.logprob, top }, out);
            if end.is_some() || guesses.get(accepted) != Some(&choice.token) {
                break;
            }
            accepted += 1;
        }
        if !guesses.is_empty() {
            self.scheduler.running[turn.i].guesses.learn(guesses.len(), accepted);
            self.speculated.drafts += 1;
            self.speculated.drafted += guesses.len() as u64;
            self.speculated.accepted += accepted as u64;
        }
        (turn.n - guesses.len() + accepted, end)
    }

    /// Runs one request to its end. `on_step` gets each token, or nothing after a step that read a part of a long prompt, and ends the
    /// request by returning false.
    pub fn run(&mut self, request: Request, mut on_step: impl FnMut(Option<u32>) -> bool) -> Result<Finish, Failure> {
        let id = self.submit(request)?;
        loop {
            let (mut tokens, mut finish) = (Vec::new(), None);
            let outputs = self.step().inspect_err(|_| self.cancel(id))?;
            for output in outputs {
                match output {
                    Output::Token { id: of, token: chosen } if of == id => tokens.push(Some(chosen.token)),
                    Output::Finished { id: of, reason, .. } if of == id => finish = Some(reason),
                    _ => {}
                }
            }
            // A sequence may end without a token.
            if tokens.is_empty() && finish.is_none() {
                tokens.push(None);
            }
            let go_on = tokens.into_iter().all(&mut on_step);
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
    fn accept(&mut self, i: usize, scored: Scored, out: &mut Vec<Output>) -> Option<End> {
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
