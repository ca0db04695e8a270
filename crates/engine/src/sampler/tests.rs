//! The sampler against Hugging Face's warpers, against exact distributions, and its properties.

use super::*;

/// 40 logits on a grid that is exact in f32; the reference values below were computed from the same ones with the
/// warpers of transformers 5.23 (`transformers.generation.logits_process`, torch 2.15, f32).
fn grid() -> Vec<f32> {
    (0..40).map(|i| ((i * 37 + 11) % 101 - 50) as f32 / 16.0 + ((i * 13) % 7) as f32 / 64.0).collect()
}

const PROMPT: [u32; 5] = [3, 7, 7, 20, 39];

/// The distribution that the sampler draws its first token from: (token, probability).
fn distribution(params: &SamplingParams, logits: &[f32]) -> Vec<(u32, f64)> {
    params.validate().unwrap();
    let mut sampler = Sampler::new(params, &PROMPT);
    sampler.choose(logits, None, 0);
    let total: f64 = sampler.candidates.iter().map(|c| f64::from(c.weight)).sum();
    sampler.candidates.iter().map(|c| (c.id, f64::from(c.weight) / total)).collect()
}

fn check(params: SamplingParams, expected: &[(u32, f64)]) {
    let found = distribution(&params, &grid());
    let ids: Vec<u32> = found.iter().map(|f| f.0).collect();
    assert_eq!(ids, expected.iter().map(|e| e.0).collect::<Vec<_>>());
    for (f, e) in found.iter().zip(expected) {
        assert!((f.1 - e.1).abs() < 1e-6, "token {}: {} instead of {}", f.0, f.1, e.1);
    }
}

#[test]
fn repetition_temperature_and_top_k_equal_hugging_face() {
    check(
        SamplingParams { repetition_penalty: 1.3, temperature: 0.7, top_k: 5, ..Default::default() },
        &[(5, 0.2208771), (13, 0.1156172), (16, 0.3087179), (24, 0.1615971), (35, 0.1931907)],
    );
}

#[test]
fn typical_equals_hugging_face() {
    check(
        SamplingParams { temperature: 2.0, typical_p: 0.4, ..Default::default() },
        &[
            (2, 0.1334779),
            (4, 0.0565181),
            (7, 0.0754616),
            (10, 0.1064179),
            (15, 0.063545),
            (18, 0.0848437),
            (21, 0.1132812),
            (26, 0.0676433),
            (29, 0.0953924),
            (32, 0.1273655),
            (37, 0.0760534),
        ],
    );
}

#[test]
fn all_filters_together_equal_hugging_face() {
    check(
        SamplingParams {
            repetition_penalty: 1.3,
            temperature: 2.0,
            top_k: 12,
            top_p: 0.9,
            min_p: 0.15,
            typical_p: 0.7,
            ..Default::default()
        },
        &[
            (2, 0.1180538),
            (5, 0.1576226),
            (10, 0.0941207),
            (13, 0.1256677),
            (21, 0.100191),
            (24, 0.1412919),
            (32, 0.1126478),
            (35, 0.1504045),
        ],
    );
}

#[test]
fn top_p_and_min_p_keep_the_tokens_hugging_face_keeps() {
    let kept = [2, 5, 7, 10, 13, 15, 16, 18, 21, 24, 26, 29, 32, 35, 37];
    for params in [
        SamplingParams { temperature: 1.5, top_p: 0.8, ..Default::default() },
        SamplingParams { temperature: 1.5, min_p: 0.2, ..Default::default() },
    ] {
        let ids: Vec<u32> = distribution(&params, &grid()).iter().map(|d| d.0).collect();
        assert_eq!(ids, kept);
    }
}

/// Among thousands of tokens most are passed over before the filters: what is kept is what the filters keep of all.
#[test]
fn what_is_passed_over_would_not_have_been_kept() {
    let logits: Vec<f32> = (0..5000u32).map(|i| ((i * 7919) % 4999) as f32 / 300.0).collect();
    for (temperature, top_p, min_p) in
        [(1.0, 0.9, 0.0), (0.7, 1.0, 0.05), (1.5, 0.6, 0.2), (3.0, 0.99, 0.0), (1e-3, 0.5, 0.0)]
    {
        let mut order: Vec<u32> = (0..5000).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        let best = f64::from(logits[order[0] as usize]);
        let weight = |id: u32| ((f64::from(logits[id as usize]) - best) / f64::from(temperature)).exp();
        let total: f64 = (0..5000).map(weight).sum();
        let mut sum = 0.0;
        let nucleus = order.iter().take_while(|&&id| {
            let before = sum;
            sum += weight(id);
            before < f64::from(top_p) * total
        });
        let mut kept: Vec<u32> = nucleus.copied().filter(|&id| weight(id) >= f64::from(min_p)).collect();
        kept.sort_unstable();
        let params = SamplingParams { temperature, top_p, min_p, ..Default::default() };
        let ids: Vec<u32> = distribution(&params, &logits).iter().map(|d| d.0).collect();
        assert!(ids == kept, "{temperature} {top_p} {min_p}: {} of {}", ids.len(), kept.len());
    }
}

