//! A run that is interrupted anywhere and resumed ends with the bits of the run that was not: parameters, optimizer state,
//! and every loss in the log.

use std::sync::atomic::AtomicBool;

use faults::{Fault, Faulty};
use ounce_spec::event::EndReason;
use ounce_spec::recipe::StateType;
use ounce_tensor::Policy;
use ounce_train::checkpoint::{self, CheckpointError};
use ounce_train::report::Metrics;
use ounce_train::state::StateError;
use ounce_train::vfs::Disk;
use ounce_train::{Progress, TrainError};
use tiny::{Case, Left, device, run_dir};

#[allow(dead_code, unused_imports)]
mod faults;
#[allow(dead_code)]
mod tiny;

fn cases() -> Vec<Case> {
    let mut accumulating = Case::lora().named("lora, accumulation 2");
    accumulating.recipe.gradient_accumulation = 2;
    let mut unpacked = Case::full().named("full, unpacked, no shuffling");
    (unpacked.recipe.data.packing, unpacked.recipe.data.shuffle) = (false, false);
    let mut recomputing = Case::lora().bf16("lora, bf16, recomputing");
    recomputing.activations = Policy::Recompute;
    vec![
        Case::lora(),
        Case::lora().bf16("lora, bf16"),
        recomputing,
        Case::full(),
        Case::full().bf16("full, bf16"),
        Case::lora().f16("lora, f16"),
        Case::full().f16("full, f16").evaluating("full, f16, evaluating", 0),
        accumulating,
        unpacked,
        Case::lora().sgd().named("lora, sgd"),
        Case::lora().evaluating("lora, evaluating", 0),
        Case::full().evaluating("full, patience 9", 9),
        Case::lora().state(StateType::Bf16, "lora, bf16 moments"),
        Case::full().state(StateType::Bf16, "full, bf16 moments"),
        Case::lora().wide().state(StateType::Block8, "lora, 8-bit moments"),
        Case::full().update_now("full, update now"),
        Case::full().pure_bf16("full, pure bf16"),
        Case::full().pure_bf16("full, pure bf16").update_now("full, pure bf16, update now"),
    ]
}

/// The run that nothing interrupts.
fn whole(case: &Case, device: &ounce_tensor::Device) -> Left {
    let dir = run_dir();
    let (outcome, left) = case.train(device, dir.path(), &Disk, false, None).unwrap();
    assert_eq!((outcome.reason, outcome.progress.step), (EndReason::Done, 9), "{}", case.name);
    let codes = left.state.iter().any(|(name, _)| name.ends_with("exp_avg_sq_absmax"));
    assert_eq!(codes, case.recipe.optimizer.state == StateType::Block8, "{}", case.name);
    assert!(!left.losses.is_empty() && left.params.iter().any(|(_, bits)| bits.iter().any(|b| *b != 0)));
    left
}

#[test]
fn a_run_stopped_after_any_step_resumes_to_the_same_bits() {
    let device = device(2);
    for case in cases() {
        let want = whole(&case, &device);
        for k in 0..9 {
            let dir = run_dir();
            let (outcome, _) = case.train(&device, dir.path(), &Disk, false, Some(k)).unwrap();
            assert_eq!((outcome.reason, outcome.progress.step), (EndReason::Interrupted, k), "{}", case.name);
            assert_eq!(checkpoint::steps(&Disk, dir.path()).unwrap().last(), Some(&k));
            let (outcome, left) = case.train(&device, dir.path(), &Disk, true, None).unwrap();
            assert_eq!(outcome.reason, EndReason::Done);
            left.assert_equal(&want, &format!("{}, stopped after step {k}", case.name));
        }
    }
}

#[test]
fn a_run_stopped_after_every_step_resumes_to_the_same_bits() {
    let device = device(2);
    for case in cases() {
        let dir = run_dir();
        for k in 0..9 {
            case.train(&device, dir.path(), &Disk, k > 0, Some(k)).unwrap();
        }
        let (_, left) = case.train(&device, dir.path(), &Disk, true, None).unwrap();
        left.assert_equal(&whole(&case, &device), case.name);
    }
}

