//! Activations that wait on disk for their backward pass: the bits of kept ones, the memory that the dry run counts, and a run
//! that goes on after its disk failed.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ounce_data::Batch;
use ounce_formats::Checkpoint;
use ounce_formats::meter::PATIENCE;
use ounce_formats::scratch::{Disk as Medium, ScratchError, ScratchFile};
use ounce_spec::recipe::Method;
use ounce_tensor::{Away, Device, Policy, ReadError, Rehearsal, Store};
use ounce_train::vfs::Disk;
use ounce_train::{Scratch, TrainError, Trainer, checkpoint};
use tiny::{Case, Left, device, golden, run_dir, sequences};

#[allow(dead_code)]
mod tiny;

const LAYERS: usize = 6;

/// The golden llama with its two layers three times over.
fn deep() -> Checkpoint {
    let mut checkpoint = ounce_formats::open(&golden("llama")).unwrap();
    checkpoint.config.num_hidden_layers = LAYERS;
    let names: Vec<String> = checkpoint.tensors.iter().map(|(name, _)| name.to_owned()).collect();
    for layer in 2..LAYERS {
        let from = format!("model.layers.{}.", layer % 2);
        for name in names.iter().filter(|name| name.starts_with(&from)) {
            let tensor = checkpoint.tensors.get(name).unwrap().clone();
            checkpoint.tensors.insert(name.replace(&from, &format!("model.layers.{layer}.")), tensor);
        }
    }
    checkpoint
}

fn trainer(case: &Case, device: &Device, activations: &[Policy], stream: bool) -> Trainer {
    let checkpoint = deep();
    let mut trainer = case.trainer_of(device, &checkpoint);
    if !device.is_dry() {
        trainer.offload_to(Arc::new(Scratch::create(&std::env::temp_dir(), 0).unwrap())).unwrap();
    }
    trainer.set_activations(activations);
    if stream {
        trainer.model.stream(device, &checkpoint).unwrap();
    }
    trainer
}

fn left(case: &Case, trainer: Trainer) -> Left {
    case.train_with(trainer, run_dir().path(), &Disk, false, None).unwrap().1
}

/// Every policy alone, and mixes in which neighbours share a value.
fn choices() -> Vec<Vec<Policy>> {
    use Policy::{Keep, Offload, OffloadInputs, Recompute};
    vec![
        vec![Recompute; LAYERS],
        vec![Offload; LAYERS],
        vec![OffloadInputs; LAYERS],
        vec![Offload, OffloadInputs, Offload, Recompute, OffloadInputs, Keep],
        vec![OffloadInputs, Offload, Keep, Offload, Recompute, Offload],
    ]
}

#[test]
fn offloaded_activations_give_the_bits_of_kept_ones() {
    let mut accumulating = Case::lora().bf16("lora, two batches a step");
    accumulating.recipe.gradient_accumulation = 2;
    let cases = [
        Case::lora().evaluating("lora", 0),
        accumulating,
        Case::full(),
        Case::full().update_now("full, update now"),
        Case::full().pure_bf16("full, pure bf16"),
    ];
    for case in cases {
        let kept = left(&case, trainer(&case, &device(2), &[], false));
        for (i, activations) in choices().into_iter().enumerate() {
            // The mixes also on one thread, and with weights that come from disk too.
            let ways: &[(usize, bool)] = if i < 3 { &[(2, false)] } else { &[(2, true), (1, false)] };
            for &(threads, stream) in ways {
                let other = left(&case, trainer(&case, &device(threads), &activations, stream));
                let what = format!("{}: {activations:?}, {threads} threads, stream: {stream}", case.name);
                other.assert_equal(&kept, &what);
                assert_eq!(other.norms, kept.norms, "{what}");
            }
        }
    }
}

fn rehearse(case: &Case, device: &Device, activations: &[Policy]) -> Rehearsal {
    let batches = [Batch::of(&sequences(4, 3)), Batch::of(&sequences(9, 4))];
    trainer(case, device, activations, false).rehearse(&batches).unwrap()
}

#[test]
fn the_dry_run_counts_what_goes_and_comes_and_the_memory_that_is_left() {
    for case in [Case::lora(), Case::full().update_now("update now")] {
        let kept = rehearse(&case, &Device::dry(), &[]);
        for activations in choices() {
            let (dry, real) =
                (rehearse(&case, &Device::dry(), &activations), rehearse(&case, &device(2), &activations));
            assert_eq!(dry.memory, real.memory, "{activations:?}");
            assert_eq!(dry.offloaded_bytes, real.offloaded_bytes);
            assert_eq!(
                (dry.counter.read_bytes, dry.counter.write_bytes),
                (real.counter.read_bytes, real.counter.write_bytes)
            );
            assert!(dry.memory.peak_bytes < kept.memory.peak_bytes, "{activations:?}");
        }
        let away = |policy| rehearse(&case, &Device::dry(), &[policy; LAYERS]);
        let (recomputed, offloaded, inputs) =
            (away(Policy::Recompute), away(Policy::Offload), away(Policy::OffloadInputs));
        // What goes comes back, each value once, and nothing is computed twice, but for the logits where the head is trained.
        assert_eq!(offloaded.counter.write_bytes, offloaded.counter.read_bytes);
        assert!(offloaded.counter.write_bytes > 4.0 * inputs.counter.write_bytes && inputs.counter.write_bytes > 0.0);
        let total = |rehearsal: &Rehearsal| rehearsal.counter.total_flops();
        match case.recipe.method {
            Method::Full => assert!(total(&kept) < total(&offloaded) && total(&offloaded) < total(&recomputed)),
            _ => assert_eq!(offloaded.counter.flops, kept.counter.flops),
        }
        assert_eq!(inputs.counter.flops, recomputed.counter.flops);
        assert!(inputs.memory.peak_bytes < recomputed.memory.peak_bytes);
        assert_eq!((recomputed.offloaded_bytes, kept.offloaded_bytes), (0, 0));
    }
}

