//! [`Adapters`]: which adapters of an engine take requests, and which only wait for the last sequence of theirs. It does not know
//! where their matrices are.

use std::collections::BTreeSet;
use std::ops::Range;

use ounce_tensor::AdapterId;

#[derive(Debug, Default)]
pub(crate) struct Adapters {
    /// Those that take requests.
    open: BTreeSet<AdapterId>,
    /// Those that take none any more.
    leaving: BTreeSet<AdapterId>,
    next: u32,
}

impl Adapters {
    /// A number that no adapter had before: what the cache remembers of a dropped one is nobody's.
    pub fn open(&mut self) -> AdapterId {
        let id = AdapterId(self.next);
        self.next += 1;
        self.open.insert(id);
        id
    }

    pub fn has(&self, id: AdapterId) -> bool {
        self.open.contains(&id)
    }

    pub fn close(&mut self, id: AdapterId) {
        if self.open.remove(&id) {
            self.leaving.insert(id);
        }
    }

    /// Those that left and that none of `used` needs.
    pub fn gone(&mut self, used: impl Iterator<Item = AdapterId>) -> Vec<AdapterId> {
        if self.leaving.is_empty() {
            return Vec::new();
        }
        let used: BTreeSet<AdapterId> = used.collect();
        let gone: Vec<AdapterId> = self.leaving.difference(&used).copied().collect();
        self.leaving.retain(|id| used.contains(id));
        gone
    }
}

/// The rows of each adapter in a batch of `parts` (rows, adapter); neighbours of one adapter become one range.
pub(crate) fn ranges(parts: impl Iterator<Item = (usize, Option<AdapterId>)>) -> Vec<(Range<usize>, AdapterId)> {
    let mut out: Vec<(Range<usize>, AdapterId)> = Vec::new();
    let mut row = 0;
    for (rows, adapter) in parts {
        if let Some(id) = adapter {
            match out.last_mut() {
                Some((range, of)) if *of == id && range.end == row => range.end += rows,
                _ => out.push((row..row + rows, id)),
            }
        }
        row += rows;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_adapter_share_a_range() {
        let (a, b) = (Some(AdapterId(1)), Some(AdapterId(2)));
        let parts = [(2, None), (1, a), (3, a), (1, None), (1, a), (2, b)];
        let wanted = vec![(2..6, AdapterId(1)), (7..8, AdapterId(1)), (8..10, AdapterId(2))];
        assert_eq!(ranges(parts.into_iter()), wanted);
    }

    #[test]
    fn what_is_in_use_stays() {
        let mut adapters = Adapters::default();
        let (a, b) = (adapters.open(), adapters.open());
        adapters.close(a);
        assert!(!adapters.has(a) && adapters.has(b));
        assert_eq!(adapters.gone([a].into_iter()), []);
        assert_eq!(adapters.gone([b].into_iter()), [a]);
        assert_eq!(adapters.gone([].into_iter()), []);
        assert_ne!(adapters.open(), a);
    }
}
