//! An engine on the small models of the golden files, requests and their answers.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::collections::HashMap;
use std::path::Path;

use ounce_engine::sampler::SamplingParams;
use ounce_engine::{Engine, Output, Request, SeqId, Settings};
use ounce_model::Model;
use ounce_tensor::Device;
use ounce_tensor::kernels::Cpu;

const VOCAB: u32 = 97;

pub fn engine(family: &str, settings: Settings) -> Engine {
    Engine::new(&Device::cpu(Cpu::new(2)), model(family), settings)
}

pub fn model(family: &str) -> Model {
    model_for(family, 64)
}

/// A model that reads so many positions.
pub fn model_for(family: &str, context: usize) -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(family);
    let device = Device::cpu(Cpu::new(2));
    Model::load(&device, &ounce_formats::open(&dir).unwrap(), context).unwrap_or_else(|e| panic!("{e}"))
}

pub fn settings(slots: usize) -> Settings {
    Settings { slots, context: 64, prefill_chunk: 24, int8: false, ..Settings::default() }
}

pub fn request(prompt: &[u32], seed: u64, max_tokens: usize) -> Request {
    let params = SamplingParams { seed, max_tokens, ignore_eos: true, ..SamplingParams::default() };
    Request::new(prompt.to_vec(), params)
}

/// Tokens with the bits of their log probabilities, and how much of the prompt was cached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub tokens: Vec<(u32, u32)>,
    pub cached: usize,
}

#[derive(Default)]
pub struct Answers(pub HashMap<SeqId, Answer>);

impl Answers {
    pub fn step(&mut self, engine: &mut Engine) {
        self.take(engine.step().unwrap());
    }

    pub fn take(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Started { id, cached } => self.0.entry(id).or_default().cached = cached,
                Output::Token { id, token } => {
                    self.0.entry(id).or_default().tokens.push((token.token, token.logprob.to_bits()));
                }
                Output::Prompt { .. } | Output::Finished { .. } => {}
            }
        }
    }
}

pub fn answer(engine: &mut Engine, request: Request) -> Answer {
    let id = engine.submit(request).unwrap();
    let mut answers = Answers::default();
    while !engine.is_idle() {
        answers.step(engine);
    }
    answers.0.remove(&id).unwrap()
}

pub fn prompt(len: usize, salt: u32) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 31 + salt * 7) % VOCAB).collect()
}