/// A process that is killed saves nothing: it goes on from the last checkpoint, with a log that is too long.
#[test]
fn a_run_killed_after_any_step_resumes_to_the_same_bits() {
    let device = device(2);
    for case in cases() {
        let want = whole(&case, &device);
        for k in [1, 3, 4, 5, 8] {
            let dir = run_dir();
            let stop = AtomicBool::new(false);
            let mut run = case.run(&device, dir.path(), &Disk, &stop);
            let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                run.train(false, &mut |event| match event {
                    ounce_spec::Event::Step { step, .. } if *step >= k => std::panic::resume_unwind(Box::new(())),
                    _ => {}
                })
            }));
            assert!(killed.is_err());
            drop(run);
            let (_, left) = case.train(&device, dir.path(), &Disk, true, None).unwrap();
            left.assert_equal(&want, &format!("{}, killed after step {k}", case.name));
        }
    }
}

/// The signal comes when the evaluation is due: it is not waited for, and it comes first when the run goes on.
#[test]
fn a_signal_breaks_off_an_evaluation() {
    let (device, case) = (device(1), Case::full().evaluating("full, patience 9", 9));
    for k in [2, 9] {
        let dir = run_dir();
        let (outcome, left) = case.train(&device, dir.path(), &Disk, false, Some(k)).unwrap();
        assert_eq!((outcome.reason, outcome.progress.step), (EndReason::Interrupted, k));
        assert!(outcome.progress.eval_pending && left.evals.iter().all(|e| e.0 < k), "{:?}", left.evals);
        // Once more, before anything is done.
        let (outcome, again) = case.train(&device, dir.path(), &Disk, true, Some(0)).unwrap();
        assert_eq!((outcome.reason, outcome.progress.step), (EndReason::Interrupted, k));
        assert_eq!(again.evals, left.evals);
        let (outcome, left) = case.train(&device, dir.path(), &Disk, true, None).unwrap();
        assert!(outcome.reason == EndReason::Done && !outcome.progress.eval_pending);
        left.assert_equal(&whole(&case, &device), case.name);
    }
}

/// Loss and gradients were numbers, but not what the update made of them.
#[test]
fn parameters_that_are_no_numbers_are_not_saved() {
    let mut case = Case::full().sgd();
    case.recipe.optimizer.learning_rate = 1e300;
    case.recipe.save_every = 1;
    let dir = run_dir();
    let Err(TrainError::NonFinite(error)) = case.train(&device(1), dir.path(), &Disk, false, None) else {
        panic!("it went on")
    };
    // The first step of a warm-up has a rate of zero.
    assert!(error.step == 2 && error.what.contains("weight") && !error.examples.is_empty(), "{error}");
    assert_eq!(checkpoint::steps(&Disk, dir.path()).unwrap(), [1]);
}

#[test]
fn resuming_a_finished_run_changes_nothing() {
    let device = device(2);
    for case in [Case::lora(), Case::full().evaluating("patience", 9)] {
        let dir = run_dir();
        let (first, want) = case.train(&device, dir.path(), &Disk, false, None).unwrap();
        let (again, left) = case.train(&device, dir.path(), &Disk, true, None).unwrap();
        left.assert_equal(&want, case.name);
        assert_eq!((again.reason, again.progress.step), (EndReason::Done, 9));
        // What is said of it is said again, from the log.
        assert_eq!(again.train_loss.to_bits(), first.train_loss.to_bits());
        assert_eq!(again.valid_loss, first.valid_loss);
    }
}

/// A run that diverges: the evaluation is best early and the run stops before its last step.
fn diverging() -> Case {
    let mut case = Case::full().evaluating("early stop", 2);
    case.recipe.optimizer.learning_rate = 0.1;
    case.recipe.max_steps = Some(40);
    case
}

