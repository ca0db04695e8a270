//! The filters on candidates and the draw. A candidate's score is a logit over temperature minus the largest, so it is
//! never above 0 and its weight `exp(score)` never above 1.

use ounce_tensor::kernels::scores;

/// Scores at or below this have no weight in f32.
pub const IMPOSSIBLE: f32 = -87.0;

#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub id: u32,
    pub score: f32,
    /// `exp(score)`.
    pub weight: f32,
    /// What the current filter sorts by, smallest first.
    key: f32,
}

impl Candidate {
    pub fn new(id: u32, score: f32) -> Candidate {
        Candidate { id, score, weight: exp(score), key: -score }
    }
}

/// The `k`-th largest score (`1 <= k <= scores.len()`), NaN being the smallest, in O(v): a buffer of `2k` scores that
/// beat the best threshold so far is halved whenever it is full.
pub fn kth_largest(scores: &[f32], k: usize) -> f32 {
    let halve = |buffer: &mut Vec<f32>| {
        buffer.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        buffer.truncate(k);
        buffer[k - 1]
    };
    let mut buffer = Vec::with_capacity(2 * k);
    let mut floor = f32::NEG_INFINITY;
    for &score in scores {
        if score > floor {
            buffer.push(score);
            if buffer.len() == 2 * k {
                floor = halve(&mut buffer);
            }
        }
    }
    if buffer.len() < k { floor } else { halve(&mut buffer) }
}

/// Nucleus: the most likely candidates until their weights reach `mass`; of equals the lower id goes first.
pub fn top_p(candidates: &mut Vec<Candidate>, mass: f64) {
    let kept = leading(candidates, mass);
    candidates.truncate(kept);
}

/// Drops candidates less likely than `p` times the most likely one.
pub fn min_p(candidates: &mut Vec<Candidate>, p: f32) {
    let floor = candidates.iter().map(|c| c.weight).fold(0.0, f32::max) * p;
    candidates.retain(|c| c.weight >= floor);
}

/// Locally typical sampling: the candidates whose information is closest to the entropy, until their mass reaches `p`;
/// candidates as close as the last one stay too, as in Hugging Face's warper.
pub fn typical(candidates: &mut Vec<Candidate>, p: f32) {
    let total = total(candidates);
    let log_total = total.ln();
    let entropy: f64 = candidates.iter().map(|c| f64::from(c.weight) / total * (log_total - f64::from(c.score))).sum();
    for c in candidates.iter_mut() {
        c.key = (log_total - f64::from(c.score) - entropy).abs() as f32;
    }
    let kept = leading(candidates, f64::from(p) * total);
    let last = candidates[kept - 1].key;
    candidates.retain(|c| c.key <= last);
}

/// Draws a candidate by its weight: `u` in `[0, 1)` picks from the cumulative distribution in the order of ids.
pub fn draw(candidates: &mut [Candidate], u: f64) -> u32 {
    if !candidates.is_sorted_by_key(|c| c.id) {
        candidates.sort_unstable_by_key(|c| c.id);
    }
    let target = u * total(candidates);
    let mut sum = 0.0;
    for c in candidates.iter() {
        sum += f64::from(c.weight);
        if sum > target {
            return c.id;
        }
    }
    // Only rounding of the sum leads here.
    candidates.last().map_or(0, |c| c.id)
}

/// The sum of their weights.
pub fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| f64::from(c.weight)).sum()
}

/// Moves to the front, sorted by (key, id), the fewest candidates whose weights reach `mass`; their number, at least 1.
/// Only as many are sorted as are needed, to a power of eight.
fn leading(candidates: &mut [Candidate], mass: f64) -> usize {
    let order = |a: &Candidate, b: &Candidate| a.key.total_cmp(&b.key).then(a.id.cmp(&b.id));
    let (mut sorted, mut sum) = (0, 0.0);
    let mut end = 64;
    loop {
        let rest = &mut candidates[sorted..];
        let count = (end - sorted).min(rest.len());
        if count < rest.len() {
            rest.select_nth_unstable_by(count, order);
        }
        rest[..count].sort_unstable_by(order);
        for i in sorted..sorted + count {
            sum += f64::from(candidates[i].weight);
            if sum >= mass {
                return i + 1;
            }
        }
        sorted += count;
        if sorted == candidates.len() {
            return sorted.max(1);
        }
        end *= 8;
    }
}

