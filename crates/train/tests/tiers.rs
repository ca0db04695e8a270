//! Trained weights and optimizer state on disk: the bits of a run in memory for every rule and storage, also resumed from the
//! other; what the dry run counts; a disk that fails.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use ounce_formats::gguf::{self, Metadata};
use ounce_formats::meter::PATIENCE;
use ounce_formats::save::Info;
use ounce_formats::scratch::{Disk as ScratchDisk, ScratchFile};
use ounce_formats::{Checkpoint, TensorData};
use ounce_spec::recipe::{MasterWeights, OptimizerName, StateType};
use ounce_tensor::{Device, Elem, Policy, Purpose};
use ounce_train::report::{METRICS, Metrics};
use ounce_train::vfs::Disk;
use ounce_train::{TrainError, Trainer, checkpoint};
use tiny::{Case, device, golden, run_dir};

#[allow(dead_code)]
mod tiny;

fn masters(case: &Case) -> Elem {
    if case.recipe.master_weights == MasterWeights::None { Elem::Bf16 } else { Elem::F32 }
}

fn on_disk(case: &Case, device: &Device, model: &Path, file: Option<ScratchFile>) -> Trainer {
    let mut trainer = case.trainer_of(device, &ounce_formats::open(model).unwrap());
    trainer.move_to_disk(masters(case), file, &|| {}).unwrap();
    trainer
}

fn scratch() -> Option<ScratchFile> {
    Some(ScratchFile::create(run_dir().path()).unwrap())
}

/// The golden llama with so many more words, and its head tied to the embedding if `tied`.
fn llama(dir: &Path, more: usize, tied: bool) -> PathBuf {
    let Checkpoint { mut config, generation, mut tensors, .. } = ounce_formats::open(&golden("llama")).unwrap();
    config.tie_word_embeddings = tied;
    config.vocab_size += more;
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let table = tensors.get(name).unwrap();
        let (rows, cols) = (table.shape[0] + more, table.shape[1]);
        let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(&table.bytes);
        // Knuth's multiplicative hash of the position.
        let value = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32 * 0.2 - 0.1;
        values.extend((values.len()..rows * cols).map(value));
        tensors.insert(name, TensorData::from_f32(vec![rows, cols], &values));
    }
    let kept = tensors.iter().filter(|(name, _)| !tied || *name != "lm_head.weight");
    let infos: Vec<Info> =
        kept.map(|(name, t)| Info { name: name.into(), dtype: t.dtype, shape: t.shape.clone() }).collect();
    let export = gguf::export(&config, &generation, &infos, &Metadata::new()).unwrap();
    let path = dir.join(format!("{more}-{tied}.gguf"));
    export.write(&path, &mut |info| Ok((&*tensors.get(&info.name).unwrap().bytes).into())).unwrap();
    path
}

fn cases() -> Vec<Case> {
    let full = Case::full;
    let mut adam = full().named("adam");
    adam.recipe.optimizer.name = OptimizerName::Adam;
    let mut momentum = full().state(StateType::Block8, "sgd with momentum, 8 bits");
    (momentum.recipe.optimizer.name, momentum.recipe.optimizer.momentum) = (OptimizerName::Sgd, 0.9);
    let mut accumulating = full().named("two batches a step");
    accumulating.recipe.gradient_accumulation = 2;
    vec![
        full(),
        full().update_now("update_now"),
        full().evaluating("evaluations, and the best of them kept", 3),
        full().sgd().named("sgd"),
        full().state(StateType::Bf16, "bf16 state").update_now("bf16 state, update_now"),
        full().state(StateType::Block8, "8 bits"),
        full().pure_bf16("bf16 weights").state(StateType::Bf16, "bf16 weights and state"),
        full()
            .pure_bf16("bf16 weights")
            .state(StateType::Block8, "bf16 weights, 8 bits, update_now")
            .update_now("bf16 weights, 8 bits, update_now"),
        Case { activations: Policy::Recompute, ..full().update_now("recomputing") },
        adam,
        momentum,
        accumulating,
        full().f16("f16 activations"),
    ]
}

/// What a run leaves: its log, and the files of its last checkpoint and of the best evaluation, byte for byte.
#[derive(PartialEq)]
struct Files {
    losses: Vec<(usize, u64, u64)>,
    evals: Vec<(usize, u64)>,
    files: Vec<(String, Vec<u8>)>,
}

impl Files {
    fn of(dir: &Path) -> Files {
        let log = Metrics::read(&dir.join(METRICS)).unwrap();
        let last = *checkpoint::steps(&Disk, dir).unwrap().last().unwrap();
        let at = dir.join(format!("checkpoint-{last}"));
        let mut files = vec![];
        for path in [at.join("params.safetensors"), at.join("optimizer.safetensors"), dir.join("best.safetensors")] {
            if let Ok(bytes) = std::fs::read(&path) {
                files.push((path.file_name().unwrap().to_string_lossy().into_owned(), bytes));
            }
        }
        assert!(files.len() >= 2, "{}", at.display());
        Files {
            losses: log.steps.iter().map(|s| (s.step, s.loss.to_bits(), s.grad_norm.to_bits())).collect(),
            evals: log.evals.iter().map(|e| (e.step, e.loss.to_bits())).collect(),
            files,
        }
    }

