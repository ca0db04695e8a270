//! What a model that answers takes of memory, counted before it is made, and where its weights are then: in memory, or read from
//! their file as they are used. Nothing is estimated that the dry device can count.

use ounce_engine::{Asks, Settings};
use ounce_eval::likelihood;
use ounce_formats::Checkpoint;
use ounce_model::{Kv, Model};
use ounce_tensor::{Device, Elem, Purpose, Tensor, Weight};

use super::{attach, model_error};
use crate::codes;
use crate::error::{CliError, Result};
use crate::memory;
use crate::output::units;

/// What the vocabulary takes of memory, sorted to hold answers to a form, for each token: 408 bytes with SmolLM2's 49,152 tokens, 420
/// with Gemma's 262,144. What a form itself becomes is not counted: some megabytes for a large schema, and no small bound holds
/// for those that are made to be large (docs/LOG.md, 2026-11-26).
const FORM_BYTES_PER_TOKEN: usize = 450;

/// What will be done with a model.
#[derive(Clone, Copy, Debug)]
pub struct Uses {
    /// It answers requests, which may ask for this.
    pub answers: Option<Asks>,
    /// Texts as long as the context are measured with exact products.
    pub likelihoods: bool,
}

impl Uses {
    pub const ANSWERS: Uses =
        Uses { answers: Some(Asks { prompt_logprobs: false, embeddings: false, forms: false }), likelihoods: false };
}

/// A model, and all that goes with it.
pub struct Candidate<'a> {
    pub checkpoint: &'a Checkpoint,
    pub adapter: Option<&'a str>,
    pub draft: Option<&'a Checkpoint>,
    pub settings: Settings,
    pub uses: Uses,
    /// The one it will run on.
    pub device: &'a Device,
}

/// A candidate on the dry device.
struct Dry {
    device: Device,
    model: Model,
    draft: Option<Model>,
}

/// Memory at the peak, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    weights_bytes: usize,
    cache_bytes: usize,
    work_bytes: usize,
    forms_bytes: usize,
    program_bytes: usize,
}

/// Where weights are.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    InMemory,
    /// Read from their file for every step; why.
    OnDisk(String),
}

impl Need {
    pub fn total(&self) -> usize {
        self.parts().iter().map(|part| part.1).sum()
    }

    fn parts(&self) -> [(&'static str, usize); 5] {
        [
            ("weights", self.weights_bytes),
            ("cache", self.cache_bytes),
            ("workspace", self.work_bytes),
            ("forms", self.forms_bytes),
            ("program", self.program_bytes),
        ]
    }
}

impl Candidate<'_> {
    /// Where the weights are to be if no more than `limit_bytes` may be used, and what is then needed.
    ///
    /// # Errors
    /// That is too little for either.
    pub fn place(&self, limit_bytes: usize) -> Result<(Place, Need)> {
        // Pages of the model's file that were looked at on the way here are no part of the program.
        for checkpoint in [Some(self.checkpoint), self.draft].into_iter().flatten() {
            checkpoint.tensors.iter().for_each(|(_, tensor)| tensor.bytes.forget());
        }
        let mut dry = self.made_dry()?;
        let here = self.need(&dry, None)?;
        if here.total() <= limit_bytes {
            return Ok((Place::InMemory, here));
        }
        // The same model once more, without what its passes have left.
        let stays = dry.model.unstreamable_bytes(self.checkpoint);
        dry.model.stream(&dry.device, self.checkpoint).map_err(|e| CliError::of(&codes::READ, &e))?;
        dry.device.arena().trim();
        dry.device.arena().reset_peak();
        let away = self.need(&dry, Some(stays))?;
        if away.total() <= limit_bytes {
            let (needed, limit) = (units::bytes(here.total()), units::bytes(limit_bytes));
            let why = format!(
                "{needed} would be needed and {limit} may be used: the weights are read from disk for every step"
            );
            return Ok((Place::OnDisk(why), away));
        }
        let (least, how) = match away.total() < here.total() {
            true => (away, "with its weights read from disk for every step"),
            false => (here, "reading its weights from disk would save nothing"),
        };
        let mut error =
            memory::refused("the model", &least.parts(), limit_bytes).detail(format!("that is the least, {how}"));
        if least.cache_bytes + least.work_bytes > least.total() / 4 {
            error = error.help("fewer tokens at a time: a lower --context");
        }
        if self.draft.is_some() {
            error = error.help("or no --draft-model, which takes memory of its own");
        }
        Err(error.help("or a smaller or quantised model"))
    }

