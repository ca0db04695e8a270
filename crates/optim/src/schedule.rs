//! Learning-rate schedules: the rate as a pure function of the step, so that a resumed run needs no scheduler state.
//!
//! The values are transformers' (`get_scheduler`): `constant_with_warmup`, `linear`, `cosine_with_min_lr` (`cosine` when
//! `final_ratio` is 0) and `warmup_stable_decay` with its cosine decay.

use ounce_spec::recipe::{ScheduleName, ScheduleRecipe};

/// Steps of warm-up in a run of `total_steps`.
pub fn warmup_steps(schedule: &ScheduleRecipe, total_steps: usize) -> usize {
    schedule.warmup_steps.unwrap_or_else(|| share(schedule.warmup_ratio, total_steps))
}

/// The learning rate of the update that follows `step` finished ones: `step` is 0 for the first update of a run, and
/// `total_steps` is the number of updates. `peak` is the recipe's rate, reached at the end of the warm-up.
///
/// As in transformers, warm-up starts at 0, so the first update of a run with warm-up moves nothing. At and after
/// `total_steps` the rate stays where the decay ends.
pub fn learning_rate(schedule: &ScheduleRecipe, peak: f64, step: usize, total_steps: usize) -> f64 {
    let warmup = warmup_steps(schedule, total_steps);
    let last = schedule.final_ratio;
    let between = |factor: f64| factor * (1.0 - last) + last;
    if step < warmup {
        let rise = step as f64 / warmup as f64;
        // transformers starts this schedule's warm-up where its decay ends, and the others' at 0.
        return peak * if schedule.name == ScheduleName::Wsd { between(rise) } else { rise };
    }
    let factor = match schedule.name {
        ScheduleName::Constant => 1.0,
        ScheduleName::Linear => between(1.0 - progress(step, warmup, total_steps)),
        ScheduleName::Cosine => between(half_cosine(progress(step, warmup, total_steps))),
        ScheduleName::Wsd => {
            let decay = share(schedule.decay_ratio, total_steps);
            let start = total_steps.saturating_sub(decay).max(warmup);
            if step < start { 1.0 } else { between(half_cosine(progress(step, start, total_steps))) }
        }
    };
    peak * factor
}

/// From 1 at the start to 0 at the end of the decay.
fn half_cosine(progress: f64) -> f64 {
    0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

/// How much of `from..to` lies before `step`, in 0..=1.
fn progress(step: usize, from: usize, to: usize) -> f64 {
    let whole = to.saturating_sub(from).max(1);
    (step.saturating_sub(from) as f64 / whole as f64).min(1.0)
}

/// A share of a run in whole steps, rounded up as transformers rounds `warmup_ratio`.
fn share(ratio: f64, total_steps: usize) -> usize {
    (total_steps as f64 * ratio).ceil().max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(name: ScheduleName, final_ratio: f64) -> ScheduleRecipe {
        ScheduleRecipe { name, warmup_steps: Some(10), warmup_ratio: 0.5, final_ratio, decay_ratio: 0.2 }
    }

    /// Rates of transformers 5.23.0, `get_scheduler(name, optimizer, 10, 100, …)` with a peak of 2e-4.
    #[test]
    fn rates_are_those_of_transformers() {
        let rise = [(0, 0.0), (1, 2e-05), (5, 1e-4), (10, 2e-4)];
        let cases: [(ScheduleName, f64, &[(usize, f64)]); 5] = [
            (ScheduleName::Constant, 0.1, &[(11, 2e-4), (50, 2e-4), (99, 2e-4), (100, 2e-4)]),
            (
                ScheduleName::Linear,
                0.0,
                &[(11, 0.00019777777777777778), (50, 0.00011111111111111112), (99, 2.2222222222222225e-06), (100, 0.0)],
            ),
            (
                ScheduleName::Cosine,
                0.0,
                &[
                    (11, 0.0001999390827019096),
                    (50, 0.00011736481776669306),
                    (80, 2.339555568810221e-05),
                    (99, 6.09172980904238e-08),
                    (100, 0.0),
                ],
            ),
            (
                ScheduleName::Cosine,
                0.1,
                &[
                    (11, 0.00019994517443171862),
                    (50, 0.00012562833599002375),
                    (80, 4.1056000119291995e-05),
                    (99, 2.0054825568281382e-05),
                    (100, 2e-05),
                ],
            ),
            (
                ScheduleName::Wsd,
                0.1,
                &[
                    (11, 0.0002),
                    (79, 0.0002),
                    (80, 0.0002),
                    (81, 0.0001988919506535624),
                    (90, 0.00011000000000000002),
                    (99, 2.1108049346437613e-05),
                    (100, 2e-05),
                ],
            ),
        ];
        let warm = [(0, 2e-05), (1, 3.8e-05), (5, 0.00011000000000000002), (10, 0.0002)];
        for (name, final_ratio, after) in cases {
            let before = if name == ScheduleName::Wsd { warm } else { rise };
            for (step, expected) in before.iter().chain(after) {
                let rate = learning_rate(&schedule(name, final_ratio), 2e-4, *step, 100);
                assert!((rate - expected).abs() <= 1e-12 * 2e-4, "{name:?} at {step}: {rate} is not {expected}");
            }
        }
    }

    #[test]
    fn the_warmup_ratio_is_rounded_up() {
        let by_ratio = ScheduleRecipe { warmup_steps: None, warmup_ratio: 0.03, ..ScheduleRecipe::default() };
        assert_eq!(warmup_steps(&by_ratio, 100), 3);
        assert_eq!(warmup_steps(&by_ratio, 101), 4);
        assert_eq!(warmup_steps(&by_ratio, 0), 0);
        assert_eq!(warmup_steps(&ScheduleRecipe { warmup_steps: Some(7), ..by_ratio }, 100), 7);
    }

    proptest! {
        /// Any schedule, also of an empty run and past its end: within 0..=peak, never rising after the warm-up, and at the
        /// end exactly where the recipe says.
        #[test]
        fn every_rate_is_in_range(
            name in prop_oneof![
                Just(ScheduleName::Constant), Just(ScheduleName::Linear), Just(ScheduleName::Cosine), Just(ScheduleName::Wsd)
            ],
            warmup in proptest::option::of(0usize..50), total in 0usize..200, final_ratio in 0.0..=1.0f64,
            decay_ratio in 0.0..=1.0f64,
        ) {
            let s = ScheduleRecipe { name, warmup_steps: warmup, warmup_ratio: 0.1, final_ratio, decay_ratio };
            let warmup = warmup_steps(&s, total);
            let rates: Vec<f64> = (0..total + 60).map(|step| learning_rate(&s, 1.0, step, total)).collect();
            prop_assert!(rates.iter().all(|r| (0.0..=1.0 + 1e-12).contains(r)), "{rates:?}");
            prop_assert!(rates[warmup..].windows(2).all(|w| w[1] <= w[0] + 1e-12), "{rates:?}");
            if name != ScheduleName::Constant && total > warmup {
                prop_assert!((rates[total] - final_ratio).abs() < 1e-12);
            }
        }
    }
}