    fn assert_equal(&self, other: &Files, what: &str) {
        assert_eq!(self.losses, other.losses, "{what}: losses and norms");
        assert_eq!(self.evals, other.evals, "{what}: evaluations");
        for ((name, a), (other_name, b)) in self.files.iter().zip(&other.files) {
            assert_eq!(name, other_name, "{what}");
            let wrong = a.iter().zip(b).filter(|(a, b)| a != b).count();
            assert!(a.len() == b.len() && wrong == 0, "{what}: {wrong} of {} bytes of {name} differ", a.len());
        }
        assert_eq!(self.files.len(), other.files.len(), "{what}");
    }
}

/// A run's files, the trainer made anew at `stops`. The first steps of one with f16 activations are skipped.
fn run(case: &Case, mut made: impl FnMut(usize) -> Trainer, stops: &[usize]) -> Files {
    let dir = run_dir();
    let mut trainer = |part| {
        let mut trainer = made(part);
        trainer.loss_scale.iter_mut().for_each(|scale| scale.factor = (1u64 << 25) as f64);
        trainer
    };
    for (part, stop) in stops.iter().copied().map(Some).chain([None]).enumerate() {
        // In parts: `Left`, which reads parameters in memory, is not asked for.
        case.train_only(trainer(part), dir.path(), &Disk, part > 0, stop).unwrap();
    }
    Files::of(dir.path())
}

#[test]
fn a_run_on_disk_has_the_bits_of_one_in_memory_and_goes_on_as_either() {
    let home = tempfile::tempdir().unwrap();
    let device = device(2);
    // Matrices of several pieces, and the rules that care where a piece begins.
    let large = |case: &Case| ["8 bits", "bf16 weights, 8 bits, update_now"].contains(&case.name);
    let large: Vec<Case> = cases().into_iter().filter(large).collect();
    assert_eq!(large.len(), 2);
    for (model, cases) in [
        (golden("llama"), cases()),
        (llama(home.path(), 0, true), cases()),
        (llama(home.path(), 60_000, true), large.clone()),
        (llama(home.path(), 60_000, false), large),
    ] {
        let checkpoint = ounce_formats::open(&model).unwrap();
        for case in cases {
            let what = format!("{}: {}", model.display(), case.name);
            let here = || case.trainer_of(&device, &checkpoint);
            let there = || on_disk(&case, &device, &model, scratch());
            let whole = run(&case, |_| here(), &[]);
            run(&case, |_| there(), &[]).assert_equal(&whole, &what);
            run(&case, |_| there(), &[4]).assert_equal(&whole, &format!("{what}, resumed"));
            let either = |part| if part % 2 == 0 { there() } else { here() };
            run(&case, either, &[2, 5]).assert_equal(&whole, &format!("{what}, moved to memory and back"));
        }
    }
}

#[test]
fn the_dry_run_counts_memory_reads_and_writes() {
    let home = tempfile::tempdir().unwrap();
    for model in [golden("llama"), llama(home.path(), 0, true), llama(home.path(), 60_000, true)] {
        for case in [Case::full(), Case::full().update_now("update_now")] {
            let batches: Vec<_> = case.batches().epoch_batches(0).take(2).collect();
            let rehearse = |device: &Device, file| on_disk(&case, device, &model, file).rehearse(&batches).unwrap();
            let (dry, real) = (rehearse(&Device::dry(), None), rehearse(&device(2), scratch()));
            let moved = |r: &ounce_tensor::Rehearsal| (r.counter.read_bytes, r.counter.write_bytes);
            assert_eq!(moved(&dry), moved(&real), "{}", case.name);
            let at_peak = |r: &ounce_tensor::Rehearsal, p: Purpose| r.memory.at_peak_bytes[p as usize];
            assert_eq!(dry.memory.at_peak_bytes, real.memory.at_peak_bytes, "{}", case.name);
            // Written: each moment and each weight once a step.
            let elements: usize = dry_elements(&case, &model);
            let least = (2 * elements * 12) as f64;
            assert!((least..1.2 * least + 1e5).contains(&dry.counter.write_bytes), "{least} {:?}", dry.counter);
            assert!(dry.counter.read_bytes >= dry.counter.write_bytes);
            assert!(at_peak(&dry, Purpose::Optimizer) > 0);
        }
    }
}

/// Elements of matrices.
fn dry_elements(case: &Case, model: &Path) -> usize {
    let trainer = case.trainer_of(&Device::dry(), &ounce_formats::open(model).unwrap());
    let shapes = trainer.trained.iter().map(|&p| trainer.model.params.weight(p).shape());
    shapes.filter(|(n, _)| *n > 1).map(|(n, k)| n * k).sum()
}

/// Memory that counts down to its fault.
#[derive(Debug)]
struct Failing {
    bytes: std::sync::Mutex<Vec<u8>>,
    reads: Arc<AtomicIsize>,
    writes: Arc<AtomicIsize>,
    room: u64,
    /// Its fault is a call that never returns.
    hangs: bool,
}

