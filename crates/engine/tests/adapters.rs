//! Adapters beside each other: a sequence among others has the bits that it has alone on a model with its adapter attached;
//! adapters come and go while others run.

use std::collections::HashMap;
use std::path::Path;

use ounce_engine::sampler::{Dice, SamplingParams};
use ounce_engine::{AdapterId, Engine, Output, Refusal, Request, SeqId, Settings};
use ounce_formats::peft::{self, AdapterConfig, Side};
use ounce_formats::{TensorData, Tensors};
use ounce_model::Model;
use ounce_model::adapters::lora;
use ounce_tensor::kernels::Cpu;
use ounce_tensor::{Device, Purpose};

const FAMILIES: [&str; 6] = ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt2"];
const ANSWER: usize = 10;

/// Values from -1 to 1.
fn values(dice: &mut Dice, len: usize) -> Vec<f32> {
    (0..len).map(|_| dice.fraction() as f32 * 2.0 - 1.0).collect()
}

fn device() -> Device {
    Device::cpu(Cpu::new(2))
}

fn load(device: &Device, family: &str) -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(family);
    Model::load(device, &ounce_formats::open(&dir).unwrap(), 64).unwrap_or_else(|e| panic!("{e}"))
}

/// An adapter that changes every answer: rank and layers depend on its number.
fn adapter(model: &Model, number: usize) -> (AdapterConfig, Tensors) {
    let (mut dice, mut tensors) = (Dice::new(100 + number as u64), Tensors::new());
    let rank = 2 + 3 * number;
    for (i, linear) in model.family.linears().into_iter().enumerate() {
        if i % (number + 2) == 0 {
            continue;
        }
        let (n, k) = model.params.weight(linear.weight).shape();
        let mut put = |side, shape: [usize; 2]| {
            let values: Vec<f32> = values(&mut dice, shape[0] * shape[1]).into_iter().map(|v| v * 0.5).collect();
            tensors.insert(peft::key(&linear.module, side), TensorData::from_f32(shape.to_vec(), &values));
        };
        put(Side::A, [rank, k]);
        put(Side::B, [n, rank]);
    }
    (AdapterConfig::lora("golden", rank, 4.0, vec!["all-linear".into()]), tensors)
}

fn settings(slots: usize, prefill_chunk: usize) -> Settings {
    Settings { slots, context: 64, prefill_chunk, int8: false, ..Settings::default() }
}

fn request(prompt: &[u32], adapter: Option<AdapterId>) -> Request {
    let params = SamplingParams { max_tokens: ANSWER, ignore_eos: true, ..SamplingParams::default() };
    Request { adapter, ..Request::new(prompt.to_vec(), params) }
}

/// Tokens with the bits of their log probabilities.
type Answer = Vec<(u32, u32)>;

/// Steps until nothing runs, or once.
fn step(engine: &mut Engine, answers: &mut HashMap<SeqId, Answer>) {
    for output in engine.step().unwrap() {
        if let Output::Token { id, token } = output {
            answers.entry(id).or_default().push((token.token, token.logprob.to_bits()));
        }
    }
}

/// The answer on a model of its own, with the adapter attached to it.
fn alone(family: &str, number: Option<usize>, prompt: &[u32], settings: Settings) -> Answer {
    let device = device();
    let mut model = load(&device, family);
    if let Some(number) = number {
        let (config, tensors) = adapter(&model, number);
        lora::attach_saved(&mut model, &device, "test", &config, &tensors).unwrap_or_else(|e| panic!("{e}"));
    }
    let mut engine = Engine::new(&device, model, Settings { slots: 1, ..settings });
    let id = engine.submit(request(prompt, None)).unwrap();
    let mut answers = HashMap::new();
    while !engine.is_idle() {
        step(&mut engine, &mut answers);
    }
    answers.remove(&id).unwrap()
}