    fn made_dry(&self) -> Result<Dry> {
        let (device, context) = (Device::dry(), self.settings.context);
        let mut model = Model::load(&device, self.checkpoint, context).map_err(model_error)?;
        if let Some(dir) = self.adapter {
            attach(&mut model, &device, dir)?;
        }
        let draft = self.draft.map(|draft| Model::load(&device, draft, context)).transpose().map_err(model_error)?;
        Ok(Dry { device, model, draft })
    }

    /// The most that the process has at once; with weights that are streamed, but for `stays` bytes of them.
    fn need(&self, Dry { device: dry, model, draft }: &Dry, stays: Option<usize>) -> Result<Need> {
        let (draft, settings) = (draft.as_ref(), self.settings);
        let read = |e| CliError::of(&codes::READ, &e);
        let (mut in_place, panels) = match stays {
            Some(stays) => (stays, None),
            None => self.laid_out(dry, model, settings.int8),
        };
        if self.uses.likelihoods && panels.is_some() {
            // Exact products read weights as they are stored.
            in_place = stored_bytes(model);
        }
        let (beside, _panels) = draft.map_or((0, None), |draft| self.laid_out(dry, draft, true));
        let mut cache = None;
        if let Some(asks) = self.uses.answers {
            settings.rehearse(dry, model, draft, asks).map_err(read)?;
            cache = Some(Kv::new(dry, &model.config, settings.cache, settings.blocks()));
        }
        if self.uses.likelihoods {
            likelihood::rehearse(dry, model, settings.context.min(model.context)).map_err(read)?;
        }
        drop((panels, cache));
        let (counted, threads) = (dry.memory(), self.device.processor().map_or(1, |cpu| cpu.threads()));
        let at_peak = |purpose: Purpose| counted.at_peak_bytes[purpose as usize];
        let (weights, cache) = (at_peak(Purpose::Weights) + at_peak(Purpose::Adapters), at_peak(Purpose::Cache));
        Ok(Need {
            weights_bytes: in_place + beside + weights,
            cache_bytes: cache,
            work_bytes: counted.peak_reserved_bytes.max(counted.peak_bytes) - weights - cache,
            forms_bytes: match self.uses.answers.is_some_and(|asks| asks.forms) {
                true => self.checkpoint.config.vocab_size * FORM_BYTES_PER_TOKEN,
                false => 0,
            },
            program_bytes: memory::program_bytes(threads),
        })
    }

    /// Bytes that a model's weights have in memory as they are stored, where `int8` products have an order of their own, and those
    /// that lie in that order.
    fn laid_out(&self, dry: &Device, model: &Model, int8: bool) -> (usize, Option<Tensor>) {
        let (laid_out, let_go) = if int8 { model.interleaved_bytes(self.device) } else { (0, 0) };
        let panels = (laid_out > 0).then(|| Tensor::empty(dry, Elem::F32, 1, laid_out.div_ceil(4), Purpose::Weights));
        (stored_bytes(model) - let_go, panels)
    }
}

fn stored_bytes(model: &Model) -> usize {
    let stored = model.params.iter().filter(|(_, p)| matches!(p.weight, Weight::Stored { .. }));
    stored.map(|(_, p)| p.weight.bytes_len()).sum()
}
