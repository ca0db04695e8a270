//! [`Pace`]: how far ahead a sequence guesses, from how its earlier guesses fared.

/// Steps without a guess after many that failed, at most.
const LONGEST_REST: u32 = 32;

/// Doubles after guesses that all held, comes down to what held after others; after guesses of which none held the sequence rests, each
/// time for twice as many steps.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    ahead: usize,
    misses: u32,
    rest: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { ahead: 2, misses: 0, rest: 0 }
    }
}

impl Pace {
    /// How many tokens to guess in this step, at most `most`.
    pub fn ahead(&mut self, most: usize) -> usize {
        if self.rest > 0 {
            self.rest -= 1;
            return 0;
        }
        self.ahead.min(most)
    }

    /// Of `drafted` guesses `accepted` held.
    pub fn learn(&mut self, drafted: usize, accepted: usize) {
        match accepted {
            _ if drafted == 0 => {}
            0 => {
                self.ahead = 1.max(drafted / 2);
                self.rest = LONGEST_REST.min((1 << self.misses.min(16)) - 1);
                self.misses += 1;
            }
            all if all == drafted => (self.ahead, self.misses) = (self.ahead.max(2 * drafted), 0),
            some => (self.ahead, self.misses) = (some + 1, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
