//! A disk that does not answer: whichever file operation of a run it hangs in, be it of a checkpoint, of the log or of what the run
//! leaves, the run ends with an error that says so, soon after the patience is over; the last good checkpoint is as it was, and a
//! new process goes on from it.

use std::path::Path;
use std::time::{Duration, Instant};

use faults::{Fault, Faulty, Memory};
use ounce_formats::peft::{self, AdapterConfig};
use ounce_formats::{TensorData, Tensors};
use ounce_spec::Event;
use ounce_train::checkpoint::{CheckpointError, Snapshot, load_latest, save};
use ounce_train::report::Reporter;
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

/// Does `work` on a disk that hangs at its first operation, its second and so on to the last; every time it ends with an error that
/// names a file of the directory, the patience and the disk.
fn hangs_anywhere(dir: &Path, work: impl Fn(&dyn Vfs) -> Result<(), String>) {
    const PATIENCE: Duration = Duration::from_millis(60);
    let start = Memory::new();
    start.create_dir(Path::new("runs")).unwrap();
    let counting = Faulty::new(start.fork(), usize::MAX, Fault::Hang);
    work(&Patient::new(counting.clone()).unwrap()).unwrap();
    assert!(counting.count() > 8, "{}", counting.count());
    for at in 0..counting.count() {
        let patient = Patient::with_patience(Faulty::new(start.fork(), at, Fault::Hang), PATIENCE).unwrap();
        let error = work(&patient).expect_err("it hangs");
        for part in [dir.to_str().unwrap(), "asked for the ", "the disk has not answered for 6"] {
            assert!(error.contains(part), "operation {at}: {error}");
        }
    }
}

#[test]
fn a_log_whose_disk_hangs_says_so() {
    let dir = Path::new("runs/a");
    hangs_anywhere(dir, |vfs| {
        let events = |reporter: &mut Reporter| {
            reporter.on_event(&Event::Eval { step: 1, loss: 2.0, tokens: 3, best: true })?;
            reporter.on_event(&Event::Checkpoint { step: 1, path: "runs/a/checkpoint-1".into() })?;
            reporter.sync()
        };
        let length = Reporter::create(vfs, dir).and_then(|mut log| events(&mut log)).map_err(|e| e.to_string())?;
        let resumed = Reporter::resume(vfs, dir, length).and_then(|mut log| {
            events(&mut log)?;
            log.finish(serde_json::json!({"loss": 2.0}))
        });
        resumed.map_err(|e| e.to_string())
    });
}

#[test]
fn an_adapter_whose_disk_hangs_says_so() {
    let dir = Path::new("runs/a");
    let config = AdapterConfig::lora("tiny", 2, 4.0, vec!["q_proj".into()]);
    let mut tensors = Tensors::new();
    for (name, shape) in [("lora_A", [2, 8]), ("lora_B", [8, 2])] {
        let name = format!("base_model.model.model.layers.0.self_attn.q_proj.{name}.weight");
        tensors.insert(name, TensorData::from_f32(shape.to_vec(), &[0.5; 16]));
    }
    hangs_anywhere(dir, |vfs| peft::write_adapter(vfs, dir, &config, &tensors, "tuned").map_err(|e| e.to_string()));
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
