//! Which blocks of the cache hold which beginnings of prompts. A block is found by what stands before it and by its tokens
//! themselves, not by a hash of them, so no two prompts can be taken for one another. It knows no memory and no sequences.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use ounce_tensor::{AdapterId, BLOCK};

/// What stands before a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parent {
    /// Nothing: it is the first of its prompt. Prompts with unlike roots share nothing.
    Root { epoch: u64, salt: u64, adapter: Option<AdapterId> },
    /// The block that got this number when it was published.
    Block(u64),
}

type Key = (Parent, [u32; BLOCK]);

/// A published block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub block: u32,
    /// What stands before the blocks after it.
    pub parent: Parent,
}

#[derive(Debug)]
pub struct Prefixes {
    found: HashMap<Key, Found>,
    /// For each block, how it is found.
    keys: Vec<Option<Key>>,
    next: u64,
}

impl Prefixes {
    pub fn new(blocks: usize) -> Prefixes {
        Prefixes { found: HashMap::new(), keys: vec![None; blocks], next: 0 }
    }

    pub fn find(&self, parent: Parent, tokens: &[u32; BLOCK]) -> Option<Found> {
        self.found.get(&(parent, *tokens)).copied()
    }

    /// Makes a full block known. If another one with the same contents is, the answer is that one.
    pub fn publish(&mut self, parent: Parent, tokens: &[u32; BLOCK], block: u32) -> Found {
        let key = (parent, *tokens);
        match self.found.entry(key) {
            Entry::Occupied(found) => *found.get(),
            Entry::Vacant(place) => {
                debug_assert!(self.keys[block as usize].is_none(), "block {block} is published once");
                self.keys[block as usize] = Some(key);
                self.next += 1;
                *place.insert(Found { block, parent: Parent::Block(self.next) })
            }
        }
    }

    pub fn is_published(&self, block: u32) -> bool {
        self.keys[block as usize].is_some()
    }

    /// Forgets a block that will hold something else. What came after it cannot be found any more.
    pub fn forget(&mut self, block: u32) {
        if let Some(key) = self.keys[block as usize].take() {
            self.found.remove(&key);
        }
    }
}
