//! What several tests of the engine need: numbers that depend on a seed only.

use ounce_engine::sampler::uniform;

pub struct Dice {
    seed: u64,
    drawn: u64,
}

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice { seed, drawn: 0 }
    }

    /// From 0 up to 1, without 1.
    pub fn fraction(&mut self) -> f64 {
        self.drawn += 1;
        uniform(self.seed, self.drawn)
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        (self.fraction() * sides as f64) as usize
    }
}
