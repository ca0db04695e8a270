//! What a constraint foresees is guessed, and what is drafted or looked up keeps to the constraint: answers have the same tokens and
//! log probabilities as without, bit for bit, whether the constraint is right or not, and take fewer passes.

mod common;

use common::{Answer, engine, model, prompt, request, requests, settings, together};
use ounce_engine::sampler::{Dice, SamplingParams, philox2x64};
use ounce_engine::{Constraint, Engine, Finish, Output, Request, Settings, Speculated, Unmet};

/// Runs of five tokens of which there is one choice, or two, and after each three of which there are many.
#[derive(Clone)]
struct Runs {
    taken: Vec<u32>,
    allowed: Vec<u32>,
    /// The answer is whole after so many.
    length: usize,
    foresees: Foresees,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Foresees {
    Nothing,
    /// The first of the choices.
    Runs,
    /// The same, but for tokens that are not allowed among them.
    Lies,
}

impl Runs {
    fn new(length: usize, foresees: Foresees) -> Runs {
        Runs { taken: Vec::new(), allowed: Vec::new(), length, foresees }
    }

    /// The choices after what was taken.
    fn choices(&self) -> Vec<u32> {
        let place = self.taken.len();
        let last = self.taken.last().copied().unwrap_or_default();
        let random = philox2x64([last.into(), place as u64], 7);
        let most = match place % 8 {
            0..5 => 1 + usize::from(place.is_multiple_of(3)),
            _ => 20,
        };
        (0..most as u64).map(|i| 3 + ((random[0] >> 1).wrapping_add(i * 7) % 90) as u32).collect()
    }
}

impl Constraint for Runs {
    fn allowed(&mut self) -> Result<&[u32], Unmet> {
        self.allowed = vec![0; 4];
        for token in self.choices() {
            self.allowed[token as usize / 32] |= 1 << (token % 32);
        }
        Ok(&self.allowed)
    }

    fn accept(&mut self, token: u32) -> Result<(), Unmet> {
        if self.is_complete() || !self.choices().contains(&token) {
            return Err(Unmet(format!("{token} is not allowed")));
        }
        self.taken.push(token);
        Ok(())
    }

    fn may_stop(&mut self) -> bool {
        self.is_complete()
    }

    fn is_complete(&self) -> bool {
        self.taken.len() == self.length
    }

