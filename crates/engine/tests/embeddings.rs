//! Embeddings against whole passes of the model: in slices, in batches, beside answers, with adapters.

use std::collections::HashMap;
use std::path::Path;

use ounce_engine::sampler::SamplingParams;
use ounce_engine::{Embedding, Engine, Output, Pooling, Refusal, Request, SeqId, Settings};
use ounce_model::Model;
use ounce_tensor::kernels::Cpu;
use ounce_tensor::{Device, Elem, Graph, Mode, Rows};

fn load(device: &Device, family: &str) -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(family);
    Model::load(device, &ounce_formats::open(&dir).unwrap(), 64).unwrap_or_else(|e| panic!("{e}"))
}

fn engine(family: &str, prefill_chunk: usize) -> Engine {
    let device = Device::cpu(Cpu::new(2));
    let model = load(&device, family);
    Engine::new(&device, model, Settings { slots: 2, context: 64, prefill_chunk, int8: false, ..Settings::default() })
}

fn embedding(input: &[u32], pooling: Pooling) -> Embedding {
    Embedding { input: input.to_vec(), pooling, dimensions: None, normalize: false, adapter: None }
}

/// Hidden states after the final norm as the whole pass gives them, `[t, c]`.
fn hidden(family: &str, input: &[u32]) -> Vec<Vec<f32>> {
    let device = Device::cpu(Cpu::new(2));
    let model = load(&device, family);
    let (hidden, _) = model.trace(&device, &Rows::whole(input.to_vec(), &[0, input.len()]), Elem::F32);
    let mut g = Graph::new(&device, &model.params, &[], Mode::Infer { int8: false }, None, 0);
    let x = g.input(hidden.last().unwrap().clone(), false);
    let x = model.family.final_norm(&mut g, x);
    let x = g.value(x);
    x.f32().chunks(x.cols()).map(<[f32]>::to_vec).collect()
}

fn finish(engine: &mut Engine) -> HashMap<SeqId, Vec<f32>> {
    let mut found = HashMap::new();
    while !engine.is_idle() {
        engine.step().unwrap();
        found.extend(engine.embed().unwrap());
    }
    found
}

#[test]
fn vectors_are_the_pooled_states_of_a_whole_pass() {
    let inputs: [&[u32]; 4] = [&[5, 9, 14, 3, 77], &[1], &[30, 31, 32, 33, 34, 35, 36, 37, 38], &[2; 64]];
    for family in ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt2"] {
        for chunk in [512, 7] {
            let mut engine = engine(family, chunk);
            let mut ids = Vec::new();
            for input in inputs {
                for pooling in [Pooling::Last, Pooling::Mean, Pooling::Cls] {
                    ids.push((input, pooling, engine.submit_embedding(embedding(input, pooling)).unwrap()));
                }
            }
            let found = finish(&mut engine);
            for (input, pooling, id) in ids {
                let states = hidden(family, input);
                let want: Vec<f32> = match pooling {
                    Pooling::Last => states.last().unwrap().clone(),
                    Pooling::Cls => states[0].clone(),
                    Pooling::Mean => (0..states[0].len())
                        .map(|j| states.iter().map(|s| s[j]).sum::<f32>() / states.len() as f32)
                        .collect(),
                };
                for (got, want) in found[&id].iter().zip(&want) {
                    assert!((got - want).abs() < 1e-4, "{family} {pooling:?} {input:?}: {got} {want}");
                }
            }
        }
    }
}

/// A long input takes several slices, and tokens come in between.
#[test]
fn answers_go_on_beside_embeddings() {
    let mut engine = engine("llama", 8);
    let params = SamplingParams { max_tokens: 6, ignore_eos: true, ..SamplingParams::default() };
    let answering = engine.submit(Request::new(vec![5, 9], params)).unwrap();
    let long = engine.submit_embedding(embedding(&[7; 60], Pooling::Last)).unwrap();
    let waits = engine.submit_embedding(embedding(&[8; 60], Pooling::Last)).unwrap();
    let dropped = engine.submit_embedding(embedding(&[9; 60], Pooling::Last)).unwrap();
    engine.cancel(dropped);
    let mut order = Vec::new();
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            if let Output::Token { id, .. } = output {
                order.push(id);
            }
        }
        order.extend(engine.embed().unwrap().into_iter().map(|(id, _)| id));
    }
    // Two blocks, one a slice.
    assert_eq!(order, [answering, answering, long, answering, answering, waits, answering, answering]);
}

#[test]
fn inputs_may_fill_the_context_and_no_more() {
    let mut engine = engine("llama", 512);
    assert!(engine.submit_embedding(embedding(&[1; 64], Pooling::Last)).is_ok());
    let refused = |engine: &mut Engine, input: &[u32]| engine.submit_embedding(embedding(input, Pooling::Last)).err();
    assert_eq!(refused(&mut engine, &[1; 65]), Some(Refusal::InputTooLong { input: 65, context: 64 }));
    assert_eq!(refused(&mut engine, &[]), Some(Refusal::Empty));
    assert_eq!(refused(&mut engine, &[97]), Some(Refusal::Token { token: 97, vocab: 97 }));
}
