//! How sure a measured score is: intervals, paired comparisons, perplexity with its standard error. Numbers in, numbers
//! out: it knows no model, no task and no text.

/// A value with the ends of its confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// The normal quantile of a two-sided 95 % interval.
pub const Z95: f64 = 1.959_963_984_540_054;

/// 95 % interval of a proportion (Wilson 1927): unlike the normal approximation it stays within 0..=1 and is right for
/// few records and for scores near 0 or 1. `None` without records. `successes <= records`.
pub fn wilson(successes: usize, records: usize) -> Option<Interval> {
    assert!(successes <= records, "{successes} successes in {records} records");
    if records == 0 {
        return None;
    }
    let (n, p) = (records as f64, successes as f64 / records as f64);
    let z2 = Z95 * Z95;
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z95 / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    // At the ends the formula gives 0 and 1 exactly in real numbers.
    let low = if successes == 0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if successes == records { 1.0 } else { (centre + half).min(1.0) };
    Some(Interval { value: p, low, high })
}

/// 95 % percentile interval of the mean of `values` (Efron 1979) from `resamples` seeded resamples. `None` if empty.
pub fn bootstrap_mean(values: &[f64], resamples: usize, seed: u64) -> Option<Interval> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    let mut draws = Draws(seed);
    let mut means: Vec<f64> =
        (0..resamples.max(1)).map(|_| (0..n).map(|_| values[draws.below(n)]).sum::<f64>() / n as f64).collect();
    means.sort_unstable_by(f64::total_cmp);
    Some(Interval { value: mean, low: percentile(&means, 0.025), high: percentile(&means, 0.975) })
}

/// 95 % percentile interval of the mean of `b[i] - a[i]`: both systems are resampled on the same records, which removes
/// the variation between easy and hard records. `None` if empty. The slices have equal lengths.
pub fn paired_bootstrap(a: &[f64], b: &[f64], resamples: usize, seed: u64) -> Option<Interval> {
    assert_eq!(a.len(), b.len(), "a paired comparison needs the same records on both sides");
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
    bootstrap_mean(&differences, resamples, seed)
}

/// Two systems on the same records, right or wrong.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct McNemar {
    pub only_a: usize,
    pub only_b: usize,
    /// Probability of a split at least this uneven if both were equally good; two-sided, exact binomial.
    pub p_value: f64,
}

/// McNemar's exact test (1947) on paired records. The slices have equal lengths.
pub fn mcnemar(a: &[bool], b: &[bool]) -> McNemar {
    assert_eq!(a.len(), b.len(), "a paired comparison needs the same records on both sides");
    let only_a = a.iter().zip(b).filter(|&(&a, &b)| a && !b).count();
    let only_b = a.iter().zip(b).filter(|&(&a, &b)| b && !a).count();
    McNemar { only_a, only_b, p_value: binomial_two_sided(only_a.min(only_b), only_a + only_b) }
}

/// `min(1, 2 · P(X <= k))` for X ~ Binomial(n, 1/2), `k <= n/2`, by a sum in logarithms so that large n does not underflow.
fn binomial_two_sided(k: usize, n: usize) -> f64 {
    let mut log_choose = 0.0f64;
    let mut sum = 0.0f64;
    let log_half = -(n as f64) * std::f64::consts::LN_2;
    for i in 0..=k {
        if i > 0 {
            log_choose += ((n - i + 1) as f64 / i as f64).ln();
        }
        sum += (log_choose + log_half).exp();
    }
    (2.0 * sum).min(1.0)
}

/// What one document adds to a perplexity: the sum of `-ln p` over its scored tokens, and their number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DocumentLoss {
    pub nll_sum: f64,
    pub tokens: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Perplexity {
    /// Mean `-ln p` per token over all documents, nats.
    pub loss: f64,
    /// Its standard error; `None` for a single document, which says nothing about the spread between documents.
    pub loss_se: Option<f64>,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// To first order: `perplexity · loss_se`.
    pub perplexity_se: Option<f64>,
    pub tokens: usize,
    pub documents: usize,
}

/// Perplexity with the standard error of a ratio estimator (Cochran 1977, §2.11): documents are the sampling unit, since
/// tokens within one are not independent. Documents without scored tokens are left out; `None` if none is left.
pub fn perplexity(documents: &[DocumentLoss]) -> Option<Perplexity> {
    let documents: Vec<_> = documents.iter().filter(|d| d.tokens > 0).collect();
    let tokens: usize = documents.iter().map(|d| d.tokens).sum();
    if tokens == 0 {
        return None;
    }
    let loss = documents.iter().map(|d| d.nll_sum).sum::<f64>() / tokens as f64;
    let n = documents.len() as f64;
    let loss_se = (documents.len() > 1).then(|| {
        let squares: f64 = documents.iter().map(|d| (d.nll_sum - loss * d.tokens as f64).powi(2)).sum();
        (n / (n - 1.0) * squares).sqrt() / tokens as f64
    });
    let perplexity = loss.exp();
    Some(Perplexity {
        loss,
        loss_se,
        perplexity,
        perplexity_se: loss_se.map(|se| perplexity * se),
        tokens,
        documents: documents.len(),
    })
}

