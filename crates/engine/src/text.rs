//! [`TextStream`]: tokens to text that can be shown as it comes: whole characters, and never a part of a stop string.

use crate::sampler::{Emitted, StopMatcher};

/// Joins what a detokenizer gives with stop strings. The detokenizer comes as a closure.
pub struct TextStream<D> {
    decode: D,
    stop: StopMatcher,
    text: String,
}

/// What may be shown after a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub text: String,
    /// A stop string was found: nothing comes after this.
    pub stopped: bool,
}

impl From<Emitted> for Piece {
    fn from(emitted: Emitted) -> Piece {
        Piece { text: emitted.text, stopped: emitted.stop.is_some() }
    }
}

impl<D: FnMut(u32) -> Option<String>> TextStream<D> {
    /// `decode` gives the text that a token completes, if any.
    pub fn new(decode: D, stop: &[String]) -> TextStream<D> {
        TextStream { decode, stop: StopMatcher::new(stop), text: String::new() }
    }

    pub fn push(&mut self, token: u32) -> Piece {
        let decoded = (self.decode)(token).unwrap_or_default();
        let piece = Piece::from(self.stop.push(&decoded));
        self.text += &piece.text;
        piece
    }

    /// What was held back, at the end; `rest` is what the detokenizer still had.
    pub fn finish(&mut self, rest: Option<String>) -> Piece {
        let mut piece = Piece::from(self.stop.push(&rest.unwrap_or_default()));
        if !piece.stopped {
            piece.text += &self.stop.finish();
        }
        self.text += &piece.text;
        piece
    }

    /// Everything shown so far.
    pub fn text(&self) -> &str {
        &self.text
    }
}
