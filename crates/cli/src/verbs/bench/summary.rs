//! Many outcomes as few numbers: percentiles, rates, goodput, errors by kind. Knows no network.

use std::collections::BTreeMap;

use serde::Serialize;

use super::client::{Outcome, Times};
use crate::flags::bench::{Objective, Time};

/// What a run of load came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub requests: usize,
    pub done: usize,
    /// By status, or by what broke.
    pub errors: BTreeMap<String, usize>,
    pub seconds: f64,
    pub requests_per_s: f64,
    pub prompt_tokens_per_s: f64,
    pub tokens_per_s: f64,
    pub mean_prompt_tokens: f64,
    pub mean_tokens: f64,
    pub ttft_s: Option<Spread>,
    pub tpot_s: Option<Spread>,
    pub e2e_s: Option<Spread>,
    /// Requests a second that kept every objective, and their share of all.
    pub goodput_per_s: f64,
    pub goodput_share: f64,
}

/// How a time is spread over requests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl Spread {
    /// Nothing of nothing.
    fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let max = *values.last()?;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let at = |share| percentile(&values, share);
        Some(Spread { mean, p50: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99), max })
    }
}

/// Of sorted values, between two of them on the line that joins them.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

pub fn summarize(outcomes: &[Outcome], seconds: f64, objectives: &[Objective]) -> Summary {
    let mut errors = BTreeMap::new();
    let mut done: Vec<Times> = Vec::new();
    for outcome in outcomes {
        match outcome {
            Outcome::Done(times) => done.push(*times),
            Outcome::Refused(status) => *errors.entry(status.to_string()).or_default() += 1,
            Outcome::Broken(why) => *errors.entry(why.clone()).or_default() += 1,
        }
    }
    let sum = |count: fn(&Times) -> usize| done.iter().map(count).sum::<usize>() as f64;
    let (prompt, tokens) = (sum(|t| t.prompt_tokens), sum(|t| t.tokens));
    let good = done.iter().filter(|times| objectives.iter().all(|objective| keeps(times, objective))).count() as f64;
    let mean = |sum: f64| if done.is_empty() { 0.0 } else { sum / done.len() as f64 };
    Summary {
        requests: outcomes.len(),
        done: done.len(),
        errors,
        seconds,
        requests_per_s: done.len() as f64 / seconds,
        prompt_tokens_per_s: prompt / seconds,
        tokens_per_s: tokens / seconds,
        mean_prompt_tokens: mean(prompt),
        mean_tokens: mean(tokens),
        ttft_s: Spread::of(done.iter().map(|t| t.first_s).collect()),
        tpot_s: Spread::of(done.iter().filter_map(Times::per_token_s).collect()),
        e2e_s: Spread::of(done.iter().map(|t| t.end_s).collect()),
        goodput_per_s: good / seconds,
        goodput_share: good / outcomes.len().max(1) as f64,
    }
}

fn keeps(times: &Times, objective: &Objective) -> bool {
    let time = match objective.of {
        Time::Ttft => times.first_s,
        // One token has no time between tokens.
        Time::Tpot => times.per_token_s().unwrap_or(0.0),
        Time::E2e => times.end_s,
    };
    time <= objective.at_most_s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_numpy() {
        // numpy.percentile([1, 2, 4, 8], [50, 90, 95, 99]) = 3, 6.8, 7.4, 7.88
        let spread = Spread::of(vec![8.0, 1.0, 4.0, 2.0]).unwrap();
        for (found, wanted) in
            [(spread.p50, 3.0), (spread.p90, 6.8), (spread.p95, 7.4), (spread.p99, 7.88), (spread.mean, 3.75)]
        {
            assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        }
        assert_eq!((spread.max, Spread::of(Vec::new())), (8.0, None));
    }

    #[test]
    fn only_what_keeps_every_objective_is_good() {
        let done = |first_s: f64, last_s: f64| {
            Outcome::Done(Times { first_s, last_s, end_s: last_s, prompt_tokens: 10, tokens: 5 })
        };
        let outcomes =
            [done(0.1, 0.5), done(0.1, 4.1), done(0.9, 1.0), Outcome::Refused(429), Outcome::Broken("timeout".into())];
        let objectives = [Objective { of: Time::Ttft, at_most_s: 0.5 }, Objective { of: Time::Tpot, at_most_s: 0.2 }];
        let summary = summarize(&outcomes, 2.0, &objectives);
        assert_eq!((summary.requests, summary.done, summary.requests_per_s), (5, 3, 1.5));
        assert_eq!((summary.tokens_per_s, summary.mean_prompt_tokens), (7.5, 10.0));
        assert_eq!((summary.goodput_per_s, summary.goodput_share), (0.5, 0.2));
        assert_eq!(summary.errors, BTreeMap::from([("429".to_owned(), 1), ("timeout".to_owned(), 1)]));
        assert_eq!(summarize(&outcomes, 2.0, &[]).goodput_per_s, 1.5);
    }
}