fn load_adapter(engine: &mut Engine, number: usize) -> AdapterId {
    let (config, tensors) = adapter(engine.model(), number);
    let adapter = engine.layers().read("test", &config, &tensors).unwrap_or_else(|e| panic!("{e}"));
    engine.load_adapter(adapter)
}

/// The adapters 0 and 1 beside the base.
fn beside(family: &str, settings: Settings) -> (Engine, [AdapterId; 2]) {
    let device = device();
    let mut engine = Engine::new(&device, load(&device, family), settings);
    let ids = [0, 1].map(|number| load_adapter(&mut engine, number));
    (engine, ids)
}

/// Prompts that share beginnings, so that one could pass for another.
fn prompts() -> Vec<Vec<u32>> {
    vec![vec![5, 9, 14, 3, 77], vec![5, 9, 14, 60], vec![1], vec![30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40]]
}

/// Runs these (prompt, adapter) with random arrival.
fn mixed(engine: &mut Engine, ids: [AdapterId; 2], wanted: &[(usize, Option<usize>)], dice: &mut Dice) -> Vec<Answer> {
    let (mut answers, mut order) = (HashMap::new(), Vec::new());
    while order.len() < wanted.len() || !engine.is_idle() {
        if order.len() < wanted.len() && (engine.is_idle() || dice.roll(3) == 0) {
            let (prompt, number) = wanted[order.len()];
            order.push(engine.submit(request(&prompts()[prompt], number.map(|n| ids[n]))).unwrap());
        }
        step(engine, &mut answers);
    }
    order.iter().map(|id| answers.remove(id).unwrap()).collect()
}

#[test]
fn a_sequence_among_others_has_the_bits_that_it_has_alone() {
    for (family, chunk) in FAMILIES.into_iter().flat_map(|family| [(family, 4), (family, 64)]) {
        let settings = settings(4, chunk);
        let mut cases = Vec::new();
        for prompt in 0..prompts().len() {
            for number in [None, Some(0), Some(1)] {
                cases.push((prompt, number));
            }
        }
        let want: Vec<Answer> = cases.iter().map(|&(p, n)| alone(family, n, &prompts()[p], settings)).collect();
        for (i, answer) in want.iter().enumerate().filter(|(i, _)| i % 3 != 0) {
            assert_ne!(answer, &want[i - i % 3], "{family}: an adapter that changes nothing proves nothing");
        }
        let mut dice = Dice::new(3);
        let (mut engine, ids) = beside(family, settings);
        for _ in 0..4 {
            // In another order each time, with what the slots remember of the last.
            let mut order: Vec<usize> = (0..cases.len()).collect();
            for i in (1..order.len()).rev() {
                order.swap(i, dice.roll(i + 1));
            }
            let shuffled: Vec<_> = order.iter().map(|&i| cases[i]).collect();
            for (got, &i) in mixed(&mut engine, ids, &shuffled, &mut dice).iter().zip(&order) {
                assert_eq!(got, &want[i], "{family} {:?}", cases[i]);
            }
        }
    }
}

#[test]
fn two_hundred_mixed_batches_answer_as_each_request_alone() {
    let settings = settings(6, 16);
    let mut solo: HashMap<(usize, Option<usize>), Answer> = HashMap::new();
    let mut dice = Dice::new(11);
    let (mut engine, ids) = beside("llama", settings);
    for batch in 0..200 {
        let wanted: Vec<(usize, Option<usize>)> = (0..2 + dice.roll(8))
            .map(|_| (dice.roll(prompts().len()), [None, Some(0), Some(1)][dice.roll(3)]))
            .collect();
        for (got, &(prompt, number)) in mixed(&mut engine, ids, &wanted, &mut dice).iter().zip(&wanted) {
            let want =
                solo.entry((prompt, number)).or_insert_with(|| alone("llama", number, &prompts()[prompt], settings));
            assert_eq!(got, want, "batch {batch}, prompt {prompt}, adapter {number:?}");
        }
    }
}

