//! Equalities of the engine on the tiny golden models: with a cache = without, many = one, chunked = whole, remembered =
//! computed.

use std::path::Path;

use ounce_engine::sampler::{SamplingParams, argmax, logprob, top_logprobs};
use ounce_engine::{Engine, Finish, Output, Refusal, Request, SeqId, Settings};
use ounce_model::Model;
use ounce_tensor::kernels::Cpu;
use ounce_tensor::{Device, Elem, Rows};

const FAMILIES: [&str; 6] = ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt2"];

fn load(device: &Device, family: &str) -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(family);
    Model::load(device, &ounce_formats::open(&dir).unwrap(), 64).unwrap_or_else(|e| panic!("{e}"))
}

fn engine(family: &str, settings: Settings) -> Engine {
    let device = Device::cpu(Cpu::new(2));
    let model = load(&device, family);
    Engine::new(&device, model, settings)
}

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    let params = SamplingParams { temperature: 0.0, max_tokens, ignore_eos: true, ..SamplingParams::default() };
    Request::new(prompt.to_vec(), params)
}

fn exact(slots: usize, prefill_chunk: usize) -> Settings {
    Settings { slots, context: 64, prefill_chunk, int8: false, ..Settings::default() }
}

fn prompts() -> Vec<Vec<u32>> {
    vec![vec![5, 9, 14, 3, 77], vec![1], vec![30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40], vec![5, 9, 14, 60]]
}

fn answers(engine: &mut Engine, prompts: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let ids: Vec<SeqId> = prompts.iter().map(|p| engine.submit(request(p, 12)).unwrap()).collect();
    let mut out = vec![Vec::new(); ids.len()];
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            if let Output::Token { id, token } = output {
                out[ids.iter().position(|i| *i == id).unwrap()].push(token.token);
            }
        }
    }
    out
}

#[test]
fn greedy_decoding_with_a_cache_equals_whole_passes_without_one() {
    for family in FAMILIES {
        let device = Device::cpu(Cpu::new(2));
        let model = load(&device, family);
        let mut naive = Vec::new();
        for prompt in prompts() {
            let mut ids = prompt.clone();
            for _ in 0..12 {
                let bounds = [0, ids.len()];
                let (_, logits) = model.trace(&device, &Rows::whole(ids.clone(), &bounds), Elem::F32);
                let v = logits.cols();
                ids.push(argmax(&logits.f32()[logits.len() - v..]).0);
            }
            naive.push(ids[prompt.len()..].to_vec());
        }
        let mut engine = Engine::new(&device, model, exact(1, 512));
        assert_eq!(answers(&mut engine, &prompts()), naive, "{family}");
    }
}

#[test]
fn a_sequence_does_not_depend_on_its_neighbours_or_on_how_its_prompt_is_cut() {
    for family in FAMILIES {
        let alone = answers(&mut engine(family, exact(1, 512)), &prompts());
        for settings in [exact(4, 512), exact(2, 512), exact(4, 3), exact(1, 1)] {
            assert_eq!(answers(&mut engine(family, settings), &prompts()), alone, "{family} {settings:?}");
        }
    }
}

#[test]
fn a_slot_that_remembers_a_beginning_gives_the_same_answer() {
    let mut fresh = engine("llama", exact(1, 512));
    let first = answers(&mut fresh, &prompts()[..1]).remove(0);
    let next: Vec<u32> = prompts()[0].iter().chain(&first).copied().chain([8, 9]).collect();
    let remembered = answers(&mut fresh, std::slice::from_ref(&next));
    assert_eq!(remembered, answers(&mut engine("llama", exact(1, 512)), &[next]));
}

#[test]
fn sequences_end_at_their_limit_and_at_the_end_of_the_context() {
    let mut engine = engine("llama", Settings { context: 16, ..exact(1, 512) });
    let mut tokens = 0;
    let finish = engine.run(request(&[1, 2, 3], 5), |token| {
        tokens += usize::from(token.is_some());
        true
    });
    assert_eq!((finish.unwrap(), tokens), (Finish::Length, 5));
    tokens = 0;
    let finish = engine.run(request(&[1, 2, 3], 500), |token| {
        tokens += usize::from(token.is_some());
        true
    });
    assert_eq!((finish.unwrap(), tokens), (Finish::Length, 13));
}