#[test]
fn early_stopping_puts_the_best_parameters_back() {
    let device = device(2);
    let (case, dir) = (diverging(), run_dir());
    let stop = AtomicBool::new(false);
    let mut run = case.run(&device, dir.path(), &Disk, &stop);
    let outcome = run.train(false, &mut |_| {}).unwrap();
    assert_eq!(outcome.reason, EndReason::EarlyStop);
    assert!(outcome.progress.step < 40 && outcome.progress.evals_since_best == 2, "{:?}", outcome.progress);
    let best = outcome.progress.best_loss.unwrap();
    assert!(outcome.valid_loss.unwrap() > best, "the run did not diverge");
    assert_eq!(run.evaluate().unwrap().unwrap().0.to_bits(), best.to_bits());
}

#[test]
fn a_run_that_stopped_early_stays_stopped() {
    let device = device(2);
    let (case, dir) = (diverging(), run_dir());
    let (first, want) = case.train(&device, dir.path(), &Disk, false, None).unwrap();
    // As if it had been killed before its result was written.
    let (again, left) = case.train(&device, dir.path(), &Disk, true, None).unwrap();
    assert_eq!((again.reason, again.progress.step), (EndReason::EarlyStop, first.progress.step));
    left.assert_equal(&want, "resumed after an early stop");

    // And where it is stopped by hand on the way, its memory of the best evaluation goes on.
    for k in 1..first.progress.step {
        let dir = run_dir();
        case.train(&device, dir.path(), &Disk, false, Some(k)).unwrap();
        let (again, left) = case.train(&device, dir.path(), &Disk, true, None).unwrap();
        assert_eq!(again.reason, EndReason::EarlyStop);
        left.assert_equal(&want, &format!("stopped after step {k}"));
    }
}

/// The parameters of the best evaluation lie beside the checkpoints, and are as well protected.
#[test]
fn a_flipped_bit_in_the_best_parameters_is_found() {
    let device = device(1);
    let (case, dir) = (diverging(), run_dir());
    let (_, want) = case.train(&device, dir.path(), &Disk, false, None).unwrap();
    let path = dir.path().join("best.safetensors");
    let good = std::fs::read(&path).unwrap();
    for bit in (0..8 * good.len()).step_by(good.len() / 3) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, bad).unwrap();
        let error = case.train(&device, dir.path(), &Disk, true, None).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("best.safetensors") && error.contains("damaged"), "{error}");
    }
    std::fs::write(&path, good).unwrap();
    let (_, left) = case.train(&device, dir.path(), &Disk, true, None).unwrap();
    left.assert_equal(&want, "with the file put back");
}

#[test]
fn another_recipe_is_refused() {
    let device = device(1);
    let (case, dir) = (Case::lora(), run_dir());
    case.train(&device, dir.path(), &Disk, false, Some(2)).unwrap();
    let stop = AtomicBool::new(false);
    let mut run = case.run(&device, dir.path(), &Disk, &stop);
    run.recipe_hashes = vec!["another".into()];
    let error = run.train(true, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, TrainError::State(StateError::OtherRecipe { path }) if path.ends_with("checkpoint-2")));
    // Nothing was touched: the right recipe still goes on.
    let (outcome, _) = case.train(&device, dir.path(), &Disk, true, None).unwrap();
    assert_eq!(outcome.reason, EndReason::Done);
}

#[test]
fn a_checkpoint_of_an_older_program_is_gone_on_from() {
    let device = device(1);
    let (case, dir, straight) = (Case::lora(), run_dir(), run_dir());
    let (_, want) = case.train(&device, straight.path(), &Disk, false, None).unwrap();
    case.train(&device, dir.path(), &Disk, false, Some(2)).unwrap();
    let stop = AtomicBool::new(false);
    let mut run = case.run(&device, dir.path(), &Disk, &stop);
    // What the checkpoint has is among the others.
    run.recipe_hashes.insert(0, "of this program".into());
    run.train(true, &mut |_| {}).unwrap();
    Left::of(&run.trainer, dir.path()).assert_equal(&want, "resumed");
    let newest = checkpoint::load_latest(&Disk, dir.path()).unwrap().unwrap();
    assert_eq!(newest.manifest.recipe_hash, "of this program");
}

