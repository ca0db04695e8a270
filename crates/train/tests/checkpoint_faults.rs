//! Every file operation of a save fails once in every way, and every bit of a checkpoint may flip: what is loaded
//! afterwards is always a whole checkpoint, and never a wrong one.

#[allow(dead_code)]
mod faults;

use std::path::{Path, PathBuf};

use faults::{Fault, Faulty, Memory};
use ounce_train::{
    checkpoint::{Blob, CheckpointError, Loaded, Snapshot, discard_after, load, load_latest, save, sweep},
    vfs::{Kind, Vfs},
};
use proptest::prelude::*;

const KEEP: usize = 2;

fn dir() -> &'static Path {
    Path::new("runs/a")
}

/// Contents that tell the step and the file apart.
fn content(step: usize, file: usize) -> Vec<u8> {
    (0..1500 + 100 * file).map(|i| (i * 31 + step * 7 + file * 13) as u8).collect()
}

fn snapshot(step: usize) -> Snapshot<'static> {
    let streamed = content(step, 1);
    Snapshot {
        step,
        world_size: 1,
        recipe_hash: "recipe".into(),
        meta: serde_json::json!({ "step": step }),
        blobs: vec![
            ("params.safetensors".into(), content(step, 0).into()),
            (
                "optimizer.safetensors".into(),
                Blob::stream(move |out| streamed.chunks(700).try_for_each(|c| out.write_all(c))),
            ),
            ("state.json".into(), vec![].into()),
        ],
    }
}

/// Fails unless a loaded checkpoint is exactly what was saved at its step.
fn check(vfs: &dyn Vfs, loaded: &Loaded) {
    let step = loaded.step;
    assert_eq!(loaded.manifest.meta, serde_json::json!({ "step": step }));
    assert_eq!(loaded.blob(vfs, "params.safetensors").unwrap(), content(step, 0));
    assert_eq!(loaded.blob(vfs, "optimizer.safetensors").unwrap(), content(step, 1));
    assert!(loaded.blob(vfs, "state.json").unwrap().is_empty());
}

fn newest(vfs: &dyn Vfs) -> usize {
    let loaded = load_latest(vfs, dir()).unwrap().expect("there is a checkpoint");
    check(vfs, &loaded);
    loaded.step
}

/// A file system with the given checkpoints, all of it on disk.
fn with_checkpoints(steps: &[usize]) -> Memory {
    let memory = Memory::new();
    for &step in steps {
        assert_eq!(save(&memory, dir(), &snapshot(step), KEEP).unwrap().warnings, Vec::<String>::new());
    }
    memory.power_loss(|| true);
    memory
}

fn names(vfs: &dyn Vfs) -> Vec<String> {
    vfs.list(dir()).unwrap_or_default().into_iter().map(|entry| entry.name).collect()
}

/// How the world goes on after a fault.
#[derive(Clone, Copy, Debug)]
enum After {
    /// The process goes on, or another one starts.
    Nothing,
    /// Power loss with nothing that was not synced.
    LoseAll,
    /// Power loss where what was not synced is on disk for some.
    LoseSome(u64),
}

impl After {
    fn apply(self, memory: &Memory) {
        match self {
            After::Nothing => {}
            After::LoseAll => memory.power_loss(|| false),
            After::LoseSome(seed) => {
                let mut x = seed * 2 + 1;
                memory.power_loss(|| {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    x >> 63 == 1
                });
            }
        }
    }
}

fn all_after() -> Vec<After> {
    [After::Nothing, After::LoseAll].into_iter().chain((0..8).map(After::LoseSome)).collect()
}

/// Saves `step` on top of `before` with every fault at every operation; `allowed` are the steps that may be loaded when
/// the save did not succeed. Returns how many cases there were.
fn every_fault(before: &[usize], step: usize, allowed: &[usize]) -> usize {
    let start = with_checkpoints(before);
    let counter = Faulty::new(start.fork(), usize::MAX, Fault::Io);
    save(&counter, dir(), &snapshot(step), KEEP).unwrap();
    let operations = counter.count();
    let mut cases = 0;
    for at in 0..operations {
        for fault in Fault::ALL {
            for after in all_after() {
                let case = format!("{fault:?} at operation {at} of {operations}, then {after:?}");
                let memory = start.fork();
                let result = save(&Faulty::new(memory.clone(), at, fault), dir(), &snapshot(step), KEEP);
                if let Fault::Full | Fault::Limit = fault
                    && let Err(e) = &result
                {
                    assert!(matches!(e, CheckpointError::DiskFull { .. }), "{case}: {e}");
                }
                let crashed = matches!(fault, Fault::CrashBefore | Fault::CrashWithin | Fault::CrashAfter);
                if result.is_err() && !crashed {
                    let left = names(&memory);
                    assert!(
                        !left.iter().any(|name| name.starts_with("checkpoint") && name.contains(".tmp-")),
                        "{case}: {left:?}"
                    );
                }
                after.apply(&memory);
                let found = load_latest(&memory, dir()).unwrap_or_else(|e| panic!("{case}: {e}")).map(|loaded| {
                    check(&memory, &loaded);
                    loaded.step
                });
                match &result {
                    // Saved is saved, whatever happens afterwards.
                    Ok(_) => assert_eq!(found, Some(step), "{case}"),
                    Err(_) if found.is_none() => assert!(before.is_empty(), "{case}: nothing is left"),
                    Err(_) => assert!(found == Some(step) || allowed.contains(&found.unwrap()), "{case}: {found:?}"),
                }
                // The next process cleans up and saves as if nothing had happened.
                sweep(&memory, dir()).unwrap_or_else(|e| panic!("{case}: {e}"));
                let rest = names(&memory);
                assert!(!rest.iter().any(|name| name.contains(".tmp-") || name.contains(".old-")), "{case}: {rest:?}");
                if let Some(found) = found {
                    assert_eq!(newest(&memory), found, "{case}: sweeping changed what is loaded");
                }
                let saved = save(&memory, dir(), &snapshot(step + 10), KEEP).unwrap_or_else(|e| panic!("{case}: {e}"));
                assert_eq!(saved.warnings, Vec::<String>::new(), "{case}");
                memory.power_loss(|| false);
                assert_eq!(newest(&memory), step + 10, "{case}");
                cases += 1;
            }
        }
    }
    cases
}

