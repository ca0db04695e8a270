//! What is measured is what is served: the likelihood of a text is, bit for bit, the sum of the log probabilities that the engine
//! gives its tokens, whatever is measured or served beside it.

use std::path::Path;

use ounce_data::Tokenized;
use ounce_engine::sampler::SamplingParams;
use ounce_engine::{Engine, Output, Request, Settings};
use ounce_eval::likelihood;
use ounce_model::Model;
use ounce_tensor::Device;
use ounce_tensor::kernels::Cpu;

fn load(device: &Device, family: &str) -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(family);
    Model::load(device, &ounce_formats::open(&dir).unwrap(), 64).unwrap_or_else(|e| panic!("{e}"))
}

/// Scores of all tokens of a prompt but the first, prompts taken a few tokens at a time.
fn served(engine: &mut Engine, prompt: &[u32]) -> Vec<f32> {
    let params = SamplingParams { max_tokens: 1, prompt_logprobs: Some(0), ..SamplingParams::default() };
    engine.submit(Request::new(prompt.to_vec(), params)).unwrap();
    let mut scores = Vec::new();
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            if let Output::Prompt { token, .. } = output {
                scores.push(token.logprob);
            }
        }
    }
    scores
}

#[test]
fn a_text_is_as_likely_as_the_server_says() {
    let device = Device::cpu(Cpu::new(2));
    for family in ["llama", "qwen3", "gemma3_text", "gpt2"] {
        let prompts: Vec<Vec<u32>> =
            [40, 3, 63, 17].iter().map(|n| (0..*n).map(|i| (i * 31 + n * 7) % 97).collect()).collect();
        let sequence = |prompt: &Vec<u32>| Tokenized {
            ids: prompt.clone(),
            // The first half bears no loss.
            loss: (0..prompt.len()).map(|i| i >= prompt.len() / 2).collect(),
            example: 0,
            source: 0,
        };
        let sequences: Vec<Tokenized> = prompts.iter().map(sequence).collect();
        let model = load(&device, family);
        let losses = likelihood::losses(&device, &model, &sequences, |_| true).unwrap().unwrap();
        let settings = Settings { context: 64, prefill_chunk: 7, int8: false, ..Settings::default() };
        let mut engine = Engine::new(&device, model, settings);
        for (prompt, loss) in prompts.iter().zip(losses) {
            let scores = served(&mut engine, prompt);
            let scored = &scores[prompt.len() / 2 - 1..];
            let want = scored.iter().fold(0.0, |sum, x| sum - f64::from(*x));
            assert_eq!((loss.nll_sum.to_bits(), loss.tokens), (want.to_bits(), scored.len()), "{family}");
        }
    }
}