/// Every shape that differs is reported, and no value was taken.
#[test]
fn another_rank_is_refused_with_every_mismatch() {
    let device = device(1);
    let (case, dir) = (Case::lora(), run_dir());
    case.train(&device, dir.path(), &Disk, false, Some(2)).unwrap();
    let mut other = case.clone();
    other.recipe.lora.rank = 3;
    let error = other.train(&device, dir.path(), &Disk, true, None).map(|_| ()).unwrap_err();
    let TrainError::State(StateError::Mismatch { problems, .. }) = &error else { panic!("{error}") };
    assert_eq!(problems.len(), 2 * 7 * 2, "{problems:#?}");
}

/// The same run with a checkpoint after each step, and one fault at one of its file operations: the run ends with an error
/// or goes on, and a new process gets to the same bits either way.
#[test]
fn a_fault_at_any_file_operation_leaves_a_run_that_resumes() {
    let device = device(1);
    let mut case = Case::lora().evaluating("saving each step", 9);
    (case.recipe.save_every, case.recipe.max_steps) = (1, Some(4));
    let dir = run_dir();
    let counting = Faulty::new(Disk, usize::MAX, Fault::Io);
    let (_, want) = case.train(&device, dir.path(), &counting, false, None).unwrap();
    let operations = counting.count();
    assert!(operations > 60, "{operations}");
    let (mut failed, mut full) = (0, 0);
    for (i, fault) in Fault::ALL.into_iter().enumerate() {
        // Each operation meets one fault, each fault every seventh operation; the saves themselves are tested in full
        // elsewhere.
        for at in (i..operations).step_by(Fault::ALL.len()) {
            let what = format!("{fault:?} at operation {at} of {operations}");
            let dir = run_dir();
            if let Err(error) = case.train(&device, dir.path(), &Faulty::new(Disk, at, fault), false, None) {
                if let TrainError::Checkpoint(CheckpointError::DiskFull { .. }) = &error {
                    full += 1;
                    let left = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
                    let left: Vec<String> = left.map(|n| n.to_string_lossy().into_owned()).collect();
                    assert!(!left.iter().any(|n| n.contains("tmp")), "{what}: {left:?} fills the disk");
                }
                failed += 1;
            }
            let (outcome, left) =
                case.train(&device, dir.path(), &Disk, true, None).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(outcome.reason, EndReason::Done);
            left.assert_equal(&want, &what);
        }
    }
    // The others hit nothing, or only what is done after a checkpoint is safe.
    assert!(failed > operations / 3 && full > 3, "{failed} of {operations} faults ended a run, {full} as a full disk");
}

#[test]
fn the_log_of_a_resumed_run_has_no_gap_and_no_line_twice() {
    let device = device(1);
    let (case, dir) = (Case::lora(), run_dir());
    case.train(&device, dir.path(), &Disk, false, Some(4)).unwrap();
    let (outcome, _) = case.train(&device, dir.path(), &Disk, true, None).unwrap();
    let log = Metrics::read(&dir.path().join(ounce_train::report::METRICS)).unwrap();
    assert_eq!(log.steps.iter().map(|s| s.step).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
    assert_eq!(log.end, Some((9, EndReason::Done)));
    let tokens: usize = log.steps.iter().map(|s| s.tokens).sum();
    let Progress { tokens: counted, train_s, .. } = outcome.progress;
    assert_eq!(counted, tokens as u64);
    let timed: f64 = log.steps.iter().map(|s| s.step_s).sum();
    assert!((train_s - timed).abs() < 1e-9, "{train_s} {timed}");
}
