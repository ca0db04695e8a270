//! Speculative decoding: an answer has the same tokens and log probabilities with guesses and without, bit for bit, whoever guesses,
//! however it is drawn, and whatever runs beside it. So its distribution is that of plain decoding.

mod common;

use common::{Answers, answer, engine, model, model_for, periodic, prompt, request, requests, settings, together};
use ounce_engine::sampler::Dice;
use ounce_engine::{Finish, Request, SeqId, Settings, ShortDraft, Speculated};
use ounce_tensor::kernels::CacheType;

#[test]
fn looking_up_changes_no_bit_of_any_answer() {
    for family in ["llama", "mistral", "qwen3", "gemma3_text", "gpt2"] {
        let plain: Vec<_> =
            requests().into_iter().map(|r| together(&mut engine(family, settings(1)), vec![r]).remove(0)).collect();
        let mut all = Speculated::default();
        for (slots, speculate, cache_tokens) in [(1, 1, None), (1, 8, None), (4, 16, None), (10, 8, Some(96))] {
            let mut guessing = engine(family, Settings { speculate, cache_tokens, ..settings(slots) });
            let got = together(&mut guessing, requests());
            for (i, (got, plain)) in got.iter().zip(&plain).enumerate() {
                assert_eq!(got.0.tokens, plain.0.tokens, "{family}, {slots} slots, {speculate} ahead, request {i}");
                assert_eq!(got.1, plain.1, "{family}, {slots} slots, {speculate} ahead, request {i}");
            }
            let fared = guessing.speculated();
            (all.drafted, all.accepted) = (all.drafted + fared.drafted, all.accepted + fared.accepted);
            assert!(guessing.cache_usage() == 0.0 && (cache_tokens.is_none() || guessing.preemptions() > 0));
        }
        // Guesses that held and guesses that failed were both there.
        assert!(10 < all.accepted && all.accepted + 10 < all.drafted, "{family}: {all:?}");
    }
}

#[test]
fn no_draft_model_changes_a_bit_of_any_answer() {
    for (family, draft) in [("llama", "mistral"), ("qwen3", "llama"), ("gpt2", "gpt2")] {
        for cache in [CacheType::F32, CacheType::Bf16, CacheType::Q8] {
            let plain: Vec<_> = requests()
                .into_iter()
                .map(|r| together(&mut engine(family, Settings { cache, ..settings(1) }), vec![r]).remove(0))
                .collect();
            for (slots, cache_tokens) in [(1, None), (10, None), (10, Some(96))] {
                let settings = Settings { speculate: 5, cache, cache_tokens, ..settings(slots) };
                let mut guessing = engine(family, settings);
                guessing.draft_with(model(draft)).unwrap();
                let got = together(&mut guessing, requests());
                for (i, (got, plain)) in got.iter().zip(&plain).enumerate() {
                    assert_eq!(got.1, plain.1, "{family} with {draft}, {slots} slots, request {i}");
                }
                assert!(guessing.speculated().drafted > 0);
                assert!(cache_tokens.is_none() || guessing.preemptions() > 0);
            }
        }
    }
}

/// Its own draft model agrees with a model always, as long as it has read the same text: after a beginning that was found, one that was
/// copied, a wait, guesses that failed, and steps without any.
#[test]
fn a_model_that_guesses_for_itself_is_always_right() {
    for family in ["llama", "gemma3_text"] {
        let draft = |settings| {
            let mut engine = engine(family, settings);
            engine.draft_with(model(family)).unwrap();
            engine
        };
        let mut guessing = draft(Settings { speculate: 5, ..settings(1) });
        for (seed, prompt) in
            [prompt(33, 1), prompt(33, 1), prompt(40, 1), prompt(32, 1), prompt(32, 1)].iter().enumerate()
        {
            let before = guessing.speculated();
            let sampled = |mut r: Request| {
                r.params.temperature = 0.9;
                r
            };
            let got = answer(&mut guessing, sampled(request(prompt, seed as u64, 20)));
            assert_eq!(
                got.tokens,
                answer(&mut engine(family, settings(1)), sampled(request(prompt, seed as u64, 20))).tokens
            );
            let fared = guessing.speculated();
            assert_eq!(fared.accepted - before.accepted, fared.drafted - before.drafted, "{family}, prompt {seed}");
            // 20 tokens: 19 guessed or added after the first, in steps that grow.
            assert!(fared.drafts - before.drafts <= 5 && fared.drafted - before.drafted > 13, "{fared:?}");
        }
        let mut crowded = draft(Settings { speculate: 3, cache_tokens: Some(128), ..settings(6) });
        let requests = || (0..6).map(|i| request(&prompt(9 + 2 * i, i as u32), i as u64, 40)).collect::<Vec<_>>();
        together(&mut crowded, requests());
        let fared = crowded.speculated();
        assert!(crowded.preemptions() > 0 && fared.drafted > 50, "{fared:?}");
        assert_eq!(fared.accepted, fared.drafted, "{family}");
    }
}

