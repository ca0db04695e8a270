//! [`DraftModel`]: a smaller model with the same tokens that guesses for a larger one. Its keys and values lie in blocks of the same
//! numbers as those of the larger, so sequences share, copy and lose both together.

use ounce_model::{Kv, Model, Part};
use ounce_tensor::kernels::CacheType;
use ounce_tensor::{BLOCK, Device, ReadError};

use crate::scheduler::Turn;
use crate::sequence::Sequence;

pub(crate) struct DraftModel {
    model: Model,
    kv: Kv,
}

/// What is run for a sequence: tokens it has or guesses, the positions before them, and how many guesses are wanted after them.
struct Reading {
    /// Place among those that run.
    i: usize,
    tokens: Vec<u32>,
    past: usize,
    wanted: usize,
}

impl DraftModel {
    /// Guesses are rounded as far as they can be: an answer does not depend on them.
    pub fn new(device: &Device, mut model: Model, cache: CacheType, blocks: usize) -> DraftModel {
        model.interleave(device);
        let kv = Kv::new(device, &model.config, cache, blocks);
        DraftModel { model, kv }
    }

    pub fn copy_block(&mut self, device: &Device, to: u32, from: u32) {
        self.kv.copy_block(device, to, from);
    }

    /// Reads what sequences got since it last did, and guesses for those turns that have room for guesses. Turns keep the room that was
    /// used.
    pub fn guess(&mut self, device: &Device, running: &mut [Sequence], turns: &mut [Turn]) -> Result<(), ReadError> {
        self.read_on(device, running, turns)?;
        turns.iter_mut().for_each(|turn| turn.n -= running[turn.i].to_guess(turn.n));
        Ok(())
    }

    fn read_on(&mut self, device: &Device, running: &mut [Sequence], turns: &[Turn]) -> Result<(), ReadError> {
        let mut readings: Vec<Reading> = turns.iter().filter_map(|turn| self.due(turn, &running[turn.i])).collect();
        while !readings.is_empty() {
            let (mut parts, mut asked, mut row) = (Vec::new(), Vec::new(), 0);
            for Reading { i, tokens, past, wanted } in &readings {
                parts.push(Part { tokens, past: *past, blocks: &running[*i].blocks });
                row += tokens.len() as u32;
                asked.extend((*wanted > 0).then_some(row - 1));
            }
            let rows = self.kv.begin(&parts);
            let x = self.model.infer_blocks(device, &rows, &mut self.kv, true)?;
            for reading in &readings {
                running[reading.i].drafted = reading.past + reading.tokens.len();
            }
            readings.retain(|reading| reading.wanted > 0);
            if readings.is_empty() {
                return Ok(());
            }
            let logits = self.model.infer_head(device, &x, &asked, true)?;
            for (reading, logits) in readings.iter_mut().zip(logits.f32().chunks_exact(logits.cols())) {
                let guess = running[reading.i].guess(logits);
                reading.past += reading.tokens.len();
                reading.tokens = guess.iter().map(|&guess| self.known(guess)).collect();
                reading.wanted = if guess.is_some() { reading.wanted - 1 } else { 0 };
            }
            // After the last guess there is nothing to ask.
            readings.retain(|reading| reading.wanted > 0);
        }
        Ok(())
    }

    /// What is to be read for a turn: prompts as they are read; answers, with the guesses there are, before more are guessed, or once a
    /// block of theirs is whole.
    fn due(&self, &Turn { i, n }: &Turn, sequence: &Sequence) -> Option<Reading> {
        let Sequence { tokens, cached, guesses, .. } = sequence;
        let (to, wanted) = (tokens.len().min(cached + n), sequence.to_guess(n));
        let past = sequence.drafted.min(to - 1);
        let due = tokens.len() - cached > 1 || wanted > 0 || to - past >= BLOCK;
        let guesses = if wanted > 0 { &guesses.tokens[..] } else { &[] };
        let tokens = tokens[past..to].iter().chain(guesses).map(|&token| self.known(token));
        due.then(|| Reading { i, tokens: tokens.collect(), past, wanted })
    }

    /// A token that the larger model has and this one lacks is any other to it.
    fn known(&self, token: u32) -> u32 {
        if (token as usize) < self.model.config.vocab_size { token } else { 0 }
    }
}
