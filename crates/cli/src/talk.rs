//! A model that answers: engine, tokenizer and template together. What `chat`, `generate`, `eval` and `serve` run on.

mod draft;
mod memory;

use std::cell::RefCell;
use std::time::Instant;

use ounce_engine::{Engine, Failure, Finish, Refusal, Request, Settings, TextStream};
use ounce_formats::template::{ChatTemplate, RenderOptions};
use ounce_formats::{peft, prompt};
use ounce_model::Model;
use ounce_model::adapters::lora;
use ounce_plan::probe;
use ounce_spec::model::GenerationConfig;
use ounce_tensor::Device;
use ounce_tensor::kernels::Cpu;
use serde_json::Value;

use crate::codes;
use crate::error::{CliError, Result};
use crate::flags::talk::Base;
use crate::model::{self, Text};
use crate::verbs::Context;
pub use memory::Uses;
use memory::{Candidate, Place};

pub struct Speaker {
    pub engine: Engine,
    pub device: Device,
    pub text: Text,
    pub generation: GenerationConfig,
    /// The model's own template, or ChatML.
    pub template: ChatTemplate,
    /// Of the memory that may be used, what the model does not need.
    pub left_bytes: usize,
}

/// An answer and what it took.
#[derive(Clone, Debug)]
pub struct Answer {
    pub text: String,
    pub prompt_tokens: usize,
    pub tokens: usize,
    /// `stop`, `length`, `interrupted`, or `unmet` where the form that was asked for could not be kept up.
    pub reason: &'static str,
    /// Until the first token, and from there to the end; seconds.
    pub first_s: f64,
    pub rest_s: f64,
    /// Tokens guessed ahead, and those of them that held.
    pub drafted: u64,
    pub accepted: u64,
}

impl Answer {
    /// Tokens per second after the first.
    pub fn rate(&self) -> Option<f64> {
        (self.tokens > 1 && self.rest_s > 0.0).then(|| (self.tokens - 1) as f64 / self.rest_s)
    }
}

impl Speaker {
    /// Opens a model for `slots` answers at a time, with an adapter on it or none.
    pub fn open(context: &Context, flags: &Base, adapter: Option<&str>, slots: usize, uses: Uses) -> Result<Speaker> {
        Speaker::open_shared(context, flags, adapter, slots, None, uses)
    }

    /// The same where the answers share a cache of so many positions.
    pub fn open_shared(
        context: &Context,
        flags: &Base,
        adapter: Option<&str>,
        slots: usize,
        cache_tokens: Option<usize>,
        uses: Uses,
    ) -> Result<Speaker> {
        if flags.draft_model.is_some() && flags.speculate == 0 {
            return Err(CliError::new(&codes::USAGE, "--draft-model has no guesses to make: --speculate is 0")
                .help("leave one of the two out"));
        }
        let checkpoint = model::open(&flags.model, &context.env)?;
        let text = Text::of(&checkpoint)?;
        let (template, own) = text.template_or_chatml()?;
        if !own {
            context.out.note("the model has no chat template: ChatML is used");
        }
        let draft = flags.draft_model.as_deref().map(|name| draft::open(context, name, &text.tokenizer)).transpose()?;
        let device = Device::cpu(Cpu::new(context.threads()));
        let settings = Settings {
            slots,
            context: flags.context.min(checkpoint.config.max_position_embeddings),
            // What answers nothing is measured with exact products.
            int8: !flags.exact && uses.answers.is_some(),
            cache: flags.cache(),
            cache_tokens,
            speculate: flags.speculate.into(),
            ..Settings::default()
        };
        let limit = flags.mem.unwrap_or_else(probe::usable_memory_bytes);
        let draft_checkpoint = draft.as_ref();
        let candidate =
            Candidate { checkpoint: &checkpoint, adapter, draft: draft_checkpoint, settings, uses, device: &device };
        let (place, need) = candidate.place(limit)?;
        let mut model = Model::load(&device, &checkpoint, settings.context).map_err(model_error)?;
        // What ends an answer is what the tokenizer knows to end one, too.
        model.config.eos_token_id = text.tokenizer.eos_ids().to_vec();
        if let Some(dir) = adapter {
            attach(&mut model, &device, dir)?;
        }
        if let Place::OnDisk(why) = place {
            model.stream(&device, &checkpoint).map_err(|e| CliError::of(&codes::READ, &e))?;
            context.out.note(why);
        }
        let mut engine = Engine::new(&device, model, settings);
        if let Some(draft) = draft {
            let model = Model::load(&device, &draft, settings.context).map_err(model_error)?;
            let help = "lower --context, or choose a draft model that reads more";
            engine.draft_with(model).map_err(|e| CliError::of(&codes::SAMPLING, &e).help(help))?;
        }
        let left_bytes = limit.saturating_sub(need.total());
        Ok(Speaker { engine, device, text, generation: checkpoint.generation, template, left_bytes })
    }

