//! A disk that does not answer: whichever file operation of a run it hangs in, the run ends with an error that says so, soon after
//! the patience is over; the last good checkpoint is as it was, and a new process goes on from it.

use std::path::Path;
use std::time::{Duration, Instant};

use faults::{Fault, Faulty, Memory};
use ounce_train::checkpoint::{CheckpointError, Snapshot, load_latest, save};
use ounce_train::vfs::{Disk, Patient, Vfs};
use tiny::{Case, device, run_dir};

#[allow(dead_code, unused_imports)]
mod faults;
#[allow(dead_code)]
mod tiny;

fn snapshot(step: usize) -> Snapshot<'static> {
    let blobs = vec![("params.safetensors".into(), vec![step as u8; 3000].into())];
    Snapshot { step, world_size: 1, recipe_hash: "recipe".into(), meta: serde_json::json!({}), blobs }
}

#[test]
fn a_save_that_hangs_anywhere_ends_and_leaves_a_checkpoint() {
    const PATIENCE: Duration = Duration::from_millis(60);
    let (dir, start) = (Path::new("runs/a"), Memory::new());
    for step in [1, 2] {
        save(&start, dir, &snapshot(step), 2).unwrap();
    }
    let counting = Faulty::new(start.fork(), usize::MAX, Fault::Hang);
    save(&Patient::new(counting.clone()).unwrap(), dir, &snapshot(3), 2).unwrap();
    let mut refused = 0;
    for at in 0..counting.count() {
        let memory = start.fork();
        let patient = Patient::with_patience(Faulty::new(memory.clone(), at, Fault::Hang), PATIENCE).unwrap();
        let begun = Instant::now();
        let saved = save(&patient, dir, &snapshot(3), 2);
        let waited = begun.elapsed();
        assert!(waited >= PATIENCE, "operation {at}: {waited:?}");
        let told = match saved {
            Err(error) => {
                assert!(matches!(error, CheckpointError::Io { .. }), "{error}");
                refused += 1;
                error.to_string()
            }
            // It hung when the checkpoint was safe.
            Ok(saved) => saved.warnings.join("; "),
        };
        assert!(told.is_empty() || told.contains("the disk has not answered for"), "operation {at}: {told}");
        let newest = load_latest(&memory, dir).unwrap().expect("a checkpoint").step;
        assert!(newest == 3 || refused > 0 && newest == 2, "operation {at}: {newest}");
    }
    // The others are what is done after the new checkpoint is safe.
    assert!(refused > 10 && counting.count() > refused, "{refused} of {}", counting.count());
}

/// Who cleans up after a call without an answer does not wait for each file again.
#[test]
fn nobody_waits_for_the_same_disk_twice() {
    const PATIENCE: Duration = Duration::from_millis(400);
    let patient = Patient::with_patience(Faulty::new(Memory::new(), 0, Fault::Hang), PATIENCE).unwrap();
    patient.create_dir(Path::new("runs")).unwrap_err();
    // The quickest of some, since the machine may be busy for a moment.
    let removal = || {
        let begun = Instant::now();
        let error = patient.remove_file(Path::new("runs/a")).unwrap_err().to_string();
        assert!(error.contains("asked for the directory runs, "), "the call that hangs is named: {error}");
        begun.elapsed()
    };
    let quickest = std::iter::repeat_with(removal).take(10).min().unwrap();
    assert!(quickest < PATIENCE / 4, "{quickest:?}");
}

#[test]
fn a_run_whose_disk_hangs_ends_and_goes_on_later() {
    let device = device(1);
    let mut case = Case::lora().evaluating("saving each step", 9);
    (case.recipe.save_every, case.recipe.max_steps) = (1, Some(4));
    let dir = run_dir();
    let counting = Faulty::new(Disk, usize::MAX, Fault::Hang);
    let patient = Patient::new(counting.clone()).unwrap();
    let (_, want) = case.train(&device, dir.path(), &patient, false, None).unwrap();
    let (operations, mut ended) = (counting.count(), 0);
    for at in (5..operations).step_by(operations / 7) {
        let dir = run_dir();
        let hanging = Faulty::new(Disk, at, Fault::Hang);
        let patient = Patient::with_patience(hanging, Duration::from_millis(300)).unwrap();
        if let Err(error) = case.train(&device, dir.path(), &patient, false, None) {
            let text = error.to_string();
            assert!(text.contains("the disk has not answered for 3"), "operation {at}: {text}");
            ended += 1;
        }
        let (_, left) = case.train(&device, dir.path(), &Disk, true, None).unwrap();
        left.assert_equal(&want, &format!("hanging at operation {at}"));
    }
    assert!(ended > 3, "{ended} runs ended");
}
