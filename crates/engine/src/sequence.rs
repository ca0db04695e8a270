//! A request, the sequence it becomes, and what comes out of it.

use ounce_tensor::AdapterId;

use crate::constraint::{Constraint, first};
use crate::sampler::{Choice, Sampler, SamplingParams};

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
}

impl Request {
    /// An answer of any form, from the base.
    pub fn new(prompt: Vec<u32>, params: SamplingParams) -> Request {
        Request { prompt, params, adapter: None, constraint: None }
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
    /// The sequence got its slot. The first `cached` tokens of its prompt were in it and are not computed again.
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
    /// Row of the KV cache, once it runs.
    pub slot: usize,
    /// Tokens whose keys and values are in the cache.
    pub cached: usize,
}

impl Sequence {
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

    /// Whether the tokens of its prompt that run now are to be scored.
    pub fn is_scored(&self) -> bool {
        self.params.prompt_logprobs.is_some() && self.cached < self.prompt_len
    }
}
