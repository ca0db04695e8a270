//! A request, the sequence it becomes, and what comes out of it.

use std::borrow::Cow;

use ounce_tensor::AdapterId;

use crate::constraint::{Constraint, first};
use crate::prefix::Parent;
use crate::sampler::{Choice, Sampler, SamplingParams};
use crate::speculation::Guesses;

/// The number of a sequence, unique in one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// A prompt and how to go on from it.
pub struct Request {
    pub prompt: Vec<u32>,
    pub params: SamplingParams,
    /// The adapter it runs with; none: the base.
    pub adapter: Option<AdapterId>,
    /// What the answer must be. Where it may end, one of the model's end tokens ends it, `ignore_eos` or not.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Requests find in the cache only what requests with the same salt left there. Whoever must not learn from the time of an
    /// answer what others have asked gets a salt of their own.
    pub salt: u64,
}

impl Request {
    /// An answer of any form, from the base.
    pub fn new(prompt: Vec<u32>, params: SamplingParams) -> Request {
        Request { prompt, params, adapter: None, constraint: None, salt: 0 }
    }
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end token of the model, one of the request's stop tokens, or a constraint that is fulfilled.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
    /// The request's constraint cannot be kept up: its grammar has become too complex, or none of the model's tokens goes on.
    Unmet,
}

/// What a step gives back.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// The sequence runs. The first `cached` tokens of its prompt were in the cache and are not computed.
    Started { id: SeqId, cached: usize },
    /// One token of a prompt whose log probabilities were asked for, from its second on, in order.
    Prompt { id: SeqId, token: Scored },
    /// A new token. A token that ends the sequence is not given.
    Token { id: SeqId, token: Scored },
    /// The end; `token` is the one that ended it, where one did.
    Finished { id: SeqId, reason: Finish, token: Option<Scored> },
}

/// A token with its log probability under the model, and the most likely ones at its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    pub token: u32,
    pub logprob: f32,
    pub top: Vec<(u32, f32)>,
}

/// A sequence that waits or runs.
pub(crate) struct Sequence {
    pub id: SeqId,
    /// Prompt and answer so far.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    pub params: SamplingParams,
    pub sampler: Sampler,
    pub adapter: Option<AdapterId>,
    pub constraint: Option<Box<dyn Constraint>>,
    pub salt: u64,
    /// Whether it has ever run.
    pub started: bool,
    /// Blocks of the cache, in order; none while it waits.
    pub blocks: Vec<u32>,
    /// Tokens whose keys and values are in them.
    pub cached: usize,
    /// How many of the blocks others can find, and what stands before the next.
    pub published: usize,
    pub parent: Parent,
    /// Tokens of the prompt whose log probabilities have been given, the first counted as given.
    pub scored: usize,
    /// Guesses of its next tokens, which run in this step.
    pub guesses: Guesses,
    /// Tokens that the draft model has in its cache, where there is one.
    pub drafted: usize,
}

impl Sequence {
    pub fn new(id: SeqId, request: Request) -> Sequence {
        let Request { prompt, params, adapter, constraint, salt } = request;
        let sampler = Sampler::new(&params, &prompt);
        Sequence {
            id,
            prompt_len: prompt.len(),
            tokens: prompt,
            params,
            sampler,
            adapter,
            constraint,
            salt,
            started: false,
            blocks: Vec::new(),
            cached: 0,
            published: 0,
            parent: Parent::Root { epoch: 0, salt, adapter },
            scored: 1,
            guesses: Guesses::default(),
            drafted: 0,
        }
    }

    /// Draws the next token from `logits` `[v]`, or says why there is none: the constraint is met and the model has no token to
    /// say so, or it cannot be met.
    pub fn draw(&mut self, logits: &[f32]) -> Result<Choice, Finish> {
        let Some(constraint) = &mut self.constraint else { return Ok(self.sampler.sample(logits)) };
        let whole = constraint.may_stop();
        match constraint.allowed() {
            Ok(allowed) if first(allowed, logits.len()).is_some() => {
                Ok(self.sampler.sample_among(logits, Some(allowed)))
            }
            _ if whole => Err(Finish::Stop),
            _ => Err(Finish::Unmet),
        }
    }

    /// Guesses at most `most` tokens that its constraint foresees.
    pub fn foresee(&mut self, most: usize) {
        if let Some(constraint) = &mut self.constraint {
            self.guesses.foresee(constraint.as_mut(), most);
        }
    }

    /// Guesses at most `most` more that stand in its text before.
    pub fn look_up(&mut self, most: usize) {
        self.guesses.look_up(&self.tokens, self.constraint.as_deref(), most);
    }

    /// Guesses what a draft model's `logits` `[v]` say comes after the guesses there are: drawn with the random number that the token
    /// will be drawn with, and among what will be allowed, so that models that agree choose alike. None where nothing can follow.
    pub fn guess(&mut self, logits: &[f32]) -> Option<u32> {
        let choose = |before, allowed: Option<&[u32]>| self.sampler.guess(logits, allowed, before);
        self.guesses.draft(self.constraint.as_deref(), logits.len(), choose)
    }

    /// Guesses that the next `n` rows of it leave room for, besides those there are.
    pub fn to_guess(&self, n: usize) -> usize {
        (self.cached + n).saturating_sub(self.tokens.len() + self.guesses.tokens.len())
    }

    /// Whether tokens of its prompt are still to be scored.
    pub fn wants_scores(&self) -> bool {
        self.params.prompt_logprobs.is_some() && self.scored < self.prompt_len
    }

    /// Whether the tokens that run now are.
    pub fn is_scored(&self) -> bool {
        self.wants_scores() && self.cached < self.prompt_len
    }

    /// Its next `n` tokens, then guesses.
    pub fn next(&self, n: usize) -> Cow<'_, [u32]> {
        let known = &self.tokens[self.cached..];
        if n <= known.len() {
            known[..n].into()
        } else {
            [known, &self.guesses.tokens[..n - known.len()]].concat().into()
        }
    }

    /// Those of its next `n` rows whose logits are needed: all that stand before a token to come, and those before tokens of a prompt that
    /// are to be scored.
    pub fn asked(&self, n: usize) -> Vec<usize> {
        let first = if self.is_scored() { 0 } else { (self.tokens.len() - self.cached - 1).min(n) };
        let scores = |next: usize| self.is_scored() && next >= self.scored && next < self.prompt_len;
        let asks = |row: &usize| {
            let next = self.cached + row + 1;
            next >= self.tokens.len() || scores(next)
        };
        (first..n).filter(asks).collect()
    }
}