/// Linear interpolation between order statistics (Hyndman & Fan 1996, type 7) of sorted, non-empty values.
fn percentile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (below, share) = (at.floor() as usize, at.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + share * (sorted[above] - sorted[below])
}

/// SplitMix64 (Steele et al. 2014): small, seeded, the same on every machine.
struct Draws(u64);

impl Draws {
    /// Uniform in `0..n`.
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
    }

    /// Worked out from the closed form; e.g. 0 of 20: the upper end is z² / (n + z²).
    #[test]
    fn wilson_equals_the_published_formula() {
        let i = wilson(8, 10).unwrap();
        near(i.value, 0.8);
        near(i.low, 0.490162);
        near(i.high, 0.943318);
        assert_eq!(wilson(0, 0), None);
        let none = wilson(0, 20).unwrap();
        assert_eq!(none.low, 0.0);
        near(none.high, 0.161125);
        let all = wilson(20, 20).unwrap();
        assert_eq!(all.high, 1.0);
        near(all.low, 0.838875);
    }

    #[test]
    fn mcnemar_counts_the_disagreements() {
        // 1 against 5: 2 · (C(6,0) + C(6,1)) / 2⁶ = 14/64.
        let a = [true, true, false, false, false, false, false, true];
        let b = [true, false, true, true, true, true, true, true];
        let m = mcnemar(&a, &b);
        assert_eq!((m.only_a, m.only_b), (1, 5));
        near(m.p_value, 14.0 / 64.0);
        near(mcnemar(&a, &a).p_value, 1.0);
        // Ties are capped at 1; many records do not underflow.
        near(binomial_two_sided(2, 4), 1.0);
        let p = binomial_two_sided(5000, 10_200);
        assert!((0.045..0.052).contains(&p), "{p}");
    }

    #[test]
    fn bootstrap_covers_the_mean_and_is_seeded() {
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        let i = bootstrap_mean(&values, 2000, 1).unwrap();
        near(i.value, 49.5);
        // Standard error of the mean: 28.87 / 10; the interval is ± 1.96 of it, give or take the resampling noise.
        assert!((i.low - (49.5 - 5.658)).abs() < 0.5 && (i.high - (49.5 + 5.658)).abs() < 0.5, "{i:?}");
        assert_eq!(bootstrap_mean(&values, 2000, 1), bootstrap_mean(&values, 2000, 1));
        assert_ne!(bootstrap_mean(&values, 2000, 1), bootstrap_mean(&values, 2000, 2));
        assert_eq!(bootstrap_mean(&[], 10, 0), None);
        assert_eq!(bootstrap_mean(&[3.0], 10, 0), Some(Interval { value: 3.0, low: 3.0, high: 3.0 }));
    }

    #[test]
    fn pairing_removes_the_variation_between_records() {
        let a: Vec<f64> = (0..50).map(|i| f64::from(i % 10)).collect();
        let b: Vec<f64> = a.iter().map(|x| x + 0.5).collect();
        let i = paired_bootstrap(&a, &b, 500, 0).unwrap();
        assert_eq!(i, Interval { value: 0.5, low: 0.5, high: 0.5 });
    }

    #[test]
    fn perplexity_by_hand() {
        // Losses 2 and 1 nats over 1 and 3 tokens: mean (2 + 3) / 4 = 1.25; residuals 0.75 and -0.75;
        // se = sqrt(2/1 · 1.125) / 4 = 0.375.
        let documents = [
            DocumentLoss { nll_sum: 2.0, tokens: 1 },
            DocumentLoss { nll_sum: 3.0, tokens: 3 },
            DocumentLoss { nll_sum: 0.0, tokens: 0 },
        ];
        let p = perplexity(&documents).unwrap();
        near(p.loss, 1.25);
        near(p.loss_se.unwrap(), 0.375);
        near(p.perplexity, 1.25f64.exp());
        near(p.perplexity_se.unwrap(), 0.375 * 1.25f64.exp());
        assert_eq!((p.tokens, p.documents), (4, 2));
        assert_eq!(perplexity(&documents[..1]).unwrap().loss_se, None);
        assert_eq!(perplexity(&documents[2..]), None);
    }

    #[test]
    fn percentiles_interpolate() {
        near(percentile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        near(percentile(&[5.0], 0.3), 5.0);
    }
}
