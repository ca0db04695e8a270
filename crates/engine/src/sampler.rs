//! Chooses the next token from logits: penalties, filters, one random number. Pure functions of its input: it knows no
//! model, no batch, no clock.
//!
//! The order is that of Hugging Face's `generate`: logit bias → repetition, presence and frequency penalties → what a constraint
//! allows → temperature → top-k → top-p → min-p → typical. Work is O(v) plus the sorting of the tokens that survive.

mod filters;
mod params;
mod random;
mod stop;

use std::collections::HashMap;

pub use params::{MAX_LOGIT_BIAS, MAX_STOP_BYTES, MAX_STOPS, ParamError, SamplingParams};
pub use random::{Dice, philox2x64, uniform};
pub use stop::{Emitted, StopMatcher};

use ounce_tensor::kernels::scores;

use crate::constraint;
use filters::Candidate;

/// A chosen token and the logarithm of its probability under the model itself (before penalties, temperature and
/// filters), natural, as the OpenAI API reports it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub token: u32,
    pub logprob: f32,
}

/// The sampling state of one sequence: which tokens it holds and how many it has drawn.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    seen: HashMap<u32, Seen>,
    position: u64,
    /// Scratch, `[v]`: scores of all tokens.
    scores: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// How a token has occurred so far.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    in_answer: u32,
}

impl Sampler {
    /// For validated `params`; `prompt_ids` count for the repetition penalty only.
    pub fn new(params: &SamplingParams, prompt_ids: &[u32]) -> Sampler {
        let mut seen = HashMap::new();
        if params.repetition_penalty != 1.0 {
            seen.extend(prompt_ids.iter().map(|&id| (id, Seen::default())));
        }
        Sampler { params: params.clone(), seen, position: 0, scores: Vec::new(), candidates: Vec::new() }
    }

    /// Tokens drawn so far.
    pub fn position(&self) -> usize {
        self.position as usize
    }

    /// Draws the next token from `logits` `[v]` and remembers it.
    ///
    /// NaN counts as impossible. Where nothing is possible (an empty row, or all `-inf`), the answer is token 0 with log
    /// probability `-inf`: whoever made such logits must notice, the sampler does not panic.
    pub fn sample(&mut self, logits: &[f32]) -> Choice {
        self.sample_among(logits, None)
    }

    /// As [`Sampler::sample`], among the tokens of a bit set only ([`crate::Constraint::allowed`]); one of them is below `v`. Log
    /// probabilities stay those of the model.
    pub fn sample_among(&mut self, logits: &[f32], allowed: Option<&[u32]>) -> Choice {
        let token = self.choose(logits, allowed, self.position);
        self.position += 1;
        if self.params.repetition_penalty != 1.0
            || self.params.presence_penalty != 0.0
            || self.params.frequency_penalty != 0.0
        {
            self.seen.entry(token).or_default().in_answer += 1;
        }
        Choice { token, logprob: logprob(logits, token) }
    }

    /// The token that would be drawn `ahead` tokens after the next one, among those `allowed`, if `logits` `[v]` were those of its place.
    /// Nothing is remembered.
    pub fn guess(&mut self, logits: &[f32], allowed: Option<&[u32]>, ahead: usize) -> u32 {
        self.choose(logits, allowed, self.position + ahead as u64)
    }

    /// The token of the `position`-th draw.
    fn choose(&mut self, logits: &[f32], allowed: Option<&[u32]>, position: u64) -> u32 {
        let p = &self.params;
        let as_they_are = p.logit_bias.is_empty() && self.seen.is_empty() && allowed.is_none();
        if p.temperature == 0.0 && as_they_are {
            return argmax(logits).0;
        }
        let scores = if as_they_are {
            logits
        } else {
            self.scores.clear();
            self.scores.extend_from_slice(logits);
            self.apply_bias_and_penalties();
            allowed.iter().for_each(|allowed| keep_only(&mut self.scores, allowed));
            &self.scores
        };
        let (best, max) = argmax(scores);
        if max == f32::NEG_INFINITY {
            return allowed.and_then(|allowed| constraint::first(allowed, logits.len())).unwrap_or(best);
        }
        let p = &self.params;
        if p.temperature == 0.0 {
            return best;
        }
        let u = uniform(p.seed, position);
        let filtered = p.top_k > 0 || p.top_p < 1.0 || p.min_p > 0.0 || p.typical_p < 1.0;
        if !filtered && max.is_finite() {
            return filters::draw_from_all(scores, max, scale(p.temperature), u);
        }
        let mass = collect(&mut self.candidates, scores, max, p);
        if p.top_p < 1.0 {
            filters::top_p(&mut self.candidates, mass);
        }
        if p.min_p > 0.0 {
            filters::min_p(&mut self.candidates, p.min_p);
        }
        if p.typical_p < 1.0 {
            filters::typical(&mut self.candidates, p.typical_p);
        }
        filters::draw(&mut self.candidates, u)
    }

    fn apply_bias_and_penalties(&mut self) {
        let p = &self.params;
        for &(token, bias) in &p.logit_bias {
            if let Some(score) = self.scores.get_mut(token as usize) {
                *score += bias;
            }
        }
        for (&token, seen) in &self.seen {
            let Some(score) = self.scores.get_mut(token as usize) else { continue };
            *score = if *score < 0.0 { *score * p.repetition_penalty } else { *score / p.repetition_penalty };
            if seen.in_answer > 0 {
                *score -= p.frequency_penalty * seen.in_answer as f32 + p.presence_penalty;
            }
        }
    }
}

