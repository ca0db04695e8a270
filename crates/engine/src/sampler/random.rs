//! Random numbers that are a function of (seed, position), so that a sequence draws the same ones whatever runs beside it.

/// Philox 2×64 with ten rounds (Salmon et al. 2011): 128 random bits for a key and a counter.
pub fn philox2x64(counter: [u64; 2], key: u64) -> [u64; 2] {
    const MULTIPLIER: u64 = 0xd2b7_4407_b1ce_6e93;
    const WEYL: u64 = 0x9e37_79b9_7f4a_7c15;
    let [mut left, mut right] = counter;
    let mut key = key;
    for _ in 0..10 {
        let product = u128::from(left) * u128::from(MULTIPLIER);
        left = (product >> 64) as u64 ^ key ^ right;
        right = product as u64;
        key = key.wrapping_add(WEYL);
    }
    [left, right]
}

/// Uniform in `[0, 1)` with 53 bits, for the `position`-th token of a sequence with this `seed`.
pub fn uniform(seed: u64, position: u64) -> f64 {
    (philox2x64([position, 0], seed)[0] >> 11) as f64 / (1u64 << 53) as f64
}

/// Numbers one after the other that depend on the seed only.
#[derive(Clone, Debug)]
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors that the authors publish with their library (Random123).
    #[test]
    fn philox_gives_the_published_vectors() {
        assert_eq!(philox2x64([0, 0], 0), [0xca00_a045_9843_d731, 0x66c2_4222_c9a8_45b5]);
        assert_eq!(philox2x64([u64::MAX, u64::MAX], u64::MAX), [0x65b0_21d6_0cd8_310f, 0x4d02_f322_2f86_df20]);
    }

    #[test]
    fn uniform_numbers_fill_the_unit_interval_evenly() {
        // 20 bins, 40,000 draws: chi-square with 19 degrees of freedom is below 43.8 with probability 0.999.
        let draws = 40_000;
        let mut bins = [0f64; 20];
        for position in 0..draws {
            bins[(uniform(7, position) * 20.0) as usize] += 1.0;
        }
        let expected = draws as f64 / 20.0;
        let chi2: f64 = bins.iter().map(|n| (n - expected).powi(2) / expected).sum();
        assert!(chi2 < 43.8, "chi-square {chi2}");
    }
}
