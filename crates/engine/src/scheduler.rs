//! [`Scheduler`]: which sequences run, with how many tokens, in which blocks of the cache. The oldest comes first: when blocks run
//! out, the youngest lets its own go and waits again, to be computed anew later. It knows no model and no logits.

use std::collections::VecDeque;

use ounce_tensor::BLOCK;

use crate::blocks::Blocks;
use crate::engine::Settings;
use crate::prefix::Parent;
use crate::sequence::{Output, SeqId, Sequence};
use crate::speculation::ROWS;

/// Rows of a prompt in one step where the logits of all are wanted: with 262,144 tokens to choose from, 64 rows are 64 MiB.
pub(crate) const SCORED_ROWS: usize = 64;

pub(crate) struct Scheduler {
    settings: Settings,
    /// Both by age, the oldest first.
    waiting: VecDeque<Sequence>,
    pub running: Vec<Sequence>,
    blocks: Blocks,
    /// Counts the changes of the model: what was cached before one is not found after it.
    epoch: u64,
    preemptions: u64,
    /// Whether a draft model guesses, and what it has not read cannot be found.
    pub drafts: bool,
}

/// What one running sequence does in a step: `n` of its tokens after those in the cache, and guesses after its last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Place among those that run.
    pub i: usize,
    pub n: usize,
}

/// A block whose contents another one gets before a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    pub to: u32,
    pub from: u32,
}

impl Scheduler {
    pub fn new(settings: Settings) -> Scheduler {
        let blocks = Blocks::new(settings.blocks());
        let (waiting, running) = (VecDeque::new(), Vec::new());
        Scheduler { settings, waiting, running, blocks, epoch: 0, preemptions: 0, drafts: false }
    }

    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How often a sequence had to give its blocks back.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// What the cache holds is of no use to sequences that start from now on.
    pub fn forget(&mut self) {
        self.epoch += 1;
    }

    /// All that wait or run.
    pub fn sequences(&self) -> impl Iterator<Item = &Sequence> {
        self.waiting.iter().chain(&self.running)
    }

