//! [`Ahead`]: what an answer goes on with where its grammar leaves no choice, or none but blanks: keys of a JSON text and what
//! stands around them. The grammar lets a text be cut into tokens in any way and blanks be set in several, so these are guesses.

use std::sync::Arc;

use llguidance::Matcher;
use llguidance::toktrie::TokTrie;

use crate::blanks::Blanks;
use crate::cut::{BYTES_EACH, Cutter};

/// Choices of blanks in one look ahead, at most: each costs what a step does.
const MOST_CHOICES: usize = 12;

#[derive(Clone)]
pub struct Ahead {
    cutter: Arc<Cutter>,
    /// The token that was taken last.
    last: Option<u32>,
    blanks: Blanks,
    /// The next bytes, as far as they are known.
    text: Vec<u8>,
}

impl Ahead {
    pub fn new(cutter: Arc<Cutter>) -> Ahead {
        Ahead { cutter, last: None, blanks: Blanks::default(), text: Vec::new() }
    }

    /// Takes the next token of the answer.
    pub fn take(&mut self, token: u32) {
        self.last = Some(token);
        let bytes = self.cutter.bytes(token);
        self.blanks.read(&bytes);
        match self.text.starts_with(&bytes) {
            true => drop(self.text.drain(..bytes.len())),
            false => self.text.clear(),
        }
    }

    /// The next tokens, at most `most`, where the answer stands as `matcher` does.
    pub fn tokens(&mut self, matcher: &Matcher, most: usize) -> Vec<u32> {
        if self.text.is_empty() {
            self.text = self.look(matcher, BYTES_EACH * most);
        }
        self.cutter.cut(self.last, &self.text, most)
    }

    /// The next bytes, about as many as `most` where they go so far.
    fn look(&self, matcher: &Matcher, most: usize) -> Vec<u8> {
        // A copy: whatever becomes of it, the answer goes on as if nobody had looked.
        let (mut scout, mut blanks, mut text) = (matcher.clone(), self.blanks.clone(), Vec::new());
        let mut choices = 0;
        while text.len() < most && choices <= MOST_CHOICES {
            let mut next = scout.compute_ff_bytes();
            if next.is_empty() {
                choices += 1;
                let Some(byte) = self.only(&mut scout, &blanks) else { break };
                next.extend(blanks.before(byte).into_bytes());
                next.push(byte);
            }
            text.extend(&next);
            blanks.read(&next);
            let tokens: Option<Vec<u32>> = next.iter().map(|&byte| self.cutter.byte(byte)).collect();
            let goes_on = tokens.is_some_and(|tokens| scout.consume_tokens(&tokens).is_ok());
            // Behind a control token, bytes are no longer tokens.
            if !goes_on || next.contains(&TokTrie::SPECIAL_TOKEN_MARKER) {
                break;
            }
        }
        text
    }

    /// The byte that comes next, after blanks or none, if there is only one.
    fn only(&self, scout: &mut Matcher, blanks: &Blanks) -> Option<u8> {
        let space = self.cutter.byte(b' ')?;
        if blanks.in_text()
            || scout.is_stopped()
            || scout.validate_tokens(&[space]).ok()? == 0
            || scout.is_accepting().ok()?
        {
            return None;
        }
        let allowed = scout.compute_mask().ok()?;
        let may =
            |byte: &u8| !b" \n".contains(byte) && self.cutter.byte(*byte).is_some_and(|id| allowed.is_allowed(id));
        let mut bytes = (0..=u8::MAX).filter(may);
        bytes.next().filter(|_| bytes.next().is_none())
    }
}