/// A disk in memory that has a fault from the `at`th operation of the faulty kind on, counted from 1.
#[derive(Debug)]
struct Faulty {
    memory: Mutex<Vec<u8>>,
    operations: AtomicUsize,
    at: usize,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Write,
    Read,
    Full,
    FlippedBit,
    HangingWrite,
    HangingRead,
}

impl Faulty {
    fn wrong(&self) -> bool {
        self.operations.fetch_add(1, Ordering::Relaxed) + 1 >= self.at
    }

    /// A call that never returns.
    fn hang(&self, fault: Fault) {
        while self.fault == fault && self.wrong() {
            std::thread::park();
        }
    }
}

impl Medium for Faulty {
    fn allocate(&self, at: u64, bytes: u64) -> io::Result<()> {
        if self.fault == Fault::Full && self.wrong() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.memory.lock().unwrap().resize((at + bytes) as usize, 0);
        Ok(())
    }
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(1234)
    }
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if self.fault == Fault::Write && self.wrong() {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.hang(Fault::HangingWrite);
        self.memory.lock().unwrap()[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn read(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        if self.fault == Fault::Read && self.wrong() {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.hang(Fault::HangingRead);
        into.copy_from_slice(&self.memory.lock().unwrap()[at as usize..][..into.len()]);
        if self.fault == Fault::FlippedBit && self.wrong() {
            into[0] ^= 1;
        }
        Ok(())
    }
    fn patience(&self) -> Duration {
        match self.fault {
            // More than a busy machine lets a thread wait before it hangs.
            Fault::HangingWrite | Fault::HangingRead => Duration::from_secs(2),
            _ => PATIENCE,
        }
    }
}

fn faulty(case: &Case, device: &Device, at: usize, fault: Fault, bytes: usize) -> Result<Trainer, ScratchError> {
    let medium = Faulty { memory: Mutex::default(), operations: AtomicUsize::new(0), at, fault };
    let scratch = Scratch::on(ScratchFile::on(Box::new(medium), Path::new("runs/a")), bytes)?;
    let mut trainer = trainer(case, device, &[Policy::Offload; LAYERS], false);
    trainer.offload_to(Arc::new(scratch)).unwrap();
    Ok(trainer)
}

/// Counts what is written, and keeps it in memory.
struct Counting(Arc<AtomicUsize>);

impl Store for Counting {
    fn write(&self, bytes: &[u8]) -> Result<Box<dyn Away>, ReadError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Held(bytes.to_vec())))
    }
}

struct Held(Vec<u8>);

impl Away for Held {
    fn read(&self, into: &mut [u8]) -> Result<(), ReadError> {
        into.copy_from_slice(&self.0);
        Ok(())
    }
}

#[test]
fn a_run_whose_disk_fails_stops_with_the_reason_and_goes_on_later() {
    let device = device(2);
    let case = Case::lora();
    let whole = left(&case, trainer(&case, &device, &[], false));
    // Values of a step; each takes one operation, or two where it has whole pages and more.
    let values = {
        let written = Arc::new(AtomicUsize::new(0));
        let mut counted = trainer(&case, &device, &[Policy::Offload; LAYERS], false);
        counted.offload_to(Arc::new(Counting(written.clone()))).unwrap();
        counted.rehearse(&[case.batches().next_batch()]).unwrap();
        written.load(Ordering::Relaxed)
    };
    assert!(values > LAYERS, "{values}");
    for (at, fault, text) in [
        (7 * values + 3, Fault::Write, "cannot write"),
        (7 * values + 3, Fault::Read, "cannot read"),
        (7 * values + 3, Fault::FlippedBit, "are not what was written"),
        (7 * values + 3, Fault::HangingWrite, "activations did not come: asked for the write of "),
        (7 * values + 3, Fault::HangingRead, "activations did not come: asked for the read of "),
        (2, Fault::Full, "1.2 KiB are free"),
    ] {
        let dir = run_dir();
        // The first step's batches are smaller than a later one's: so a disk may fill up in the middle of a run.
        let started = faulty(&case, &device, at, fault, 1).unwrap();
        let error = case.train_with(started, dir.path(), &Disk, false, None).err().expect("the disk fails");
        assert!(matches!(error, TrainError::Read(_)), "{error}");
        let message = error.to_string();
        assert!(message.contains(text) && message.contains("runs/a"), "{fault:?}: {message}");
        if fault != Fault::Full {
            let newest = checkpoint::steps(&Disk, dir.path()).unwrap().last().copied();
            assert!(matches!(newest, Some(3 | 6)), "{fault:?}: {newest:?}");
        }
        let sound = trainer(&case, &device, &[Policy::Offload; LAYERS], false);
        let resumed = case.train_with(sound, dir.path(), &Disk, true, None).unwrap().1;
        resumed.assert_equal(&whole, &format!("resumed after {fault:?}"));
    }
}

#[test]
fn a_disk_that_is_too_full_is_found_before_the_run() {
    let error = faulty(&Case::lora(), &device(1), 1, Fault::Full, 1 << 20).err().expect("it is full");
    assert!(error.to_string().contains("1.0 MiB more are needed, 1.2 KiB are free"), "{error}");
}
