//! A request, the sequence it becomes, and what comes out of it.

use crate::sampler::{Sampler, SamplingParams};

/// The number of a sequence, unique in one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// A prompt and how to go on from it.
#[derive(Clone, Debug)]
pub struct Request {
    pub prompt: Vec<u32>,
    pub params: SamplingParams,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end token of the model, or one of the request's stop tokens.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
}

/// What a step gives back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Output {
    /// A new token. A token that ends the sequence is not given.
    Token {
        id: SeqId,
        token: u32,
        logprob: f32,
    },
    Finished {
        id: SeqId,
        reason: Finish,
    },
}

/// A sequence that waits or runs.
pub(crate) struct Sequence {
    pub id: SeqId,
    /// Prompt and answer so far.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    pub params: SamplingParams,
    pub sampler: Sampler,
    /// Row of the KV cache, once it runs.
    pub slot: usize,
    /// Tokens whose keys and values are in the cache.
    pub cached: usize,
}
