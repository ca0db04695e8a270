//! Random order that is counted, not drawn: the order of a pass depends on nothing but its seed and its number.

/// SplitMix64 (Steele, Lea, Flood 2014): the n-th output is a function of the seed and n.
pub struct Counter {
    state: u64,
}

impl Counter {
    pub fn new(seed: u64, stream: u64) -> Counter {
        // The stream is mixed first, so that neighbouring seeds and streams share no outputs.
        Counter { state: mix(seed ^ mix(stream.wrapping_add(0x9e37_79b9_7f4a_7c15))) }
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// Uniform below `n` (n > 0), by Lemire's multiplication; the bias is below n / 2^64.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fisher–Yates.
pub fn shuffle<T>(items: &mut [T], seed: u64, stream: u64) {
    let mut counter = Counter::new(seed, stream);
    for i in (1..items.len()).rev() {
        items.swap(i, counter.below(i as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_is_a_permutation_and_depends_on_seed_and_stream() {
        let order = |seed, stream| {
            let mut items: Vec<u32> = (0..100).collect();
            shuffle(&mut items, seed, stream);
            items
        };
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        let mut sorted = order(1, 0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn every_place_is_equally_likely() {
        let mut seen = [[0usize; 5]; 5];
        for stream in 0..10_000 {
            let mut items = [0, 1, 2, 3, 4];
            shuffle(&mut items, 7, stream);
            for (place, item) in items.into_iter().enumerate() {
                seen[item][place] += 1;
            }
        }
        // 2000 expected in each of 25 cells, standard deviation 40: five of those.
        assert!(seen.iter().flatten().all(|&n| (1800..2200).contains(&n)), "{seen:?}");
    }
}