    pub fn submit(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    pub fn cancel(&mut self, id: SeqId) {
        self.waiting.retain(|s| s.id != id);
        if let Some(i) = self.running.iter().position(|s| s.id == id) {
            self.retire(i);
        }
    }

    /// Ends a running sequence. Its blocks are free at once.
    pub fn retire(&mut self, i: usize) {
        let mut sequence = self.running.remove(i);
        self.blocks.release_all(&mut sequence.blocks);
    }

    /// Lets waiting sequences run while there are places and blocks for them, in their order. The copies are to be made, in order,
    /// before the next step.
    pub fn admit(&mut self, out: &mut Vec<Output>) -> Vec<Copied> {
        let mut copies = Vec::new();
        while self.running.len() < self.settings.slots {
            let Some(mut sequence) = self.waiting.pop_front() else { break };
            if !self.seat(&mut sequence, &mut copies) {
                self.waiting.push_front(sequence);
                break;
            }
            if !sequence.started {
                sequence.started = true;
                out.push(Output::Started { id: sequence.id, cached: sequence.cached });
            }
            let at = self.running.partition_point(|s| s.id < sequence.id);
            self.running.insert(at, sequence);
        }
        copies
    }

    /// Gives a sequence the blocks that all of its tokens need: those that hold its beginning, and fresh ones. Nothing if there are
    /// too few.
    fn seat(&mut self, sequence: &mut Sequence, copies: &mut Vec<Copied>) -> bool {
        let mut parent = Parent::Root { epoch: self.epoch, salt: sequence.salt, adapter: sequence.adapter };
        // Where each token is scored, all of them run.
        let looks = self.settings.prefix_cache && !sequence.wants_scores();
        let (whole, rest) = sequence.tokens.as_chunks::<BLOCK>();
        let mut last = None;
        for tokens in whole.iter().take(if looks { whole.len() } else { 0 }) {
            let Some(found) = self.blocks.share(parent, tokens) else { break };
            sequence.blocks.push(found.block);
            last = Some((std::mem::replace(&mut parent, found.parent), found.block));
        }
        sequence.cached = sequence.blocks.len() * BLOCK;
        // At least one token must run to give logits. Its block is the sequence's own copy, since it is written to.
        let copied = last.filter(|_| rest.is_empty() && sequence.blocks.len() == whole.len()).map(|(before, block)| {
            sequence.blocks.pop();
            sequence.cached = sequence.tokens.len() - 1;
            parent = before;
            block
        });
        (sequence.parent, sequence.published) = (parent, sequence.blocks.len());
        sequence.drafted = sequence.cached;
        let wanted = sequence.tokens.len().div_ceil(BLOCK);
        // Those that run may each need one soon.
        if self.blocks.available() < wanted - sequence.blocks.len() + self.running.len() {
            copied.into_iter().for_each(|block| self.blocks.release(block));
            self.unseat(sequence);
            return false;
        }
        if let Some(from) = copied {
            let to = self.blocks.take().expect("blocks were counted");
            sequence.blocks.push(to);
            copies.push(Copied { to, from });
            self.blocks.release(from);
        }
        while sequence.blocks.len() < wanted {
            sequence.blocks.push(self.blocks.take().expect("blocks were counted"));
        }
        true
    }

    fn unseat(&mut self, sequence: &mut Sequence) {
        self.blocks.release_all(&mut sequence.blocks);
        (sequence.cached, sequence.published, sequence.drafted) = (0, 0, 0);
    }

    /// What runs in the next step: all that decode and prompts up to the chunk, with guesses. All of it has blocks.
    pub fn plan(&mut self) -> Vec<Turn> {
        let mut budget = self.settings.prefill_chunk.max(1);
        let mut turns = Vec::new();
        let mut i = 0;
        while let Some(sequence) = self.running.get(i) {
            let left = sequence.tokens.len() - sequence.cached;
            let most = if sequence.is_scored() { SCORED_ROWS } else { usize::MAX };
            let n = if left == 1 { 1 } else { left.min(budget).min(most) };
            if n > 0 && self.make_room(i, n) {
                if left > 1 {
                    budget -= n;
                }
                turns.push(Turn { i, n });
            }
            i += 1;
        }
        self.make_guesses(&mut turns);
        // Rows of one adapter are multiplied together.
        turns.sort_by_key(|turn| self.running[turn.i].adapter);
        turns
    }

    /// Makes guesses for those whose next token is drawn, or room for those that a draft model will make.
    fn make_guesses(&mut self, turns: &mut [Turn]) {
        turns.iter().for_each(|turn| self.running[turn.i].guesses.clear());
        let draws = |turn: &Turn, s: &Sequence| turn.n == s.tokens.len() - s.cached && !s.is_scored();
        let drawing = turns.iter().filter(|turn| draws(turn, &self.running[turn.i])).count();
        let running = self.running.len();
        let each = (ROWS / drawing.max(1)).saturating_sub(1);
        for turn in turns.iter_mut().filter(|_| each > 0) {
            let sequence = &mut self.running[turn.i];
            let (len, answered) = (sequence.tokens.len(), sequence.tokens.len() - sequence.prompt_len);
            // The model adds a token to the guesses that hold.
            let left = sequence.params.max_tokens - answered;
            let most = each.min(left.min(self.settings.context - len) - 1);
            if !draws(turn, sequence) || most == 0 {
                continue;
            }
            sequence.foresee(most);
            let mut wanted = sequence.guesses.tokens.len();
            // After a prompt there is not much to go by.
            if self.settings.speculate > 0 && turn.n == 1 {
                wanted += sequence.guesses.ahead(self.settings.speculate.min(most - wanted));
            }
            if !self.drafts {
                sequence.look_up(wanted - sequence.guesses.tokens.len());
                wanted = sequence.guesses.tokens.len();
            }
            // Guesses take no block that another sequence may need.
            while (len + wanted).div_ceil(BLOCK) > sequence.blocks.len() && self.blocks.available() > running {
                sequence.blocks.extend(self.blocks.take());
            }
            wanted = wanted.min(sequence.blocks.len() * BLOCK - len);
            sequence.guesses.tokens.truncate(wanted);
            turn.n += wanted;
        }
    }

    /// Sees that sequence `i` has blocks for `n` more tokens, at the cost of younger ones. Whether it still runs.
    fn make_room(&mut self, i: usize, n: usize) -> bool {
        while i < self.running.len() {
            let sequence = &mut self.running[i];
            if (sequence.cached + n).div_ceil(BLOCK) <= sequence.blocks.len() {
                return true;
            }
            match self.blocks.take() {
                Some(block) => sequence.blocks.push(block),
                None => self.preempt(),
            }
        }
        false
    }

    /// The youngest sequence waits again.
    fn preempt(&mut self) {
        let mut sequence = self.running.pop().expect("somebody wants a block");
        self.unseat(&mut sequence);
        self.preemptions += 1;
        let at = self.waiting.partition_point(|s| s.id < sequence.id);
        self.waiting.insert(at, sequence);
    }

    /// After a step: `n` more tokens of sequence `i` are in the cache. Blocks that are full now can be found by others.
    pub fn advance(&mut self, i: usize, n: usize) {
        let sequence = &mut self.running[i];
        sequence.cached += n;
        // What was read of guesses that failed is of no use.
        sequence.drafted = sequence.drafted.min(sequence.cached);
        if !self.settings.prefix_cache {
            return;
        }
        let whole = if self.drafts { sequence.drafted } else { sequence.cached };
        let (full, _) = sequence.tokens[..whole].as_chunks::<BLOCK>();
        for (at, tokens) in full.iter().enumerate().skip(sequence.published) {
            let found = self.blocks.publish(sequence.parent, tokens, sequence.blocks[at]);
            sequence.blocks[at] = found.block;
            (sequence.parent, sequence.published) = (found.parent, at + 1);
        }
    }
}