/// Fills the candidates, in the order of their ids, with `(score - max) / temperature`, after top-k; those that the filters would drop
/// anyhow may be missing. The mass that top-p keeps of all of them. Subtracting first keeps tiny temperatures finite.
fn collect(candidates: &mut Vec<Candidate>, scores: &[f32], max: f32, p: &SamplingParams) -> f64 {
    let k = p.top_k as usize;
    let mut floor = if k > 0 && k < scores.len() { filters::kth_largest(scores, k) } else { f32::NEG_INFINITY };
    // Where all are candidates, most are too unlikely to pass.
    let all = floor == f32::NEG_INFINITY && max.is_finite();
    let total = || scores::exp_sums(scores, max, scale(p.temperature)).sum::<f64>();
    let total = (all && p.top_p < 1.0).then(total);
    if let Some(total) = total {
        // Those below this weigh less than 1 - top_p together, so the others reach top_p without them.
        let weight = f64::from(1.0 - p.top_p) * total / scores.len() as f64;
        floor = below(max, p.temperature, weight);
    } else if all && p.min_p > 0.0 {
        floor = below(max, p.temperature, f64::from(p.min_p));
    }
    candidates.clear();
    for (block, scores) in scores.chunks(64).enumerate() {
        // One look for many scores, of which few are high enough.
        if !scores.iter().fold(false, |any, score| any | (*score >= floor)) {
            continue;
        }
        for (i, &score) in scores.iter().enumerate() {
            // `max` may be +inf: then only its equals are possible, and inf - inf must not become NaN.
            let shifted = if score == max { 0.0 } else { (score - max) / p.temperature };
            if score >= floor && shifted > filters::IMPOSSIBLE {
                candidates.push(Candidate::new((block * 64 + i) as u32, shifted));
            }
        }
    }
    f64::from(p.top_p) * total.unwrap_or_else(|| filters::total(candidates))
}

/// A score whose weight is a little below `weight`.
fn below(max: f32, temperature: f32, weight: f64) -> f32 {
    ((f64::from(max) + f64::from(temperature) * (weight.ln() - 1e-3)) as f32).next_down()
}

/// What differences of scores are multiplied by, finite for the least of temperatures.
fn scale(temperature: f32) -> f32 {
    (1.0 / temperature).min(1e30)
}

/// Makes every token that `allowed` does not hold impossible.
fn keep_only(scores: &mut [f32], allowed: &[u32]) {
    for (at, scores) in scores.chunks_mut(32).enumerate() {
        let word = allowed.get(at).copied().unwrap_or(0);
        if word == u32::MAX {
            continue;
        }
        for (bit, score) in scores.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *score = f32::NEG_INFINITY;
            }
        }
    }
}

/// The largest score and its lowest id; NaN is never the largest. `(0, -inf)` where nothing is.
pub fn argmax(scores: &[f32]) -> (u32, f32) {
    scores::argmax(scores).map_or((0, f32::NEG_INFINITY), |(id, max)| (id as u32, max))
}

/// log softmax of `logits` `[v]` at `token`.
pub fn logprob(logits: &[f32], token: u32) -> f32 {
    LogSoftmax::of(logits).at(token)
}

/// The `k` most likely tokens with their log probabilities, best first, of equals the lower id first. The numbers are those
/// that [`logprob`] gives, bit for bit.
pub fn top_logprobs(logits: &[f32], k: usize) -> Vec<(u32, f32)> {
    if k == 0 {
        return Vec::new();
    }
    let floor = if k < logits.len() { filters::kth_largest(logits, k) } else { f32::NEG_INFINITY };
    let mut ids: Vec<u32> = (0..logits.len() as u32).filter(|&id| logits[id as usize] >= floor).collect();
    // Stable: equals stay in the order of their ids.
    ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    ids.truncate(k);
    let all = LogSoftmax::of(logits);
    ids.into_iter().map(|id| (id, all.at(id))).collect()
}

/// The log softmax of one row, whose sum is taken once.
struct LogSoftmax<'a> {
    logits: &'a [f32],
    max: f32,
    /// ln Σ exp(x - max); where the largest is infinite, ln of how many are.
    ln_sum: f64,
}

impl LogSoftmax<'_> {
    fn of(logits: &[f32]) -> LogSoftmax<'_> {
        let (_, max) = argmax(logits);
        let ln_sum = match max {
            f32::NEG_INFINITY => 0.0,
            f32::INFINITY => (logits.iter().filter(|&&l| l == max).count() as f64).ln(),
            _ => scores::sum_exp(logits, max).ln(),
        };
        LogSoftmax { logits, max, ln_sum }
    }

    fn at(&self, token: u32) -> f32 {
        match self.logits.get(token as usize) {
            Some(&logit) if logit == self.max && self.max > f32::NEG_INFINITY => -self.ln_sum as f32,
            Some(&logit) if self.max.is_finite() && !logit.is_nan() => {
                (f64::from(logit - self.max) - self.ln_sum) as f32
            }
            _ => f32::NEG_INFINITY,
        }
    }
}

#[cfg(test)]
mod tests;
