//! Batches: nothing lost, nothing crossed, the order a function of seed and epoch, a restored cursor exact.

mod common;

use ounce_data::{Batch, Batches, DataError, Settings, Tokenized};
use proptest::prelude::*;

fn settings() -> Settings {
    Settings { seed: 1, batch_size: 3, max_length: 16, packing: true, shuffle: true, weights: vec![] }
}

fn items() -> impl Strategy<Value = Vec<Tokenized>> {
    let one = (prop::collection::vec((any::<u32>(), any::<bool>()), 2..=16), 0u32..2);
    prop::collection::vec(one, 1..60).prop_map(|list| {
        list.into_iter()
            .enumerate()
            .map(|(i, (tokens, source))| {
                let (ids, loss) = tokens.into_iter().unzip();
                Tokenized { ids, loss, example: i as u32, source }
            })
            .collect()
    })
}

/// What a batch says of each of its sequences.
fn sequences(batch: &Batch) -> Vec<(u32, Vec<u32>)> {
    let ids = |pair: &[usize]| batch.ids[pair[0]..pair[1]].to_vec();
    batch.examples.iter().copied().zip(batch.bounds.windows(2).map(ids)).collect()
}

#[test]
fn a_batch_by_hand() {
    let a = Tokenized { ids: vec![5, 6, 7], loss: vec![false, false, true], example: 4, source: 0 };
    let b = Tokenized { ids: vec![8, 9], loss: vec![true, true], example: 2, source: 0 };
    let batch = Batch::of([&a, &b]);
    assert_eq!(batch.ids, [5, 6, 7, 8, 9]);
    assert_eq!(batch.targets, [6, 7, 7, 9, 9]);
    assert_eq!(batch.weights, [0.0, 1.0, 0.0, 1.0, 0.0]);
    assert_eq!(batch.positions, [0, 1, 2, 0, 1]);
    assert_eq!(batch.bounds, [0, 3, 5]);
    assert_eq!(batch.examples, [4, 2]);
    assert_eq!((batch.tokens(), batch.loss_tokens()), (5, 2));
}

proptest! {
    #[test]
    fn an_epoch_holds_every_example_once_and_targets_stay_inside(
        items in items(), packing in any::<bool>(), shuffle in any::<bool>(), epoch in 0u64..5, seed in any::<u64>(),
    ) {
        let settings = Settings { packing, shuffle, seed, ..settings() };
        let batches = Batches::new(items.clone(), settings).unwrap();
        let mut seen = vec![0; items.len()];
        for batch in batches.epoch_batches(epoch) {
            prop_assert!(batch.ids.len() <= 3 * 16);
            prop_assert!(packing || batch.examples.len() <= 3);
            for (s, (example, ids)) in sequences(&batch).into_iter().enumerate() {
                let item = &items[example as usize];
                prop_assert_eq!(&ids, &item.ids);
                seen[example as usize] += 1;
                let start = batch.bounds[s];
                for i in 0..ids.len() {
                    prop_assert_eq!(batch.positions[start + i] as usize, i);
                    let last = i + 1 == ids.len();
                    prop_assert_eq!(batch.weights[start + i] > 0.0, !last && item.loss[i + 1]);
                    prop_assert!(last || batch.targets[start + i] == ids[i + 1]);
                }
            }
        }
        prop_assert!(seen.iter().all(|&n| n == 1), "{:?}", seen);
    }

    #[test]
    fn a_restored_cursor_goes_on_as_if_uninterrupted(
        items in items(), packing in any::<bool>(), weight in 0.2f64..2.5, stop in 0usize..60,
    ) {
        // Weights that leave less than one example are refused.
        prop_assume!(items.len() as f64 * weight >= 3.0);
        let settings = Settings { packing, weights: vec![1.0, weight], ..settings() };
        let mut through = Batches::new(items.clone(), settings.clone()).unwrap();
        for _ in 0..stop {
            through.next_batch();
        }
        let saved = serde_json::to_string(&through.cursor()).unwrap();
        let mut resumed = Batches::new(items, settings).unwrap();
        resumed.restore(&serde_json::from_str(&saved).unwrap()).unwrap();
        for _ in 0..40 {
            prop_assert_eq!(resumed.cursor(), through.cursor());
            prop_assert_eq!(resumed.next_batch(), through.next_batch());
        }
    }

    #[test]
    fn weights_are_passes_per_epoch_spread_evenly(items in items(), weight in 0.2f64..2.5) {
        prop_assume!(items.iter().any(|i| i.source == 0));
        let settings = Settings { weights: vec![1.0, weight], ..settings() };
        let batches = Batches::new(items.clone(), settings).unwrap();
        let mut seen = vec![0i64; items.len()];
        for epoch in 0..10 {
            for batch in batches.epoch_batches(epoch) {
                batch.examples.iter().for_each(|&e| seen[e as usize] += 1);
            }
        }
        let count = |source| items.iter().zip(&seen).filter(move |(i, _)| i.source == source).map(|(_, &n)| n);
        prop_assert!(count(0).all(|n| n == 10));
        let total: i64 = count(1).sum();
        let members = count(1).count() as f64;
        prop_assert!((total as f64 - 10.0 * weight * members).abs() <= 1.0);
        if let (Some(low), Some(high)) = (count(1).min(), count(1).max()) {
            prop_assert!(high - low <= 1, "some of the file is seen more often: {:?}", seen);
        }
    }

    #[test]
    fn steps_are_those_that_are_taken(items in items(), packing in any::<bool>(), epochs in 1u64..4) {
        let settings = Settings { packing, ..settings() };
        let mut batches = Batches::new(items, settings).unwrap();
        let steps = batches.steps_in(epochs as f64);
        prop_assert_eq!(batches.steps_in(1.0), batches.steps_per_epoch());
        for _ in 0..steps {
            prop_assert!(batches.epoch() < epochs);
            batches.next_batch();
        }
        batches.next_batch();
        prop_assert_eq!(batches.epoch(), epochs);
    }
}

