//! Which parts of a scratch file are taken: holes are used again, the smallest that fits first. It counts bytes and touches no
//! file.

use std::collections::BTreeMap;

/// Holes by their place; no two touch.
#[derive(Debug, Default)]
pub(super) struct Space {
    holes: BTreeMap<u64, u64>,
    end: u64,
}

impl Space {
    /// The place of `bytes` bytes, if some hole has that many.
    pub fn take(&mut self, bytes: u64) -> Option<u64> {
        let fits = self.holes.iter().filter(|(_, length)| **length >= bytes);
        let (&at, &length) = fits.min_by_key(|(at, length)| (**length, **at))?;
        self.holes.remove(&at);
        if length > bytes {
            self.holes.insert(at + bytes, length - bytes);
        }
        Some(at)
    }

    /// Where `bytes` bytes that fit into no hole will lie, and by how much the file must grow for them.
    pub fn growth(&self, bytes: u64) -> (u64, u64) {
        match self.holes.last_key_value() {
            Some((&at, &length)) if at + length == self.end => (at, bytes - length),
            _ => (self.end, bytes),
        }
    }

    /// The file has grown.
    pub fn grow(&mut self, bytes: u64) {
        let at = self.end;
        self.end += bytes;
        self.give(at, bytes);
    }

    /// What was taken is a hole again.
    pub fn give(&mut self, mut at: u64, mut bytes: u64) {
        if let Some((&before, &length)) = self.holes.range(..at).next_back()
            && before + length == at
        {
            self.holes.remove(&before);
            (at, bytes) = (before, bytes + length);
        }
        if let Some(length) = self.holes.remove(&(at + bytes)) {
            bytes += length;
        }
        self.holes.insert(at, bytes);
    }

    pub fn end(&self) -> u64 {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_two_regions_meet_and_all_comes_back(steps in prop::collection::vec((1u64..9, any::<prop::sample::Index>()), 1..60)) {
            let mut space = Space::default();
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (i, (bytes, which)) in steps.iter().enumerate() {
                if i % 3 == 2 && !held.is_empty() {
                    let (at, bytes) = held.swap_remove(which.index(held.len()));
                    space.give(at, bytes);
                    continue;
                }
                let at = space.take(*bytes).unwrap_or_else(|| {
                    let (at, more) = space.growth(*bytes);
                    assert!(more > 0, "what fits needs no growth");
                    space.grow(more);
                    assert_eq!(space.take(*bytes), Some(at));
                    at
                });
                for (other, length) in &held {
                    prop_assert!(at + bytes <= *other || other + length <= at);
                }
                prop_assert!(at + bytes <= space.end());
                held.push((at, *bytes));
            }
            let end = space.end();
            held.into_iter().for_each(|(at, bytes)| space.give(at, bytes));
            prop_assert_eq!(space.holes.into_iter().collect::<Vec<_>>(), vec![(0, end)]);
        }
    }
}
