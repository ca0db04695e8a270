//! [`Pace`]: how far ahead a sequence guesses, and [`Rest`]: whether it does, from how its earlier guesses fared.

/// Steps without a guess after many that failed, at most.
const LONGEST_REST: u32 = 32;

/// Doubles after guesses that all held, comes down to what held after others; after guesses of which none held the sequence rests.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    ahead: usize,
    rest: Rest,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { ahead: 2, rest: Rest::default() }
    }
}

impl Pace {
    /// How many tokens to guess in this step, at most `most`.
    pub fn ahead(&mut self, most: usize) -> usize {
        if self.rest.is_over() { self.ahead.min(most) } else { 0 }
    }

    /// Of `drafted` guesses `accepted` held.
    pub fn learn(&mut self, drafted: usize, accepted: usize) {
        if drafted == 0 {
            return;
        }
        self.ahead = match accepted {
            0 => 1.max(drafted / 2),
            all if all == drafted => self.ahead.max(2 * drafted),
            some => some + 1,
        };
        self.rest.learn(accepted > 0);
    }
}

/// Steps without guesses after some of which none held: none at first, then each time twice as many, until one holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rest {
    misses: u32,
    left: u32,
}

impl Rest {
    /// Whether to guess in this step.
    pub fn is_over(&mut self) -> bool {
        let over = self.left == 0;
        self.left = self.left.saturating_sub(1);
        over
    }

    /// Whether any of the guesses of a step held.
    pub fn learn(&mut self, held: bool) {
        if held {
            self.misses = 0;
        } else {
            self.left = LONGEST_REST.min((1 << self.misses.min(16)) - 1);
            self.misses += 1;
        }
    }
}

/// How many tokens to take of those that are foreseen. They tend to hold to the end or nearly so: only where most of them fail again and
/// again, as in a text that the model cuts into tokens in ways of its own, fewer are taken, until those hold. One failure says little:
/// the first blank of an answer is often guessed wrongly, and all that come after it rightly.
#[derive(Clone, Debug)]
pub(crate) struct Reach(usize);

impl Default for Reach {
    fn default() -> Reach {
        Reach(super::ROWS)
    }
}

impl Reach {
    pub fn most(&self) -> usize {
        self.0
    }

    /// Of `guessed` guesses the first `held` held.
    pub fn learn(&mut self, guessed: usize, held: usize) {
        if held == guessed {
            self.0 = self.0.max(2 * guessed).min(super::ROWS);
        } else if 2 * held < guessed {
            self.0 = (self.0 / 2).max(2 * held + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_taken_of_what_fails_again_and_again() {
        let mut reach = Reach::default();
        // Nearly all held, then half of them: that is no failure.
        reach.learn(31, 30);
        reach.learn(4, 2);
        assert_eq!(reach.most(), 32);
        // After one that mostly failed there is still room for a key and what stands around it.
        reach.learn(4, 1);
        assert_eq!(reach.most(), 16);
        let mut most = Vec::new();
        for _ in 0..5 {
            reach.learn(reach.most(), 0);
            most.push(reach.most());
        }
        assert_eq!(most, [8, 4, 2, 1, 1]);
        // What held of many is more than half of what was allowed.
        let mut reach = Reach::default();
        reach.learn(31, 12);
        assert_eq!(reach.most(), 25);
    }

    #[test]
    fn what_holds_again_is_taken_again() {
        let mut reach = Reach::default();
        (0..6).for_each(|_| reach.learn(reach.most(), 0));
        let mut most = Vec::new();
        for _ in 0..6 {
            reach.learn(reach.most(), reach.most());
            most.push(reach.most());
        }
        assert_eq!(most, [2, 4, 8, 16, 32, 32]);
        // A short look ahead that held says nothing against a long one.
        reach.learn(3, 3);
        assert_eq!(reach.most(), 32);
    }

    #[test]
    fn guesses_that_hold_reach_further_and_those_that_fail_become_rare() {
        let mut pace = Pace::default();
        assert_eq!(pace.ahead(16), 2);
        pace.learn(2, 2);
        pace.learn(4, 4);
        assert_eq!(pace.ahead(16), 8);
        pace.learn(8, 8);
        assert_eq!((pace.ahead(10), pace.ahead(16)), (10, 16));
        pace.learn(10, 3);
        assert_eq!(pace.ahead(16), 4);
        // A sequence whose guesses never hold: 1,000 steps.
        let mut guessed = 0;
        for _ in 0..1000 {
            let ahead = pace.ahead(16);
            guessed += ahead;
            pace.learn(ahead, 0);
        }
        assert!((20..60).contains(&guessed), "{guessed}");
        // One that holds brings it back.
        while pace.ahead(16) == 0 {}
        pace.learn(1, 1);
        assert_eq!(pace.ahead(16), 2);
    }
}