/// Draws among all scores: as [`draw`], without candidates. `max` is the largest score and finite; weights are
/// `exp((score - max) scale)`.
pub fn draw_from_all(scores: &[f32], max: f32, scale: f32, u: f64) -> u32 {
    let sums: Vec<f64> = scores::exp_sums(scores, max, scale).collect();
    let mut left = u * sums.iter().sum::<f64>();
    let within = sums.iter().position(|&sum| {
        let within = left < sum;
        left -= if within { 0.0 } else { sum };
        within
    });
    // Only rounding of sums leads beyond the last weight, of all or of a block.
    let block = within.or_else(|| sums.iter().rposition(|&sum| sum > 0.0)).unwrap_or(0);
    left = if within.is_some() { left } else { f64::INFINITY };
    let start = block * scores::BLOCK;
    let mut chosen = start;
    for (i, &score) in scores[start..].iter().take(scores::BLOCK).enumerate() {
        let weight = exp((score - max) * scale);
        if weight > 0.0 {
            chosen = start + i;
            left -= f64::from(weight);
            if left < 0.0 {
                break;
            }
        }
    }
    chosen as u32
}

/// `exp(x)` for `x <= 0`; 0 for NaN and at or below [`IMPOSSIBLE`]. Written so that compilers vectorise it: range reduction by
/// the rounding constant 1.5·2²³, then a Taylor polynomial of degree 7 on `±ln(2)/2` (relative error below 3e-7).
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: the first has few bits, so that its product with a whole number is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > IMPOSSIBLE { x } else { IMPOSSIBLE };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let power = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let value = p * f32::from_bits(power);
    if x > IMPOSSIBLE { value } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_stated_error() {
        let mut worst = 0f64;
        for i in 0..86_000 {
            let x = -(i as f32) * 1e-3;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 3e-7, "relative error {worst}");
        assert_eq!(exp(0.0), 1.0);
        for x in [f32::NEG_INFINITY, f32::NAN, IMPOSSIBLE, -1e30] {
            assert_eq!(exp(x), 0.0, "exp({x})");
        }
    }

    #[test]
    fn a_draw_from_all_is_where_the_number_falls() {
        let score = |i: u32| if i % 7 == 3 { f32::NAN } else { ((i * 7919) % 613) as f32 / 40.0 - 9.0 };
        let mut scores: Vec<f32> = (0..7000).map(score).collect();
        scores[5000..5600].fill(f32::NEG_INFINITY);
        scores[6900..].fill(-1e30);
        let max = scores.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        let weights: Vec<f64> =
            scores.iter().map(|&s| if s.is_nan() { 0.0 } else { (f64::from(s - max) * 0.5).exp() }).collect();
        let total: f64 = weights.iter().sum();
        for u in (0..4000).map(|i| f64::from(i) / 4000.0).chain([1.0 - 1e-16, 1.0]) {
            let at = draw_from_all(&scores, max, 0.5, u) as usize;
            let (before, own) = (weights[..at].iter().sum::<f64>() / total, weights[at] / total);
            assert!(own > 0.0 && before - 1e-6 <= u && u <= before + own + 1e-6, "{u}: {at}");
        }
    }

    #[test]
    fn kth_largest_equals_sorting() {
        let scores: Vec<f32> = (0..1000u32).map(|i| ((i * 7919) % 613) as f32 - 300.0).collect();
        let mut sorted = scores.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        for k in [1, 2, 3, 10, 499, 500, 501, 999, 1000] {
            assert_eq!(kth_largest(&scores, k), sorted[k - 1], "k = {k}");
        }
        assert_eq!(kth_largest(&[f32::NAN, 1.0, f32::NEG_INFINITY], 2), f32::NEG_INFINITY);
    }
}
