//! The cache in blocks: what a sequence is given does not depend on where its keys lie, on who left them there, or on whether
//! it had to give them back; and every block comes back.

mod common;

use common::{Answers, answer, engine, prompt, request, settings};
use ounce_engine::sampler::Dice;
use ounce_engine::{Output, Request, SeqId, Settings};
use ounce_tensor::kernels::CacheType;

#[test]
fn a_beginning_that_is_found_gives_the_bits_of_one_that_is_computed() {
    for family in ["llama", "gemma3_text", "gpt2"] {
        for cache in [CacheType::F32, CacheType::Bf16, CacheType::Q8, CacheType::Q4] {
            let mut remembers = engine(family, Settings { cache, ..settings(2) });
            let mut forgets = engine(family, Settings { cache, prefix_cache: false, ..settings(2) });
            // A prompt, itself again, one that goes on, one of whole blocks, and one that parts ways within a block.
            let (long, mut other) = (prompt(40, 1), prompt(40, 1));
            other[20] = 3;
            let prompts = [prompt(33, 1), prompt(33, 1), long, prompt(32, 1), prompt(32, 1), other];
            let mut found = Vec::new();
            for (seed, prompt) in prompts.iter().enumerate() {
                let got = answer(&mut remembers, request(prompt, seed as u64, 12));
                let want = answer(&mut forgets, request(prompt, seed as u64, 12));
                assert_eq!(got.tokens, want.tokens, "{family} {cache:?}: prompt {seed}");
                assert_eq!(want.cached, 0);
                found.push(got.cached);
            }
            assert_eq!(found, [0, 32, 32, 31, 31, 16], "{family} {cache:?}");
        }
    }
}

#[test]
fn who_has_another_salt_finds_nothing() {
    let mut engine = engine("llama", settings(4));
    let prompt = prompt(40, 2);
    let mut cached = |salt| answer(&mut engine, Request { salt, ..request(&prompt, 0, 2) }).cached;
    assert_eq!([0, 0, 1, 2, 1, 0].map(&mut cached), [0, 32, 0, 0, 32, 32]);
}

/// With room for little more than one full sequence the younger ones give their blocks back again and again.
#[test]
fn a_sequence_that_had_to_wait_again_answers_as_if_nothing_had_been() {
    for family in ["llama", "mistral"] {
        let lengths = [20, 3, 30, 17, 9, 25];
        let mut roomy = engine(family, settings(1));
        let wanted: Vec<_> = lengths
            .iter()
            .enumerate()
            .map(|(i, &n)| answer(&mut roomy, request(&prompt(n, i as u32), i as u64, 30)).tokens)
            .collect();
        for cache_tokens in [64, 96, 160] {
            let mut narrow = engine(family, Settings { cache_tokens: Some(cache_tokens), ..settings(6) });
            let submit = |(i, &n)| narrow.submit(request(&prompt(n, i as u32), i as u64, 30)).unwrap();
            let ids: Vec<SeqId> = lengths.iter().enumerate().map(submit).collect();
            let mut answers = Answers::default();
            while !narrow.is_idle() {
                answers.step(&mut narrow);
            }
            let got: Vec<_> = ids.iter().map(|id| answers.0[id].tokens.clone()).collect();
            assert_eq!(got, wanted, "{family}, {cache_tokens} positions");
            assert!(cache_tokens == 64 || narrow.preemptions() > 0, "{cache_tokens} positions sufficed");
            assert_eq!(narrow.cache_usage(), 0.0);
        }
    }
}

/// Ten thousand submissions, cancellations and steps in any order: no block is lost, none is given twice (which would panic), and
/// what survives has its answer.
#[test]
fn blocks_come_back_whatever_is_done() {
    let mut dice = Dice::new(11);
    let mut crowded = engine("llama", Settings { cache_tokens: Some(112), speculate: 6, ..settings(5) });
    let mut quiet = engine("llama", settings(1));
    let (mut open, mut answers) = (Vec::new(), Answers::default());
    let mut checked = 0;
    for _ in 0..10_000 {
        match dice.roll(10) {
            0 | 1 if open.len() < 12 => {
                let (len, salt) = (1 + dice.roll(50), dice.roll(4) as u32);
                let (seed, tokens) = (dice.roll(5) as u64, 1 + dice.roll(20));
                let id = crowded.submit(request(&prompt(len, salt), seed, tokens)).unwrap();
                open.push((id, len, salt, seed, tokens));
            }
            2 if !open.is_empty() => crowded.cancel(open.swap_remove(dice.roll(open.len())).0),
            3 if dice.roll(40) == 0 => crowded.change_model(|_| ()),
            _ => {
                answers.step(&mut crowded);
                let tokens = |id: &SeqId| answers.0.get(id).map_or(0, |a| a.tokens.len());
                let ended =
                    |&(id, len, _, _, most): &(SeqId, usize, u32, u64, usize)| tokens(&id) == most.min(64 - len);
                let done: Vec<_> = open.extract_if(.., |entry| ended(entry)).collect();
                for (id, len, salt, seed, tokens) in done {
                    if dice.roll(8) == 0 {
                        let want = answer(&mut quiet, request(&prompt(len, salt), seed, tokens)).tokens;
                        assert_eq!(answers.0[&id].tokens, want);
                        checked += 1;
                    }
                }
            }
        }
    }
    open.iter().for_each(|(id, ..)| crowded.cancel(*id));
    assert!(crowded.is_idle() && crowded.cache_usage() == 0.0 && crowded.preemptions() > 0 && checked > 20);
    assert!(crowded.speculated().accepted > 100, "{:?}", crowded.speculated());
    // All of them can be had at once.
    assert_eq!(answer(&mut crowded, request(&prompt(60, 9), 0, 4)).tokens.len(), 4);
}

/// Narrow caches round: what they say stays near, the more bits the nearer.
#[test]
fn narrow_caches_stay_near_f32() {
    let prompt = prompt(48, 5);
    let first = |cache| {
        let mut engine = engine("llama", Settings { cache, ..settings(1) });
        let mut wanted = request(&prompt, 0, 1);
        wanted.params.prompt_logprobs = Some(0);
        engine.submit(wanted).unwrap();
        let mut scores = Vec::new();
        while !engine.is_idle() {
            for output in engine.step().unwrap() {
                if let Output::Prompt { token, .. } = output {
                    scores.push(f64::from(token.logprob));
                }
            }
        }
        scores
    };
    let exact = first(CacheType::F32);
    let off = |cache| {
        let scores = first(cache);
        scores.iter().zip(&exact).map(|(a, b)| (a - b).abs()).sum::<f64>() / exact.len() as f64
    };
    let [bf16, q8, q4] = [CacheType::Bf16, CacheType::Q8, CacheType::Q4].map(off);
    assert!(0.0 < bf16 && bf16 < q8 && q8 < 0.03 && q8 < q4 && q4 < 0.3, "{bf16} {q8} {q4}");
}
