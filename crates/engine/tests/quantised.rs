//! The equalities of serving on a model with quantised weights, with int8 products and exact ones: an answer has the same bits
//! alone, among others, from the cache, and with its prompt in pieces. The file comes from `cargo xtask assets`.

use std::path::{Path, PathBuf};

use ounce_engine::sampler::SamplingParams;
use ounce_engine::{Engine, Output, Request, SeqId, Settings};
use ounce_model::Model;
use ounce_tensor::Device;
use ounce_tensor::kernels::Cpu;

fn model(device: &Device) -> Model {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets");
    let assets = std::env::var_os("OUNCE_ASSETS").filter(|v| !v.is_empty()).map_or(workspace, PathBuf::from);
    let path = assets.join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let checkpoint = ounce_formats::open(&path).unwrap_or_else(|e| panic!("{e}; run cargo xtask assets"));
    Model::load(device, &checkpoint, 128).unwrap_or_else(|e| panic!("{e}"))
}

fn prompt(i: u32) -> Vec<u32> {
    (0..37 + 3 * i).map(|at| 500 + (at * 31 + i * 977) % 20_000).collect()
}

/// For each prompt, the tokens of its greedy answer with the bits of their log probabilities, and what was cached.
fn answers(engine: &mut Engine, prompts: &[Vec<u32>], max_tokens: usize) -> Vec<(Vec<(u32, u32)>, usize)> {
    let submit = |prompt: &Vec<u32>| {
        let params = SamplingParams { temperature: 0.0, max_tokens, ignore_eos: true, ..SamplingParams::default() };
        engine.submit(Request::new(prompt.clone(), params)).unwrap()
    };
    let ids: Vec<SeqId> = prompts.iter().map(submit).collect();
    let mut out = vec![(Vec::new(), 0); ids.len()];
    let place = |of: SeqId| ids.iter().position(|id| *id == of).unwrap();
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            match output {
                Output::Token { id, token } => out[place(id)].0.push((token.token, token.logprob.to_bits())),
                Output::Started { id, cached } => out[place(id)].1 = cached,
                Output::Prompt { .. } | Output::Finished { .. } => {}
            }
        }
    }
    out
}

#[test]
fn an_answer_has_the_same_bits_alone_among_others_and_from_the_cache() {
    let device = Device::cpu(Cpu::new(2));
    let prompts: Vec<Vec<u32>> = (0..3).map(prompt).collect();
    for int8 in [true, false] {
        let settings = Settings { slots: 3, context: 128, int8, ..Settings::default() };
        let mut engine = Engine::new(&device, model(&device), settings);
        let alone: Vec<_> =
            prompts.iter().map(|p| answers(&mut engine, std::slice::from_ref(p), 8).remove(0)).collect();
        assert!(alone.iter().all(|(tokens, cached)| tokens.len() == 8 && *cached == 0));
        let again = answers(&mut engine, &prompts, 8);
        assert!(again.iter().all(|(_, cached)| *cached >= 32), "{again:?}");
        let cut = Settings { prefill_chunk: 11, prefix_cache: false, ..settings };
        let together = answers(&mut Engine::new(&device, model(&device), cut), &prompts, 8);
        for (i, (tokens, _)) in alone.iter().enumerate() {
            assert_eq!(tokens, &again[i].0, "prompt {i} from the cache, int8 {int8}");
            assert_eq!(tokens, &together[i].0, "prompt {i} in pieces among others, int8 {int8}");
        }
    }
}

/// With room for little more than one of them, the younger ones give their blocks back and are computed anew.
#[test]
fn an_answer_has_the_same_bits_after_it_had_to_wait_again() {
    let device = Device::cpu(Cpu::new(2));
    let prompts: Vec<Vec<u32>> = (0..3).map(|i| prompt(i)[..20].to_vec()).collect();
    for int8 in [true, false] {
        let settings = Settings { slots: 3, context: 64, int8, ..Settings::default() };
        let wanted = answers(&mut Engine::new(&device, model(&device), settings), &prompts, 30);
        let narrow = Settings { cache_tokens: Some(128), prefix_cache: false, ..settings };
        let mut narrow = Engine::new(&device, model(&device), narrow);
        let got = answers(&mut narrow, &prompts, 30);
        assert!(narrow.preemptions() > 0, "the cache had room for all of them");
        for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
            assert_eq!(got.0, wanted.0, "prompt {i}, int8 {int8}");
        }
    }
}
