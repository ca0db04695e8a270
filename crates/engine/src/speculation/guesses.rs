//! [`Guesses`]: the next tokens that one sequence guesses in a step, and how such guesses fared. First comes what its constraint
//! foresees, then what was looked up or drafted, as far as the constraint allows it. It knows no model.

use std::borrow::Cow;

use super::{Pace, Reach, Rest, lookup};
use crate::constraint::{Constraint, first};

#[derive(Default)]
pub(crate) struct Guesses {
    /// In order. They run beside the sequence's last token.
    pub tokens: Vec<u32>,
    /// How many of them, the first ones, were foreseen.
    foreseen: usize,
    /// The constraint as it stands after all of them, once that was asked for.
    after: Option<Box<dyn Constraint>>,
    /// How those that were looked up or drafted fare, and those that were foreseen.
    pace: Pace,
    rest: Rest,
    reach: Reach,
}

impl Guesses {
    pub fn clear(&mut self) {
        (self.foreseen, self.after) = (0, None);
        self.tokens.clear();
    }

    /// Guesses what the constraint foresees, at most `most` tokens.
    pub fn foresee(&mut self, constraint: &mut dyn Constraint, most: usize) {
        if most > 0 && self.rest.is_over() {
            let most = most.min(self.reach.most());
            self.tokens = constraint.foresee(most);
            self.tokens.truncate(most);
            self.foreseen = self.tokens.len();
        }
    }

    /// How many tokens to look up or draft in this step, at most `most`.
    pub fn ahead(&mut self, most: usize) -> usize {
        self.pace.ahead(most)
    }

    /// Looks up what may come after `text` and the guesses there are, at most `most` tokens.
    pub fn look_up(&mut self, text: &[u32], constraint: Option<&dyn Constraint>, most: usize) {
        let text: Cow<[u32]> = if self.tokens.is_empty() { text.into() } else { [text, &self.tokens].concat().into() };
        let mut found = lookup(&text, most);
        if let Some(constraint) = constraint.filter(|_| !found.is_empty()) {
            let after = self.after(constraint);
            let allowed = found.iter().take_while(|&&token| after.accept(token).is_ok()).count();
            found.truncate(allowed);
        }
        self.tokens.extend(found);
    }

    /// Drafts the next guess: `choose` gets how many guesses stand before it and what the constraint allows there, and chooses among
    /// `vocab` tokens. None where the answer is whole, or the constraint cannot tell.
    pub fn draft(
        &mut self,
        constraint: Option<&dyn Constraint>,
        vocab: usize,
        choose: impl FnOnce(usize, Option<&[u32]>) -> u32,
    ) -> Option<u32> {
        let before = self.tokens.len();
        let token = match constraint {
            None => choose(before, None),
            Some(constraint) => {
                let after = self.after(constraint);
                if after.is_complete() {
                    return None;
                }
                let allowed = after.allowed().ok()?;
                first(allowed, vocab)?;
                let token = choose(before, Some(allowed));
                after.accept(token).ok()?;
                token
            }
        };
        self.tokens.push(token);
        Some(token)
    }

    fn after(&mut self, constraint: &dyn Constraint) -> &mut dyn Constraint {
        let after = self.after.get_or_insert_with(|| {
            let mut after = constraint.fork();
            // One that refuses a guess goes on refusing.
            self.tokens.iter().all(|&token| after.accept(token).is_ok());
            after
        });
        after.as_mut()
    }

    /// Of `guessed` guesses the first `held` held.
    pub fn learn(&mut self, guessed: usize, held: usize) {
        let foreseen = self.foreseen.min(guessed);
        if foreseen > 0 {
            self.rest.learn(held > 0);
            self.reach.learn(foreseen, held.min(foreseen));
        }
        if let Some(held) = held.checked_sub(foreseen) {
            self.pace.learn(guessed - foreseen, held);
        }
    }
}
