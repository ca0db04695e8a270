//! The largest passes of an engine, made on the dry device: what its arena has counted afterwards is the memory that answering
//! takes at most. Nothing is estimated; it must not know what memory there is.

use ounce_model::{Hidden, Kv, Model, Part};
use ounce_tensor::{BLOCK, Device, ReadError, Rows};

use crate::engine::Settings;
use crate::scheduler::SCORED_ROWS;
use crate::speculation::ROWS;

/// What requests may ask for that takes memory of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// Log probabilities of prompts.
    pub prompt_logprobs: bool,
    pub embeddings: bool,
    /// Answers in a form, of which much may be guessed at once.
    pub forms: bool,
}

impl Settings {
    /// Makes the largest passes that an engine with these settings makes on `model`, and on the `draft` model before it. All of
    /// them are on `device`, which is dry: it has no memory, and counts it.
    ///
    /// # Errors
    /// Never: nothing is read.
    pub fn rehearse(&self, device: &Device, model: &Model, draft: Option<&Model>, asks: Asks) -> Result<(), ReadError> {
        assert!(device.is_dry(), "a rehearsal takes no memory");
        let (context, slots) = (self.context.min(model.context), self.slots.max(1));
        let settings = Settings { context, slots, ..*self };
        let chunk = settings.prefill_chunk.clamp(1, context);
        let guessed = if asks.forms { ROWS } else { ROWS.min(slots * (1 + settings.speculate)) };
        let scored = if asks.prompt_logprobs { chunk.min(slots * SCORED_ROWS) } else { 0 };
        // Those who decode do so beside a prompt, if there is a place for both; what a form begins with is guessed behind its own.
        let decoding = if slots > 1 || asks.forms { guessed.max(slots) } else { 0 };
        let passes = [(chunk + decoding, scored.max(1) + decoding), (guessed.max(slots), guessed.max(slots))];
        let mut kv = Kv::new(device, &model.config, settings.cache, settings.blocks());
        let mut drafts = draft.map(|draft| (draft, Kv::new(device, &draft.config, settings.cache, settings.blocks())));
        // The second time, weights that are streamed are those that the first has left.
        for (rows, logits) in passes.into_iter().chain(passes) {
            if let Some((draft, kv)) = &mut drafts {
                pass(device, draft, kv, context.min(draft.context), rows, slots, true)?;
            }
            pass(device, model, &mut kv, context, rows, logits, settings.int8)?;
        }
        if asks.embeddings {
            // An input is embedded whole.
            let mut pass = Hidden::new(Rows::whole(vec![0; context], &[0, context]), settings.int8);
            pass.advance(model, device, usize::MAX)?;
        }
        Ok(())
    }
}

/// A pass of `rows` rows at the end of the context, and the logits of `logits` of them.
fn pass(
    device: &Device,
    model: &Model,
    kv: &mut Kv,
    context: usize,
    rows: usize,
    logits: usize,
    int8: bool,
) -> Result<(), ReadError> {
    let tokens = vec![0; rows];
    let blocks: Vec<u32> = (0..context.div_ceil(BLOCK) as u32).collect();
    let parts: Vec<Part> =
        tokens.chunks(context).map(|tokens| Part { tokens, past: context - tokens.len(), blocks: &blocks }).collect();
    let rows = kv.begin(&parts);
    let wanted: Vec<u32> = (0..logits.min(tokens.len()) as u32).collect();
    model.infer(device, &rows, kv, &wanted, int8).map(drop)
}