#[test]
fn every_fault_in_a_save_leaves_a_whole_checkpoint() {
    let cases = every_fault(&[10, 20], 30, &[20]);
    assert!(cases > 2000, "only {cases} cases: are all operations counted?");
}

#[test]
fn every_fault_in_a_first_save_leaves_it_or_nothing() {
    every_fault(&[], 30, &[]);
}

#[test]
fn every_fault_in_a_second_save_of_the_same_step_leaves_one_of_them() {
    every_fault(&[10, 30], 30, &[]);
    every_fault(&[30], 30, &[]);
}

#[test]
fn every_fault_in_a_load_gives_a_whole_checkpoint_or_an_error() {
    let start = with_checkpoints(&[10, 20]);
    let counter = Faulty::new(start.clone(), usize::MAX, Fault::Io);
    newest(&counter);
    for at in 0..counter.count() {
        for fault in [Fault::Io, Fault::CrashBefore] {
            let faulty = Faulty::new(start.clone(), at, fault);
            if let Ok(loaded) = load_latest(&faulty, dir()) {
                let loaded = loaded.expect("there are two checkpoints");
                check(&start, &loaded);
                assert!(loaded.step == 20 || !loaded.warnings.is_empty(), "an older one is used without a word");
            }
        }
    }
}

#[test]
fn every_flipped_bit_is_detected() {
    let memory = with_checkpoints(&[10, 20]);
    let path = dir().join("checkpoint-20");
    let files: Vec<(PathBuf, usize)> = memory
        .list(&path)
        .unwrap()
        .into_iter()
        .filter_map(|entry| match entry.kind {
            Kind::File { bytes } => Some((path.join(entry.name), bytes as usize * 8)),
            _ => None,
        })
        .collect();
    let bits: usize = files.iter().map(|(_, bits)| bits).sum();
    assert!(bits > 10_000);
    // All of them: that is more than the 10,000 the promise asks for.
    for (file, bits) in &files {
        for bit in 0..*bits {
            memory.flip(file, bit);
            assert!(load(&memory, &path).is_err(), "bit {bit} of {}", file.display());
            if bit % 101 == 0 {
                let loaded = load_latest(&memory, dir()).unwrap().unwrap();
                assert_eq!((loaded.step, loaded.warnings.len()), (10, 1));
                check(&memory, &loaded);
            }
            memory.flip(file, bit);
        }
    }
    assert_eq!(newest(&memory), 20);
}

#[test]
fn a_file_that_changes_after_loading_is_not_handed_out() {
    let memory = with_checkpoints(&[10]);
    let loaded = load_latest(&memory, dir()).unwrap().unwrap();
    memory.flip(&dir().join("checkpoint-10/params.safetensors"), 77);
    let error = loaded.blob(&memory, "params.safetensors").unwrap_err().to_string();
    assert!(error.contains("params.safetensors does not match its hash"), "{error}");
    assert!(loaded.blob(&memory, "other").unwrap_err().to_string().contains("it has no other"));
}

