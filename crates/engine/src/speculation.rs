//! Speculative decoding (Leviathan et al. 2023): guesses of the next tokens run beside the last one, and those that the model would
//! have chosen itself are kept. Each row of a pass has the bits it has alone, and the n-th token of an answer is drawn with the n-th
//! random number, so an answer is the same with guesses and without, bit for bit. It knows where guesses come from, not how they fare.

mod draft_model;
mod guesses;
mod lookup;
mod pace;

pub(crate) use draft_model::DraftModel;
pub(crate) use guesses::Guesses;
use lookup::lookup;
use pace::{Pace, Reach, Rest};

/// Rows of a step at most where some of them are guesses: beyond them a pass costs more than guesses win.
pub(crate) const ROWS: usize = 32;

/// What became of guesses so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speculated {
    /// Passes with guesses of a sequence.
    pub drafts: u64,
    /// Tokens guessed.
    pub drafted: u64,
    /// Those that the model chose, too.
    pub accepted: u64,
}

/// A model that cannot guess for another one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the draft model reads {draft} positions, but the context has {context}")]
pub struct ShortDraft {
    pub draft: usize,
    pub context: usize,
}