/// Whoever waits for a long prompt may end it before its first token.
#[test]
fn a_prompt_can_be_broken_off_between_its_chunks() {
    let mut engine = engine("llama", exact(1, 4));
    let mut seen = Vec::new();
    let finish = engine.run(request(&[7; 30], 5), |token| {
        seen.push(token);
        seen.len() < 3
    });
    assert_eq!((finish.unwrap(), seen), (Finish::Stop, vec![None; 3]));
    assert!(engine.is_idle());
}

#[test]
fn impossible_requests_are_refused_with_their_numbers() {
    let mut engine = engine("llama", Settings { context: 16, ..exact(1, 512) });
    assert_eq!(engine.submit(request(&[], 5)), Err(Refusal::Empty));
    assert_eq!(engine.submit(request(&[1; 16], 5)), Err(Refusal::TooLong { prompt: 16, context: 16 }));
    assert_eq!(engine.submit(request(&[97], 5)), Err(Refusal::Token { token: 97, vocab: 97 }));
}

#[test]
fn streamed_weights_answer_as_mapped_ones_and_a_failed_read_leaves_the_engine_usable() {
    let device = Device::cpu(Cpu::new(2));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/llama");
    let home = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(name), home.path().join(name)).unwrap();
    }
    let checkpoint = ounce_formats::open(home.path()).unwrap();
    let mut model = Model::load(&device, &checkpoint, 64).unwrap();
    model.stream(&device, &checkpoint).unwrap();
    let mut streamed = Engine::new(&device, model, exact(2, 3));
    let wanted = answers(&mut engine("llama", exact(2, 3)), &prompts());
    assert_eq!(answers(&mut streamed, &prompts()), wanted);
    // The file loses its end and gets it back: the step fails, and the same answer comes afterwards.
    let path = home.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let id = streamed.submit(request(&prompts()[2], 12)).unwrap();
    let mut got = Vec::new();
    let mut failures = 0;
    while !streamed.is_idle() {
        file.set_len(whole.len() as u64 - if got.len() == 2 && failures == 0 { 100 } else { 0 }).unwrap();
        match streamed.step() {
            Ok(outputs) => got.extend(outputs.iter().filter_map(|o| match o {
                Output::Token { id: of, token } if *of == id => Some(token.token),
                _ => None,
            })),
            Err(error) => {
                failures += 1;
                assert!(error.to_string().contains("model.safetensors"), "{error}");
                std::os::unix::fs::FileExt::write_all_at(&file, &whole, 0).unwrap();
            }
        }
    }
    assert_eq!((failures, &got), (1, &wanted[2]));
}

/// What a whole pass says of each token of a prompt is what scoring it in parts says, also where a slot remembers the prompt.
#[test]
fn prompts_are_scored_as_whole_passes_score_them() {
    let device = Device::cpu(Cpu::new(2));
    let model = load(&device, "llama");
    let prompt = prompts().remove(2);
    let (_, logits) = model.trace(&device, &Rows::whole(prompt.clone(), &[0, prompt.len()]), Elem::F32);
    let v = logits.cols();
    let row = |at: usize| &logits.f32()[at * v..(at + 1) * v];
    let mut engine = Engine::new(&device, model, exact(2, 4));
    for _ in 0..2 {
        let mut wanted = request(&prompt, 2);
        (wanted.params.logprobs, wanted.params.prompt_logprobs) = (1, Some(3));
        let (mut scored, mut cached) = (Vec::new(), None);
        engine.submit(wanted).unwrap();
        while !engine.is_idle() {
            for output in engine.step().unwrap() {
                match output {
                    Output::Prompt { token, .. } => scored.push(token),
                    Output::Started { cached: n, .. } => cached = Some(n),
                    Output::Token { token, .. } => assert_eq!(token.top, [(token.token, token.logprob)]),
                    Output::Finished { .. } => {}
                }
            }
        }
        assert_eq!((scored.len(), cached), (prompt.len() - 1, Some(0)));
        for (at, scored) in scored.iter().enumerate() {
            assert_eq!(scored.token, prompt[at + 1]);
            assert!((scored.logprob - logprob(row(at), prompt[at + 1])).abs() < 1e-4, "{at}");
            let top: Vec<u32> = top_logprobs(row(at), 3).iter().map(|t| t.0).collect();
            assert_eq!(scored.top.iter().map(|t| t.0).collect::<Vec<_>>(), top, "{at}");
        }
    }
}
