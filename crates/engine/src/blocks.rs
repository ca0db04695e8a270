//! [`Blocks`]: who may use which block of the cache. A block is free, or some sequences have it, or it is *idle*: nobody has it,
//! but a later prompt may begin with what it holds. Idle blocks count as free; the one that nobody has had for longest is
//! taken first. It knows numbers of blocks only, not their memory.

use std::collections::BTreeMap;

use ounce_tensor::BLOCK;

use crate::prefix::{Found, Parent, Prefixes};

#[derive(Debug)]
pub struct Blocks {
    /// For each block, how many sequences have it.
    owners: Vec<u32>,
    free: Vec<u32>,
    /// Idle blocks by the time since which they are, and that time of each block.
    idle: BTreeMap<u64, u32>,
    since: Vec<u64>,
    now: u64,
    prefixes: Prefixes,
}

impl Blocks {
    pub fn new(count: usize) -> Blocks {
        Blocks {
            owners: vec![0; count],
            // The lowest first: memory that was touched is used again before other memory is.
            free: (0..count as u32).rev().collect(),
            idle: BTreeMap::new(),
            since: vec![0; count],
            now: 0,
            prefixes: Prefixes::new(count),
        }
    }

    pub fn count(&self) -> usize {
        self.owners.len()
    }

    /// Blocks that can be taken.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// A block with anything in it, for one sequence.
    pub fn take(&mut self) -> Option<u32> {
        let block = self.free.pop().or_else(|| {
            let (_, block) = self.idle.pop_first()?;
            self.prefixes.forget(block);
            Some(block)
        })?;
        self.owners[block as usize] = 1;
        Some(block)
    }

    /// The block with these tokens after `parent`, for one more sequence.
    pub fn share(&mut self, parent: Parent, tokens: &[u32; BLOCK]) -> Option<Found> {
        let found = self.prefixes.find(parent, tokens)?;
        self.add_owner(found.block);
        Some(found)
    }

    /// Tells others of a block that its sequence has filled. If there is one like it, the sequence gets that one instead.
    pub fn publish(&mut self, parent: Parent, tokens: &[u32; BLOCK], block: u32) -> Found {
        let found = self.prefixes.publish(parent, tokens, block);
        if found.block != block {
            self.add_owner(found.block);
            self.release(block);
        }
        found
    }

    /// A sequence lets a block go.
    pub fn release(&mut self, block: u32) {
        let at = block as usize;
        assert!(self.owners[at] > 0, "block {block} is released more often than it was taken");
        self.owners[at] -= 1;
        if self.owners[at] > 0 {
            return;
        }
        if !self.prefixes.is_published(block) {
            return self.free.push(block);
        }
        self.now += 1;
        self.since[at] = self.now;
        self.idle.insert(self.now, block);
    }

    /// A sequence lets all of its blocks go: the last first, since what comes after a block is of no use without it.
    pub fn release_all(&mut self, blocks: &mut Vec<u32>) {
        while let Some(block) = blocks.pop() {
            self.release(block);
        }
    }

    fn add_owner(&mut self, block: u32) {
        let at = block as usize;
        if self.owners[at] == 0 {
            self.idle.remove(&self.since[at]);
        }
        self.owners[at] += 1;
    }
}
