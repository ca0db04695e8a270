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

/// A text that repeats, so that looking up finds something.
pub fn periodic(len: usize, period: usize) -> Vec<u32> {
    prompt(period, 3).into_iter().cycle().take(len).collect()
}

/// Every kind of sampling.
pub fn all_params() -> Vec<SamplingParams> {
    let sampled = SamplingParams { temperature: 1.3, ..SamplingParams::default() };
    vec![
        SamplingParams::default(),
        sampled.clone(),
        SamplingParams { top_k: 5, ..sampled.clone() },
        SamplingParams { top_p: 0.7, min_p: 0.02, ..sampled.clone() },
        SamplingParams { typical_p: 0.8, logprobs: 3, ..sampled.clone() },
        SamplingParams { repetition_penalty: 1.3, ..SamplingParams::default() },
        SamplingParams { presence_penalty: 0.7, frequency_penalty: 0.4, ..sampled.clone() },
        SamplingParams { logit_bias: vec![(5, 4.0), (6, -100.0)], ..SamplingParams::default() },
        SamplingParams { stop_tokens: (40..60).collect(), ..sampled.clone() },
        SamplingParams { top_k: 2, ..sampled.clone() },
        SamplingParams { prompt_logprobs: Some(2), ..sampled },
    ]
}

/// One with each.
pub fn requests() -> Vec<Request> {
    let one = |(i, params): (usize, SamplingParams)| {
        let prompt = if i % 3 == 2 { prompt(11 + i, i as u32) } else { periodic(12 + 3 * i, 4 + i % 2) };
        let (seed, ignore_eos) = (i as u64, i % 4 != 1);
        Request::new(prompt, SamplingParams { seed, ignore_eos, max_tokens: 3 + 5 * i, ..params })
    };
    all_params().into_iter().enumerate().map(one).collect()
}

/// The answers to requests that run together, and why each ended.
pub fn together(engine: &mut Engine, requests: Vec<Request>) -> Vec<(Answer, Vec<Output>)> {
    let ids: Vec<SeqId> = requests.into_iter().map(|r| engine.submit(r).unwrap()).collect();
    let (mut answers, mut others) = (Answers::default(), vec![Vec::new(); ids.len()]);
    while !engine.is_idle() {
        let outputs = engine.step().unwrap();
        for output in &outputs {
            let (Output::Prompt { id, .. } | Output::Token { id, .. } | Output::Finished { id, .. }) = output else {
                continue;
            };
            others[ids.iter().position(|i| i == id).unwrap()].push(output.clone());
        }
        answers.take(outputs);
    }
    ids.iter().zip(others).map(|(id, others)| (answers.0.remove(id).unwrap(), renumbered(others))).collect()
}

/// The same whatever number the engine gave.
fn renumbered(outputs: Vec<Output>) -> Vec<Output> {
    let id = SeqId(0);
    let one = |output| match output {
        Output::Started { cached, .. } => Output::Started { id, cached },
        Output::Prompt { token, .. } => Output::Prompt { id, token },
        Output::Token { token, .. } => Output::Token { id, token },
        Output::Finished { reason, token, .. } => Output::Finished { id, reason, token },
    };
    outputs.into_iter().map(one).collect()
}