#[test]
fn drawn_tokens_follow_the_distribution() {
    // 11 candidates: chi-square with 10 degrees of freedom is below 29.6 with probability 0.999.
    let params = SamplingParams { temperature: 2.0, typical_p: 0.4, seed: 5, ..Default::default() };
    let expected = distribution(&params, &grid());
    let mut sampler = Sampler::new(&params, &[]);
    let draws = 20_000;
    let mut counts: HashMap<u32, f64> = HashMap::new();
    for _ in 0..draws {
        *counts.entry(sampler.sample(&grid()).token).or_default() += 1.0;
    }
    let chi2: f64 = expected
        .iter()
        .map(|(id, p)| (counts.remove(id).unwrap_or(0.0) - p * draws as f64).powi(2) / (p * draws as f64))
        .sum();
    assert!(counts.is_empty(), "drawn, but filtered out: {counts:?}");
    assert!(chi2 < 29.6, "chi-square {chi2}");
}

#[test]
fn greedy_takes_the_largest_and_of_equals_the_lowest() {
    let mut sampler = Sampler::new(&SamplingParams::default(), &[]);
    let choice = sampler.sample(&[1.0, 3.0, f32::NAN, 3.0]);
    assert_eq!(choice.token, 1);
    // ln(e³ / (e + e³ + e³))
    let expected = 3.0 - (1f64.exp() + 2.0 * 3f64.exp()).ln();
    assert!((f64::from(choice.logprob) - expected).abs() < 1e-6);
}

#[test]
fn presence_and_frequency_count_the_answer_only() {
    let params = SamplingParams { presence_penalty: 0.5, frequency_penalty: 0.25, ..Default::default() };
    // Token 0 leads token 1 by 1.1: it is drawn until its penalty 0.5 + 0.25 n exceeds the lead, after n = 3 draws.
    let logits = [1.1, 0.0];
    let mut sampler = Sampler::new(&params, &[0, 0, 0, 0, 0]);
    let drawn: Vec<u32> = (0..4).map(|_| sampler.sample(&logits).token).collect();
    assert_eq!(drawn, [0, 0, 0, 1]);
}

#[test]
fn logit_bias_forces_and_forbids() {
    let params = SamplingParams { logit_bias: vec![(2, 100.0), (0, -100.0), (999, 5.0)], ..Default::default() };
    assert_eq!(Sampler::new(&params, &[]).sample(&[5.0, 1.0, 0.0]).token, 2);
    let params = SamplingParams { logit_bias: vec![(0, -100.0)], ..params };
    assert_eq!(Sampler::new(&params, &[]).sample(&[5.0, 1.0, 0.0]).token, 1);
}

#[test]
fn the_same_seed_draws_the_same_tokens_whatever_is_drawn_beside_it() {
    let params = SamplingParams { temperature: 1.0, top_p: 0.95, seed: 11, ..Default::default() };
    let mut alone = Sampler::new(&params, &[]);
    let expected: Vec<u32> = (0..50).map(|_| alone.sample(&grid()).token).collect();
    let (mut one, mut other) = (Sampler::new(&params, &[]), Sampler::new(&SamplingParams { seed: 12, ..params }, &[]));
    let mut others = Vec::new();
    for &token in &expected {
        others.push(other.sample(&grid()).token);
        assert_eq!(one.sample(&grid()).token, token);
    }
    assert_ne!(others, expected);
}