#[test]
fn a_draft_model_that_reads_less_than_the_context_is_refused() {
    // Loaded for 64 positions, but for an engine of 64 it is long enough.
    let mut long = engine("llama", settings(1));
    assert_eq!(long.draft_with(model_for("mistral", 48)), Err(ShortDraft { draft: 48, context: 64 }));
    assert_eq!(long.draft_with(model_for("mistral", 64)), Ok(()));
}

/// Ends within guessed tokens: at a stop token, at the limit, and by whoever listens.
#[test]
fn an_answer_ends_where_it_would_have_ended() {
    let prompt = periodic(30, 3);
    let plain = answer(&mut engine("llama", settings(1)), request(&prompt, 0, 30));
    for end in 1..30 {
        let mut guessing = engine("llama", Settings { speculate: 8, ..settings(1) });
        let mut seen = Vec::new();
        let finish = guessing.run(request(&prompt, 0, 30), |token| {
            seen.extend(token);
            seen.len() < end
        });
        let wanted: Vec<u32> = plain.tokens[..end].iter().map(|t| t.0).collect();
        assert_eq!((finish.unwrap(), seen), (Finish::Stop, wanted));
        assert!(guessing.is_idle() && guessing.cache_usage() == 0.0);
        let mut limited = engine("llama", Settings { speculate: 8, ..settings(1) });
        assert_eq!(answer(&mut limited, request(&prompt, 0, end)).tokens, plain.tokens[..end]);
    }
}

/// Requests come and go at random beside each other, with a draft model: what is answered is what is answered alone.
#[test]
fn cancelled_guesses_leave_nothing_behind() {
    let mut dice = Dice::new(5);
    let mut crowded = engine("llama", Settings { speculate: 4, cache_tokens: Some(128), ..settings(4) });
    crowded.draft_with(model("mistral")).unwrap();
    let mut alone = engine("llama", settings(1));
    let (mut open, mut answers) = (Vec::new(), Answers::default());
    let mut checked = 0;
    for _ in 0..1500 {
        match dice.roll(8) {
            0 if open.len() < 8 => {
                let (len, period, seed) = (3 + dice.roll(30), 2 + dice.roll(5), dice.roll(100) as u64);
                open.push((crowded.submit(request(&periodic(len, period), seed, 12)).unwrap(), len, period, seed));
            }
            1 if dice.roll(3) == 0 && !open.is_empty() => crowded.cancel(open.swap_remove(dice.roll(open.len())).0),
            _ => answers.take(crowded.step().unwrap()),
        }
        let done =
            |entry: &&mut (SeqId, usize, usize, u64)| answers.0.get(&entry.0).is_some_and(|a| a.tokens.len() == 12);
        let ended: Vec<_> = open.extract_if(.., |entry| done(&entry)).collect();
        for (id, len, period, seed) in ended {
            assert_eq!(answers.0[&id].tokens, answer(&mut alone, request(&periodic(len, period), seed, 12)).tokens);
            checked += 1;
        }
    }
    open.iter().for_each(|(id, ..)| crowded.cancel(*id));
    assert!(checked > 50 && crowded.is_idle() && crowded.cache_usage() == 0.0, "{checked}");
}