#[test]
fn what_one_adapter_left_in_the_cache_is_nothing_to_another() {
    let (mut engine, ids) = beside("llama", settings(4, 64));
    // Two blocks of the cache and a token.
    let prompt: Vec<u32> = (0..33).map(|i| i * 5 % 97).collect();
    let mut cached = |adapter| {
        engine.submit(request(&prompt, adapter)).unwrap();
        let mut found = None;
        while !engine.is_idle() {
            for output in engine.step().unwrap() {
                if let Output::Started { cached, .. } = output {
                    found = Some(cached);
                }
            }
        }
        found.unwrap()
    };
    let (a, b) = (Some(ids[0]), Some(ids[1]));
    for (adapter, wanted) in [(None, 0), (a, 0), (a, 32), (b, 0), (None, 32), (b, 32), (a, 32)] {
        assert_eq!(cached(adapter), wanted, "{adapter:?}");
    }
}

#[test]
fn adapters_come_and_go_while_others_run() {
    let settings = settings(3, 4);
    let device = device();
    let held = || device.arena().usage().live_bytes[Purpose::ALL.iter().position(|p| *p == Purpose::Adapters).unwrap()];
    let mut engine = Engine::new(&device, load(&device, "llama"), settings);
    let prompt = &prompts()[0];
    let mut answers = HashMap::new();
    let first = load_adapter(&mut engine, 0);
    let (running, waiting) = (engine.submit(request(prompt, Some(first))), engine.submit(request(prompt, None)));
    for _ in 0..3 {
        step(&mut engine, &mut answers);
    }
    let one = held();
    let second = load_adapter(&mut engine, 1);
    let other = engine.submit(request(prompt, Some(second)));
    step(&mut engine, &mut answers);
    engine.drop_adapter(first);
    assert!(held() > one, "the sequence that runs has its adapter");
    assert_eq!(engine.submit(request(prompt, Some(first))), Err(Refusal::Adapter));
    while !engine.is_idle() {
        step(&mut engine, &mut answers);
    }
    for (id, number) in [(running, Some(0)), (waiting, None), (other, Some(1))] {
        assert_eq!(answers[&id.unwrap()], alone("llama", number, prompt, settings), "{number:?}");
    }
    let (config, tensors) = adapter(engine.model(), 1);
    let second_bytes = tensors.iter().map(|(_, t)| 4 * t.elements()).sum::<usize>();
    assert!(held() >= second_bytes && held() < one + second_bytes, "only the second is left");
    // One that has no sequence goes at once; one that is cancelled, too.
    engine.drop_adapter(second);
    assert_eq!(held(), 0);
    let third = engine.layers().read("test", &config, &tensors).map(|a| engine.load_adapter(a)).unwrap();
    let id = engine.submit(request(prompt, Some(third))).unwrap();
    step(&mut engine, &mut answers);
    engine.drop_adapter(third);
    assert!(held() >= second_bytes);
    engine.cancel(id);
    assert_eq!(held(), 0);
}

#[test]
fn an_adapter_that_does_not_fit_is_told_with_every_fault() {
    let (engine, _) = beside("llama", settings(1, 4));
    let (config, mut tensors) = adapter(engine.model(), 0);
    let names: Vec<String> = tensors.names().map(String::from).collect();
    let [wide, lost, bad] = [&names[0], &names[2], &names[4]];
    tensors.insert(wide.clone(), TensorData::from_f32(vec![3, 2], &[0.0; 6]));
    tensors.take(lost);
    let shape = tensors.get(bad).unwrap().shape.clone();
    tensors.insert(bad.clone(), TensorData::from_f32(shape.clone(), &vec![f32::NAN; shape[0] * shape[1]]));
    tensors.insert("base_model.model.model.layers.9.mlp.up_proj.lora_A.weight", TensorData::from_f32(vec![1], &[0.0]));
    let Err(error) = engine.layers().read("dir", &config, &tensors) else { panic!("it fits") };
    let text = error.to_string();
    for part in [&format!("{wide}: file has [3, 2]"), lost, "not finite", "layers.9.mlp.up_proj"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}