proptest! {
    /// Parts are the batch cut between sequences; none is longer than asked unless it is one sequence.
    #[test]
    fn parts_put_together_are_the_batch(items in items(), tokens in 0usize..40) {
        let batch = Batch::of(&items);
        let parts = batch.parts(tokens);
        prop_assert_eq!(parts.iter().flat_map(sequences).collect::<Vec<_>>(), sequences(&batch));
        prop_assert_eq!(parts.iter().flat_map(|p| p.weights.clone()).collect::<Vec<_>>(), batch.weights.clone());
        prop_assert_eq!(parts.iter().flat_map(|p| p.targets.clone()).collect::<Vec<_>>(), batch.targets.clone());
        for pair in parts.windows(2) {
            prop_assert!(tokens > 0 && pair[0].tokens() + pair[1].bounds[1] > tokens, "a part could have been longer");
        }
        for part in &parts {
            prop_assert!(tokens == 0 || part.tokens() <= tokens || part.examples.len() == 1);
        }
    }
}

fn numbered(n: u32) -> Vec<Tokenized> {
    (0..n).map(|i| Tokenized { ids: vec![i, i + 1], loss: vec![false, true], example: i, source: 0 }).collect()
}

#[test]
fn the_order_is_a_function_of_seed_and_epoch() {
    let order = |seed, epoch| -> Vec<u32> {
        let batches = Batches::new(numbered(40), Settings { seed, ..settings() }).unwrap();
        batches.epoch_batches(epoch).flat_map(|b| b.examples).collect()
    };
    assert_eq!(order(1, 2), order(1, 2));
    assert_ne!(order(1, 2), order(1, 3));
    assert_ne!(order(1, 2), order(2, 2));
    // A change here changes every run that was promised to be repeatable: say so in the changelog.
    assert_eq!(order(0, 0)[..10], EXPECTED);
    let plain = Settings { shuffle: false, ..settings() };
    let in_order: Vec<u32> =
        Batches::new(numbered(40), plain).unwrap().epoch_batches(3).flat_map(|b| b.examples).collect();
    assert_eq!(in_order, (0..40).collect::<Vec<_>>());
}

const EXPECTED: [u32; 10] = [12, 24, 17, 2, 25, 5, 39, 14, 21, 16];

#[test]
fn a_cursor_of_other_data_is_refused() {
    let cursor = Batches::new(numbered(40), settings()).unwrap().cursor();
    let refused = |items, settings| {
        let result = Batches::new(items, settings).unwrap().restore(&cursor);
        matches!(result, Err(DataError::WrongCursor { .. }))
    };
    assert!(!refused(numbered(40), settings()));
    assert!(refused(numbered(39), settings()));
    assert!(refused(numbered(40), Settings { seed: 2, ..settings() }));
    assert!(refused(numbered(40), Settings { batch_size: 4, ..settings() }));
    let mut other = numbered(40);
    other[7].loss[0] = true;
    assert!(refused(other, settings()));
}

#[test]
fn settings_without_sense_are_refused() {
    let refused = |settings| Batches::new(numbered(4), settings).is_err();
    assert!(refused(Settings { batch_size: 0, ..settings() }));
    assert!(refused(Settings { max_length: 1, ..settings() }));
    assert!(refused(Settings { weights: vec![f64::NAN], ..settings() }));
    assert!(refused(Settings { weights: vec![0.01], ..settings() }));
    assert!(Batches::new(vec![], settings()).is_err());
}