impl Failing {
    fn call(&self, left: &AtomicIsize) -> io::Result<()> {
        if left.fetch_sub(1, Ordering::Relaxed) != 0 {
            return Ok(());
        }
        if !self.hangs {
            return Err(io::Error::from_raw_os_error(5));
        }
        loop {
            std::thread::park();
        }
    }
}

impl ScratchDisk for Failing {
    fn allocate(&self, at: u64, bytes: u64) -> io::Result<()> {
        if at + bytes > self.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.lock().unwrap().resize((at + bytes) as usize, 0);
        Ok(())
    }
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.room)
    }
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.call(&self.writes)?;
        self.bytes.lock().unwrap()[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn read(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.call(&self.reads)?;
        into.copy_from_slice(&self.bytes.lock().unwrap()[at as usize..][..into.len()]);
        Ok(())
    }
    fn patience(&self) -> Duration {
        // More than a busy machine lets a thread wait before it hangs.
        if self.hangs { Duration::from_secs(2) } else { PATIENCE }
    }
}

fn failing(room: u64, hangs: bool) -> (ScratchFile, Arc<AtomicIsize>, Arc<AtomicIsize>) {
    let (reads, writes) = (Arc::new(AtomicIsize::new(isize::MAX)), Arc::new(AtomicIsize::new(isize::MAX)));
    let disk = Failing { bytes: Default::default(), reads: reads.clone(), writes: writes.clone(), room, hangs };
    (ScratchFile::on(Box::new(disk), Path::new("the disk")), reads, writes)
}

#[test]
fn a_disk_that_fails_anywhere_stops_the_run_by_name_and_it_goes_on_later() {
    let device = device(1);
    for case in [Case::full(), Case::full().update_now("update_now")] {
        let whole = run(&case, |_| case.trainer(&device), &[]);
        for (reading, after) in (0..150).step_by(17).flat_map(|after| [(true, after), (false, after)]) {
            let dir = run_dir();
            let (file, reads, writes) = failing(u64::MAX, false);
            let trainer = on_disk(&case, &device, &golden("llama"), Some(file));
            (if reading { reads } else { writes }).store(after, Ordering::Relaxed);
            let failed = case.train_only(trainer, dir.path(), &Disk, false, None).err();
            let error = failed.unwrap_or_else(|| panic!("{}: fault {after}: it was passed over", case.name));
            let text = format!("{error}: {:?}", std::error::Error::source(&error));
            assert!(text.contains("the disk") || text.contains("os error 5"), "{text}");
            assert!(!matches!(error, TrainError::NonFinite(_)), "{text}");
            let trainer = on_disk(&case, &device, &golden("llama"), scratch());
            let begun = checkpoint::steps(&Disk, dir.path()).unwrap();
            case.train_only(trainer, dir.path(), &Disk, true, None).unwrap();
            let what = format!("{}: fault {after}, from {begun:?}", case.name);
            Files::of(dir.path()).assert_equal(&whole, &what);
        }
    }
}

#[test]
fn a_full_disk_is_found_before_anything_begins() {
    let case = Case::full();
    let mut trainer = case.trainer(&device(1));
    let (file, _, writes) = failing(100_000, false);
    writes.store(0, Ordering::Relaxed);
    let error = trainer.move_to_disk(Elem::F32, Some(file), &|| {}).unwrap_err().to_string();
    assert!(error.contains("too full") && error.contains("the disk"), "{error}");
}

#[test]
fn a_disk_that_hangs_anywhere_stops_the_run_by_name_and_it_goes_on_later() {
    let device = device(1);
    let case = Case::full().update_now("update_now");
    let whole = run(&case, |_| case.trainer(&device), &[]);
    for (reading, after) in [0, 40, 120].into_iter().flat_map(|after| [(true, after), (false, after)]) {
        let dir = run_dir();
        let (file, reads, writes) = failing(u64::MAX, true);
        let trainer = on_disk(&case, &device, &golden("llama"), Some(file));
        (if reading { reads } else { writes }).store(after, Ordering::Relaxed);
        let failed = case.train_only(trainer, dir.path(), &Disk, false, None).err();
        let error = failed.unwrap_or_else(|| panic!("fault {after}: it was passed over"));
        let text = format!("{error}: {:?}", std::error::Error::source(&error));
        let call = if reading { "asked for the read of " } else { "asked for the write of " };
        assert!(text.contains("did not come") && text.contains(call) && text.contains("the disk"), "{text}");
        let trainer = on_disk(&case, &device, &golden("llama"), scratch());
        case.train_only(trainer, dir.path(), &Disk, true, None).unwrap();
        Files::of(dir.path()).assert_equal(&whole, &format!("fault {after}, reading: {reading}"));
    }
    // Before the first step.
    let (file, _, writes) = failing(u64::MAX, true);
    writes.store(3, Ordering::Relaxed);
    let error = case.trainer(&device).move_to_disk(Elem::F32, Some(file), &|| {}).unwrap_err().to_string();
    assert!(error.contains("asked for the write of ") && error.contains("the scratch file in the disk"), "{error}");
}