#[test]
fn names_that_merely_look_right_are_not_trusted() {
    let memory = with_checkpoints(&[10, 20]);
    let write = |path: PathBuf, bytes: &[u8]| memory.create(&path).unwrap().write_all(bytes).unwrap();
    // Another program's checkpoint, an empty directory, a plain file, a renamed checkpoint.
    memory.create_dir(&dir().join("checkpoint-500")).unwrap();
    write(dir().join("checkpoint-500/model.safetensors"), b"not ours");
    memory.create_dir(&dir().join("checkpoint-400")).unwrap();
    write(dir().join("checkpoint-300"), b"");
    save(&memory, dir(), &snapshot(30), KEEP).unwrap();
    memory.rename(&dir().join("checkpoint-30"), &dir().join("checkpoint-99")).unwrap();
    let loaded = load_latest(&memory, dir()).unwrap().unwrap();
    assert_eq!((loaded.step, loaded.warnings.len()), (20, 3));
    assert!(loaded.warnings[2].contains("checkpoint-99 holds step 30"), "{:?}", loaded.warnings);
    // One that is asked for by name is taken, whatever its name.
    assert_eq!(load(&memory, &dir().join("checkpoint-99")).unwrap().step, 30);
    // Saving and sweeping touch none of them.
    save(&memory, dir(), &snapshot(40), KEEP).unwrap();
    assert_eq!(sweep(&memory, dir()).unwrap(), Vec::<String>::new());
    for name in ["checkpoint-300", "checkpoint-400", "checkpoint-500", "checkpoint-99"] {
        assert!(names(&memory).iter().any(|n| n == name), "{name} is gone");
    }
}

#[test]
fn when_all_are_damaged_it_is_an_error_and_not_a_fresh_start() {
    let memory = with_checkpoints(&[10, 20]);
    memory.flip(&dir().join("checkpoint-10/params.safetensors"), 5);
    memory.flip(&dir().join("checkpoint-20/MANIFEST.json"), 5);
    let error = load_latest(&memory, dir()).unwrap_err();
    assert!(matches!(&error, CheckpointError::NoneUsable { problems, .. } if problems.len() == 2), "{error}");
    assert_eq!(load_latest(&memory, Path::new("nowhere")).unwrap(), None);
}

#[test]
fn a_damaged_checkpoint_does_not_count_as_one_to_keep() {
    let memory = with_checkpoints(&[10, 20]);
    memory.remove_file(&dir().join("checkpoint-20/params.safetensors")).unwrap();
    save(&memory, dir(), &snapshot(30), KEEP).unwrap();
    assert_eq!(names(&memory), ["checkpoint-10", "checkpoint-20", "checkpoint-30", "latest"]);
}

#[test]
fn all_problems_of_a_checkpoint_are_listed() {
    let memory = with_checkpoints(&[10]);
    let path = dir().join("checkpoint-10");
    memory.remove_file(&path.join("params.safetensors")).unwrap();
    memory.create(&path.join("optimizer.safetensors")).unwrap().write_all(b"short").unwrap();
    let error = load(&memory, &path).unwrap_err().to_string();
    assert!(error.contains("params.safetensors is missing"), "{error}");
    assert!(error.contains("optimizer.safetensors has 5 bytes, the manifest says 1600"), "{error}");
}

#[test]
fn a_run_that_goes_back_discards_its_abandoned_future() {
    let memory = with_checkpoints(&[10, 20]);
    discard_after(&memory, dir(), 10).unwrap();
    memory.power_loss(|| false);
    assert_eq!(newest(&memory), 10);
}

#[test]
fn bad_blob_names_are_all_refused() {
    let mut bad = snapshot(10);
    for name in ["../evil", "MANIFEST.json", "a/b", "state.json"] {
        bad.blobs.push((name.into(), vec![].into()));
    }
    match save(&Memory::new(), dir(), &bad, KEEP).unwrap_err() {
        CheckpointError::Invalid { problems, .. } => assert_eq!(problems.len(), 4, "{problems:?}"),
        other => panic!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any run of saves, crashes and restarts: the newest checkpoint is the last that was saved, or one that a failed save
    /// had given its name already.
    #[test]
    fn any_history_keeps_the_last_saved(
        history in prop::collection::vec((0usize..80, prop::sample::select(&Fault::ALL[..]), 0u64..10), 1..8),
        keep in 0usize..4,
    ) {
        let memory = Memory::new();
        let mut possible: Vec<Option<usize>> = vec![None];
        for (i, (at, fault, after)) in history.into_iter().enumerate() {
            let step = 10 * (i + 1);
            let result = save(&Faulty::new(memory.clone(), at, fault), dir(), &snapshot(step), keep);
            let after = match after {
                0 => After::Nothing,
                1 => After::LoseAll,
                seed => After::LoseSome(seed),
            };
            after.apply(&memory);
            let found = load_latest(&memory, dir()).unwrap();
            if let Some(found) = &found {
                check(&memory, found);
            }
            let found = found.map(|loaded| loaded.step);
            possible.push(Some(step));
            prop_assert!(possible.contains(&found), "{:?} is none of {:?}", found, possible);
            if result.is_ok() {
                prop_assert_eq!(found, Some(step));
            }
            // What is there after a save that succeeded or a power loss will stay. What a failed save left may go with
            // the next power loss.
            if result.is_ok() || !matches!(after, After::Nothing) {
                possible = vec![found];
            }
            sweep(&memory, dir()).unwrap();
        }
        save(&memory, dir(), &snapshot(1000), keep).unwrap();
        let kept = memory.list(dir()).unwrap().into_iter().filter(|entry| entry.kind == Kind::Dir).count();
        prop_assert!(kept <= keep.max(2), "{} checkpoints", kept);
    }
}
