//! Training with f16 activations: the loss scale falls until gradients fit, skipped steps change nothing, a resumed run has the
//! scale of the one it goes on with, and a run that no scale can save ends.

use std::sync::atomic::AtomicBool;

use ounce_data::Batch;
use ounce_spec::Event;
use ounce_tensor::Device;
use ounce_train::report::{METRICS, Metrics};
use ounce_train::vfs::Disk;
use ounce_train::{LossScale, TrainError, Trainer};
use tiny::{Case, device, run_dir};

#[allow(dead_code)]
mod tiny;

/// Full tuning without anything random, with a loss scale that starts at `factor`.
fn trainer(device: &Device, factor: f64) -> (Case, Trainer) {
    let case = Case::full().f16("full, f16");
    let mut trainer = case.trainer(device);
    trainer.loss_scale = Some(LossScale { factor, ..LossScale::default() });
    (case, trainer)
}

/// So much that the gradients of the first logits are above 65504.
const TOO_MUCH: f64 = (1u64 << 25) as f64;

#[test]
fn the_scale_falls_until_gradients_fit_and_a_resumed_run_has_the_same_bits() {
    let device = device(2);
    let dir = run_dir();
    let (case, first) = trainer(&device, TOO_MUCH);
    let (whole, want) = case.train_with(first, dir.path(), &Disk, false, None).unwrap();
    let scale = whole.progress.loss_scale.unwrap();
    let log = Metrics::read(&dir.path().join(METRICS)).unwrap();
    let halved: Vec<(usize, f64)> = (1..=scale.skipped).map(|i| (i, TOO_MUCH / (1u64 << i) as f64)).collect();
    assert!((2..8).contains(&scale.skipped), "{scale:?}");
    assert_eq!(log.skipped_steps, halved);
    assert_eq!((log.steps.len(), scale.finite_steps), (9 - scale.skipped, 9 - scale.skipped));
    assert!(log.steps.iter().all(|s| s.loss_scale == Some(scale.factor)));
    for k in [1, scale.skipped, scale.skipped + 2] {
        let dir = run_dir();
        let (_, first) = trainer(&device, TOO_MUCH);
        let (stopped, _) = case.train_with(first, dir.path(), &Disk, false, Some(k)).unwrap();
        assert_eq!(stopped.progress.step, k);
        // A fresh trainer's scale is that of a run's beginning: the checkpoint's must take its place.
        let (resumed, left) = case.train(&device, dir.path(), &Disk, true, None).unwrap();
        assert_eq!(resumed.progress.loss_scale, whole.progress.loss_scale, "stopped after step {k}");
        left.assert_equal(&want, &format!("stopped after step {k}"));
    }
}

#[test]
fn a_skipped_step_changes_nothing_but_the_scale_and_is_no_update() {
    let device = device(2);
    let (case, mut late) = trainer(&device, TOO_MUCH);
    let batch: Batch = case.batches().next_batch();
    let bits = |t: &Trainer| -> Vec<u32> {
        t.trained.iter().flat_map(|&p| t.tensor(p).f32().iter().map(|v| v.to_bits()).collect::<Vec<_>>()).collect()
    };
    let untouched = bits(&late);
    let batches = std::slice::from_ref(&batch);
    let mut step = 1;
    while late.step(batches, step, 0, 0.01, 1.0).unwrap().skipped {
        assert!(bits(&late) == untouched, "step {step} was skipped but changed weights");
        step += 1;
    }
    assert!(step > 2 && bits(&late) != untouched);
    // Adam's bias correction is that of a first update.
    let (_, mut first) = trainer(&device, late.loss_scale.unwrap().factor);
    assert!(!first.step(batches, 1, 0, 0.01, 1.0).unwrap().skipped);
    assert!(bits(&late) == bits(&first), "an update after {} skipped steps is not a first one", step - 1);
}

/// What a power of two does to f32 sums is undone without a trace: the norm that is reported and clipped is that of the
/// gradients themselves.
#[test]
fn the_norm_is_that_of_the_unscaled_gradients() {
    let device = device(2);
    let norm = |factor: f64| {
        let (case, mut trainer) = trainer(&device, factor);
        let batch = case.batches().next_batch();
        trainer.step(&[batch], 1, 0, 0.01, 1.0).unwrap().grad_norm
    };
    let mut plain = Case::full().trainer(&device);
    let want = plain.step(&[Case::full().batches().next_batch()], 1, 0, 0.01, 1.0).unwrap().grad_norm;
    for factor in [1.0, 1024.0, 65536.0] {
        let got = norm(factor);
        assert!((got / want - 1.0).abs() < 5e-3, "norm {got} at scale {factor}, in f32 {want}");
    }
}

#[test]
fn a_run_that_no_scale_can_save_ends_with_the_step() {
    let device = device(1);
    let (case, mut first) = trainer(&device, 4.0);
    let p = first.trained[0];
    first.tensor_mut(p).f32_mut().fill(f32::NAN);
    let (dir, stop) = (run_dir(), AtomicBool::new(false));
    let mut run = case.run(&device, dir.path(), &Disk, &stop);
    run.trainer = first;
    let mut scales = Vec::new();
    let ended = run.train(false, &mut |event| {
        if let Event::Skipped { loss_scale, why, .. } = event {
            assert_eq!(why, "the loss is NaN");
            scales.push(*loss_scale);
        }
    });
    assert_eq!(scales, [2.0, 1.0]);
    let Err(TrainError::NonFinite(e)) = ended else { panic!("{ended:?}") };
    assert_eq!((e.step, e.what.as_str()), (3, "loss, with a loss scale of 1,"));
    assert!(!e.examples.is_empty());
}