    /// Puts another adapter on the model, or none. After a failure there is none.
    pub fn change_adapter(&mut self, dir: Option<&str>) -> Result<()> {
        let device = self.device.clone();
        self.engine.change_model(|model| {
            lora::detach(model);
            dir.map_or(Ok(()), |dir| attach(model, &device, dir))
        })
    }

    /// The tokens of a conversation that an answer is wanted to. Special tokens that its messages spell out are text.
    pub fn chat_prompt(&self, messages: &[Value]) -> Result<Vec<u32>> {
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        prompt::encode_chat(&self.template, &self.text.tokenizer, &Value::Array(messages.to_vec()), &options)
            .map_err(|e| CliError::of(&codes::TOKENIZER, &e).help("--raw continues a prompt without the template"))
    }

    /// The tokens of a text that is to be continued, with what the model is used to see before a text. Special tokens that
    /// it spells out are special: it is the whole prompt, and whoever writes it writes the turns, too.
    pub fn raw_prompt(&self, text: &str) -> Result<Vec<u32>> {
        self.text
            .tokenizer
            .encode(text, true)
            .map_err(|e| CliError::of(&codes::TOKENIZER, &e).help("shorten the prompt, or check the model's tokenizer"))
    }

    /// Answers; `show` gets text that can be printed as it comes (nothing while a long prompt is read), and ends the answer by
    /// returning false.
    pub fn answer(&mut self, request: Request, mut show: impl FnMut(&str) -> bool) -> Result<Answer> {
        let prompt_tokens = request.prompt.len();
        // The stream pushes into it, and at the end it is asked for what it still holds.
        let decoder = RefCell::new(self.text.tokenizer.stream());
        let mut stream = TextStream::new(|id| decoder.borrow_mut().push(id), &request.params.stop);
        let (started, mut first, mut tokens) = (Instant::now(), None, 0);
        let (mut stopped, mut interrupted) = (false, false);
        let before = self.engine.speculated();
        let finish = self
            .engine
            .run(request, |token| {
                let Some(token) = token else {
                    interrupted = !show("");
                    return !interrupted;
                };
                first.get_or_insert_with(Instant::now);
                tokens += 1;
                let piece = stream.push(token);
                stopped = piece.stopped;
                interrupted = !show(&piece.text);
                !stopped && !interrupted
            })
            .map_err(|e| match e {
                Failure::Refused(e) => refusal(e),
                Failure::Read(e) => CliError::of(&codes::READ, &e),
            })?;
        if !stopped {
            let rest = decoder.borrow_mut().finish();
            let _ = show(&stream.finish(rest).text);
        }
        let (first, after) = (first.unwrap_or(started), self.engine.speculated());
        Ok(Answer {
            text: stream.text().to_owned(),
            prompt_tokens,
            tokens,
            reason: match finish {
                _ if interrupted => "interrupted",
                Finish::Stop => "stop",
                Finish::Length => "length",
                Finish::Unmet => "unmet",
            },
            first_s: (first - started).as_secs_f64(),
            rest_s: first.elapsed().as_secs_f64(),
            drafted: after.drafted - before.drafted,
            accepted: after.accepted - before.accepted,
        })
    }
}

fn attach(model: &mut Model, device: &Device, dir: &str) -> Result<()> {
    let help = "give the directory of a PEFT LoRA adapter that was made for this base model";
    let (config, tensors) =
        peft::read_adapter(dir.as_ref()).map_err(|e| CliError::of(&codes::ADAPTER, &e).help(help))?;
    lora::attach_saved(model, device, dir, &config, &tensors)
        .map(|_| ())
        .map_err(|e| CliError::of(&codes::ADAPTER, &e).help(help))
}

/// A model that cannot be built.
pub fn model_error(error: ounce_model::LoadError) -> CliError {
    CliError::of(&codes::MODEL, &error).help("supported families: llama, mistral, qwen2, qwen3, gemma3, gpt2")
}

/// A prompt that cannot be answered.
pub fn refusal(error: Refusal) -> CliError {
    CliError::of(&codes::SAMPLING, &error)
        .help("shorten the prompt, or raise --context up to what the model was made for")
}
