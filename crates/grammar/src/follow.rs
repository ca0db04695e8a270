//! [`Follower`]: one answer on its way through a grammar, as the engine asks for it. It knows no form.

use std::sync::Arc;

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;
use ounce_engine::{Constraint, Unmet};

use crate::ahead::Ahead;
use crate::cut::Cutter;
use crate::reason;

#[derive(Clone)]
pub struct Follower {
    matcher: Matcher,
    /// What may come next; lent to the engine.
    allowed: SimpleVob,
    ahead: Ahead,
}

impl Follower {
    pub fn new(matcher: Matcher, cutter: Arc<Cutter>) -> Follower {
        Follower { matcher, allowed: SimpleVob::new(), ahead: Ahead::new(cutter) }
    }
}

impl Constraint for Follower {
    fn allowed(&mut self) -> Result<&[u32], Unmet> {
        // The work of one call is limited by the library's own counters: some 15 ms at most, then it is an error.
        self.allowed = self.matcher.compute_mask_or_eos().map_err(|e| Unmet(reason(&e.to_string())))?;
        Ok(self.allowed.as_slice())
    }

    fn accept(&mut self, token: u32) -> Result<(), Unmet> {
        self.ahead.take(token);
        self.matcher.consume_token(token).map_err(|e| Unmet(reason(&e.to_string())))
    }

    fn may_stop(&mut self) -> bool {
        self.is_complete() || self.matcher.is_accepting().unwrap_or(false)
    }

    fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }

    fn foresee(&mut self, most: usize) -> Vec<u32> {
        self.ahead.tokens(&self.matcher, most)
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}