#[test]
fn filters_never_empty_the_set_and_survive_hostile_logits() {
    let rows: Vec<Vec<f32>> = vec![
        vec![f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY],
        vec![f32::INFINITY, 1.0, f32::INFINITY],
        vec![f32::NAN, f32::NAN, 0.5],
        vec![1e38, -1e38, 1e38],
        vec![0.0; 3],
        vec![f32::MIN_POSITIVE, -0.0, 0.0],
    ];
    for seed in 0..200 {
        let bits = philox2x64([seed, 9], 1);
        let params = SamplingParams {
            temperature: [1e-30, 0.5, 1.0, 100.0][bits[0] as usize % 4],
            top_k: [0, 1, 2, 3, 4_000_000][(bits[0] >> 8) as usize % 5],
            top_p: [1e-9, 0.5, 1.0][(bits[0] >> 16) as usize % 3],
            min_p: [0.0, 0.5, 1.0][(bits[0] >> 24) as usize % 3],
            typical_p: [1e-9, 0.5, 1.0][(bits[0] >> 32) as usize % 3],
            repetition_penalty: [1.0, 0.1, 10.0][(bits[0] >> 40) as usize % 3],
            seed,
            ..Default::default()
        };
        params.validate().unwrap();
        for row in &rows {
            let mut sampler = Sampler::new(&params, &[1]);
            for _ in 0..3 {
                let choice = sampler.sample(row);
                let logit = row[choice.token as usize];
                assert!(logit > f32::NEG_INFINITY, "{params:?} drew {choice:?} from {row:?}");
                assert!(choice.logprob <= 0.0, "{choice:?}");
            }
        }
    }
    for nothing in [vec![], vec![f32::NEG_INFINITY; 3], vec![f32::NAN; 3]] {
        let choice = Sampler::new(&SamplingParams { temperature: 1.0, ..Default::default() }, &[]).sample(&nothing);
        assert_eq!((choice.token, choice.logprob), (0, f32::NEG_INFINITY));
    }
}

#[test]
fn a_large_vocabulary_gives_what_sorting_it_whole_gives() {
    let v = 50_000u32;
    let logits: Vec<f32> = (0..v).map(|i| uniform(3, u64::from(i)) as f32 * 12.0).collect();
    let params = SamplingParams { temperature: 1.0, top_p: 0.6, ..Default::default() };
    let found: Vec<u32> = distribution(&params, &logits).iter().map(|d| d.0).collect();
    let mut order: Vec<u32> = (0..v).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    let mut sum = 0.0;
    let kept = 1 + order
        .iter()
        .take_while(|&&i| {
            sum += f64::from(logits[i as usize]).exp() / total;
            sum < 0.6
        })
        .count();
    let mut expected = order[..kept].to_vec();
    expected.sort_unstable();
    assert!(kept > 512, "the case must need more than two rounds of partial sorting");
    // f32 weights may move the border by a few of the thousands of nearly equal tokens.
    assert!(found.len().abs_diff(expected.len()) <= 3, "{} and {kept} tokens", found.len());
    let short = found.len().min(kept) - 3;
    assert!(found.iter().filter(|id| expected.binary_search(id).is_ok()).count() >= short);
}

#[test]
fn the_most_likely_tokens_come_in_order_with_the_floats_of_a_single_one() {
    let logits = grid();
    let top = top_logprobs(&logits, 5);
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), order[..5]);
    assert!(top.iter().all(|&(token, p)| p.to_bits() == logprob(&logits, token).to_bits()));
    let all: f64 = top_logprobs(&logits, 1000).iter().map(|t| f64::from(t.1).exp()).sum();
    assert!((all - 1.0).abs() < 1e-6, "{all}");
    assert_eq!(top_logprobs(&[1.0, f32::NAN, 1.0, 1.0], 2).iter().map(|t| t.0).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(top_logprobs(&logits, 0), []);
}

#[test]
fn a_constraint_decides_before_every_filter() {
    // Tokens 3, 33 and 38; the likeliest of all is none of them.
    let allowed = [1 << 3, 1 << 1 | 1 << 6];
    let logits = grid();
    let best = [3, 33, 38].into_iter().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32;
    let sharp = SamplingParams { temperature: 1.0, top_k: 1, top_p: 0.1, min_p: 0.9, ..Default::default() };
    for params in [SamplingParams::default(), sharp] {
        let choice = Sampler::new(&params, &PROMPT).sample_among(&logits, Some(&allowed));
        assert_eq!(choice, Choice { token: best, logprob: logprob(&logits, best) });
    }
    let flat = SamplingParams { temperature: 100.0, ..Default::default() };
    let mut sampler = Sampler::new(&flat, &PROMPT);
    let drawn: std::collections::BTreeSet<u32> =
        (0..200).map(|_| sampler.sample_among(&logits, Some(&allowed)).token).collect();
    assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 33, 38]);
    // Where the model thinks nothing of what is allowed, the first of it; a bias does not bring back what is not.
    let mut hopeless = logits.clone();
    [3, 33, 38].into_iter().for_each(|id| hopeless[id] = f32::NEG_INFINITY);
    let biased = SamplingParams { logit_bias: vec![(4, 100.0)], ..Default::default() };
    assert_eq!(Sampler::new(&biased, &PROMPT).sample_among(&hopeless, Some(&allowed)).token, 3);
}