    fn foresee(&mut self, most: usize) -> Vec<u32> {
        let (mut after, mut out) = (self.clone(), Vec::new());
        while self.foresees != Foresees::Nothing
            && out.len() < most
            && after.taken.len() % 8 < 5
            && !after.is_complete()
        {
            let token = after.choices()[0];
            let lies = self.foresees == Foresees::Lies && token.is_multiple_of(5);
            out.push(if lies { 1 } else { token });
            after.taken.push(token);
        }
        out
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

/// Requests of every kind, all but every fifth with a constraint.
fn held(foresees: Foresees) -> Vec<Request> {
    let one = |(i, request): (usize, Request)| {
        let constraint: Box<dyn Constraint> = Box::new(Runs::new(8 + 5 * i, foresees));
        Request { constraint: (i % 5 != 4).then_some(constraint), ..request }
    };
    requests().into_iter().enumerate().map(one).collect()
}

fn alone(family: &str, settings: Settings, requests: Vec<Request>) -> Vec<(Answer, Vec<Output>)> {
    requests.into_iter().map(|r| together(&mut engine(family, settings), vec![r]).remove(0)).collect()
}

fn drafting(family: &str, draft: &str, settings: Settings) -> Engine {
    let mut engine = engine(family, settings);
    engine.draft_with(model(draft)).unwrap();
    engine
}

#[test]
fn what_is_foreseen_changes_no_bit_of_any_answer() {
    for family in ["llama", "gemma3_text", "gpt2"] {
        let plain = alone(family, settings(1), held(Foresees::Nothing));
        let mut all = Speculated::default();
        for foresees in [Foresees::Runs, Foresees::Lies] {
            for (slots, speculate, cache_tokens) in
                [(1, 0, None), (1, 8, None), (4, 3, None), (11, 0, Some(64)), (10, 8, Some(64))]
            {
                let mut guessing = engine(family, Settings { speculate, cache_tokens, ..settings(slots) });
                let got = together(&mut guessing, held(foresees));
                for (i, (got, plain)) in got.iter().zip(&plain).enumerate() {
                    assert_eq!(got.1, plain.1, "{family}, {foresees:?}, {slots} slots, {speculate} ahead, request {i}");
                }
                let fared = guessing.speculated();
                (all.drafted, all.accepted) = (all.drafted + fared.drafted, all.accepted + fared.accepted);
                assert!(guessing.cache_usage() == 0.0 && (cache_tokens.is_none() || guessing.preemptions() > 0));
            }
        }
        assert!(100 < all.accepted && all.accepted + 100 < all.drafted, "{family}: {all:?}");
    }
}

#[test]
fn no_draft_model_changes_a_bit_of_an_answer_that_is_held_to_a_form() {
    for (family, draft) in [("llama", "mistral"), ("gpt2", "gpt2")] {
        let plain = alone(family, settings(1), held(Foresees::Nothing));
        for foresees in [Foresees::Nothing, Foresees::Runs, Foresees::Lies] {
            for (slots, cache_tokens) in [(1, None), (10, None), (10, Some(64))] {
                let mut guessing = drafting(family, draft, Settings { speculate: 5, cache_tokens, ..settings(slots) });
                let got = together(&mut guessing, held(foresees));
                for (i, (got, plain)) in got.iter().zip(&plain).enumerate() {
                    assert_eq!(got.1, plain.1, "{family} with {draft}, {foresees:?}, {slots} slots, request {i}");
                }
                assert!(guessing.speculated().drafted > 0);
                assert!(cache_tokens.is_none() || guessing.preemptions() > 0);
            }
        }
    }
}

/// An answer held to runs, drawn at a temperature.
fn drawn(seed: u64, max_tokens: usize, foresees: Foresees) -> Request {
    let mut request = request(&prompt(9, seed as u32), seed, max_tokens);
    request.params = SamplingParams { temperature: 0.9, ..request.params };
    Request { constraint: Some(Box::new(Runs::new(48, foresees))), ..request }
}

/// How many steps an engine takes for a request, and how it ended.
fn steps(engine: &mut Engine, request: Request) -> (usize, Vec<Output>) {
    engine.submit(request).unwrap();
    let (mut steps, mut outputs) = (0, Vec::new());
    while !engine.is_idle() {
        steps += 1;
        outputs.extend(engine.step().unwrap());
    }
    (steps, outputs)
}

/// Of runs of five, where there are two choices at every third place.
#[test]
fn a_run_of_what_is_foreseen_takes_one_pass() {
    for seed in 0..4 {
        let (plain, outputs) = steps(&mut engine("llama", settings(1)), drawn(seed, 48, Foresees::Nothing));
        assert!(matches!(outputs.last(), Some(Output::Finished { reason: Finish::Stop, .. })), "{outputs:?}");
        // One token a pass, the first with the prompt.
        assert_eq!(plain, 48);
        let (fewer, same) = steps(&mut engine("llama", settings(1)), drawn(seed, 48, Foresees::Runs));
        assert!(fewer <= 33, "{fewer}");
        assert_eq!(same.len(), outputs.len());
        // Those that lie are asked more and more rarely.
        let mut lied_to = engine("llama", settings(1));
        let (lies, _) = steps(&mut lied_to, drawn(seed, 48, Foresees::Lies));
        assert!(fewer <= lies && lies <= plain, "{lies}");
    }
}

/// Its own draft model chooses what a model chooses, if it may choose among the same tokens.
#[test]
fn a_model_that_guesses_for_itself_is_right_under_a_constraint() {
    for foresees in [Foresees::Nothing, Foresees::Runs] {
        let mut guessing = drafting("llama", "llama", Settings { speculate: 6, ..settings(1) });
        for seed in 0..6 {
            let before = guessing.speculated();
            let (steps, _) = steps(&mut guessing, drawn(seed, 48, foresees));
            let fared = guessing.speculated();
            let (drafted, accepted) = (fared.drafted - before.drafted, fared.accepted - before.accepted);
            assert_eq!(accepted, 48 - steps as u64, "{seed}");
            // What is foreseen is wrong where there were two choices, and then so is what was drafted behind it. Nothing is drafted
            // beyond the end.
            assert!(drafted == accepted || foresees == Foresees::Runs, "{seed}: {accepted} of {drafted}");
            assert!(steps < 14, "{steps}");
        }
    }
}

/// Ends within a run: at the limit, at a token that stops it, and by whoever listens.
#[test]
fn an_answer_ends_within_a_run_where_it_would_have_ended() {
    let (_, plain) = steps(&mut engine("llama", settings(1)), drawn(3, 48, Foresees::Nothing));
    let tokens: Vec<u32> = plain
        .iter()
        .filter_map(|o| if let Output::Token { token, .. } = o { Some(token.token) } else { None })
        .collect();
    assert_eq!(tokens.len(), 48);
    for end in 1..48 {
        let mut guessing = engine("llama", settings(1));
        let mut seen = Vec::new();
        let finish = guessing.run(drawn(3, 48, Foresees::Runs), |token| {
            seen.extend(token);
            seen.len() < end
        });
        assert_eq!((finish.unwrap(), &seen[..]), (Finish::Stop, &tokens[..end]));
        assert!(guessing.is_idle() && guessing.cache_usage() == 0.0);
        let mut seen = Vec::new();
        let finish = guessing.run(drawn(3, end, Foresees::Runs), |token| {
            seen.extend(token);
            true
        });
        assert_eq!((finish.unwrap(), &seen[..]), (Finish::Length, &tokens[..end]));
        let mut stopped = drawn(3, 48, Foresees::Runs);
        stopped.params.stop_tokens = vec![tokens[end]];
        let first = tokens.iter().position(|&token| token == tokens[end]).unwrap();
        let (_, outputs) = steps(&mut guessing, stopped);
        assert_eq!(outputs.len(), first + 2, "the start, the tokens, the end");
        assert_eq!(guessing.cache_usage(), 0.0);
    }
}

/// Requests come and go at random beside each other: what is answered is what is answered alone.
#[test]
fn answers_that_are_given_up_within_a_run_leave_nothing_behind() {
    let mut dice = Dice::new(6);
    let mut crowded = engine("llama", Settings { cache_tokens: Some(128), ..settings(4) });
    let (mut open, mut answers, mut checked) = (Vec::new(), common::Answers::default(), 0);
    for _ in 0..1500 {
        match dice.roll(8) {
            0 if open.len() < 8 => {
                let seed = dice.roll(50) as u64;
                open.push((crowded.submit(drawn(seed, 20, Foresees::Runs)).unwrap(), seed));
            }
            1 if dice.roll(3) == 0 && !open.is_empty() => crowded.cancel(open.swap_remove(dice.roll(open.len())).0),
            _ => answers.take(crowded.step().unwrap()),
        }
        let whole = |(id, _): &mut (_, u64)| answers.0.get(id).is_some_and(|a| a.tokens.len() == 20);
        let ended: Vec<_> = open.extract_if(.., |entry| whole(entry)).collect();
        for (id, seed) in ended {
            let plain = common::answer(&mut engine("llama", settings(1)), drawn(seed, 20, Foresees::Nothing));
            assert_eq!(answers.0[&id].tokens, plain.tokens);
            checked += 1;
        }
    }
    open.iter().for_each(|(id, _)| crowded.cancel(*id));
    assert!(checked > 40 && crowded.is_idle() && crowded.cache_usage() == 0.0, "{checked}");
}
