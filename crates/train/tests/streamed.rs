//! Weights that are read a segment ahead: the bits of a mapped run from every kind of file, memory for two segments, and a run
//! that goes on after its file could not be read.

use std::fs::File;
use std::path::{Path, PathBuf};

use ounce_formats::gguf::{self, Metadata};
use ounce_formats::save::Info;
use ounce_formats::{Checkpoint, safetensors_file};
use ounce_tensor::{Device, Policy, Purpose, Weight};
use ounce_train::vfs::Disk;
use ounce_train::{TrainError, Trainer, checkpoint};
use tiny::{Case, Left, device, golden, run_dir};

#[allow(dead_code)]
mod tiny;

fn streamed(case: &Case, device: &Device, model: &Path) -> Trainer {
    let checkpoint = ounce_formats::open(model).unwrap();
    let mut trainer = case.trainer_of(device, &checkpoint);
    trainer.model.stream(device, &checkpoint).unwrap();
    trainer
}

fn left(case: &Case, trainer: Trainer) -> Left {
    case.train_with(trainer, run_dir().path(), &Disk, false, None).unwrap().1
}

/// The golden llama as a GGUF file, whose q and k lie there in another order; its head is the embedding if `tied`.
fn as_gguf(dir: &Path, tied: bool) -> PathBuf {
    let Checkpoint { mut config, generation, tensors, .. } = ounce_formats::open(&golden("llama")).unwrap();
    config.tie_word_embeddings = tied;
    let info = |(name, t): (&str, &ounce_formats::TensorData)| Info {
        name: name.into(),
        dtype: t.dtype,
        shape: t.shape.clone(),
    };
    let infos: Vec<Info> = tensors.iter().map(info).collect();
    let export = gguf::export(&config, &generation, &infos, &Metadata::new()).unwrap();
    let path = dir.join(if tied { "tied.gguf" } else { "model.gguf" });
    export.write(&path, &mut |info| Ok((&*tensors.get(&info.name).unwrap().bytes).into())).unwrap();
    path
}

/// The golden llama in a directory of its own.
fn copied(dir: &Path) -> PathBuf {
    for name in ["config.json", safetensors_file::SINGLE] {
        std::fs::copy(golden("llama").join(name), dir.join(name)).unwrap();
    }
    dir.to_owned()
}

#[test]
fn streamed_weights_give_the_bits_of_mapped_ones() {
    let device = device(2);
    let dir = tempfile::tempdir().unwrap();
    let models = [golden("llama"), as_gguf(dir.path(), false), as_gguf(dir.path(), true)];
    let cases = [
        Case::lora(),
        Case::lora().bf16("lora, bf16").evaluating("lora, bf16", 0),
        Case { activations: Policy::Recompute, ..Case::lora() },
    ];
    for model in &models {
        for case in &cases {
            let checkpoint = ounce_formats::open(model).unwrap();
            let mapped = left(case, case.trainer_of(&device, &checkpoint));
            left(case, streamed(case, &device, model)).assert_equal(&mapped, &format!("{}: {model:?}", case.name));
        }
    }
}

/// Not from the map by mistake: with other bytes behind the reader, the run is another.
#[test]
fn the_weights_come_from_the_reads() {
    let device = device(1);
    let dir = tempfile::tempdir().unwrap();
    let (case, model) = (Case::lora(), as_gguf(dir.path(), false));
    let trainer = streamed(&case, &device, &model);
    let segments = trainer.model.segments();
    let weight = trainer.model.family.linears()[0].weight;
    let (mapped, bytes) = match trainer.model.params.weight(weight) {
        Weight::Stored { bytes, .. } => (bytes.hold().as_ptr(), bytes.clone()),
        Weight::Dense(_) => panic!("a base weight is stored"),
    };
    trainer.model.params.enter(1, Some(2)).unwrap();
    assert_ne!(bytes.hold().as_ptr(), mapped);
    trainer.model.params.enter(segments - 1, None).unwrap();
    assert_eq!(bytes.hold().as_ptr(), mapped);
}

#[test]
fn the_dry_run_counts_blocks_and_reads() {
    let case = Case::lora();
    let batches: Vec<_> = case.batches().epoch_batches(0).take(2).collect();
    let rehearse = |device: &Device, stream: bool| {
        let checkpoint = ounce_formats::open(&golden("llama")).unwrap();
        let mut trainer = case.trainer_of(device, &checkpoint);
        if stream {
            trainer.model.stream(device, &checkpoint).unwrap();
        }
        trainer.rehearse(&batches).unwrap()
    };
    let (dry, mapped) = (rehearse(&Device::dry(), true), rehearse(&Device::dry(), false));
    let real = rehearse(&device(2), true);
    assert_eq!(dry.counter.read_bytes, real.counter.read_bytes);
    assert!(dry.counter.read_bytes > 0.0 && mapped.counter.read_bytes == 0.0);
    let weights = |r: &ounce_tensor::Rehearsal| r.memory.at_peak_bytes[Purpose::Weights as usize];
    assert!(weights(&dry) > weights(&mapped));
    assert_eq!(dry.counter.flops, mapped.counter.flops);
}

#[test]
fn a_run_whose_file_cannot_be_read_stops_by_name_and_goes_on_later() {
    let device = device(2);
    let (home, dir) = (tempfile::tempdir().unwrap(), run_dir());
    let case = Case::lora();
    let whole = left(&case, case.trainer(&device));
    let model = copied(home.path());
    let path = model.join(safetensors_file::SINGLE);
    let length = std::fs::metadata(&path).unwrap().len();
    // A trainer that was loaded from a whole file, four steps into the run.
    case.train_with(streamed(&case, &device, &model), dir.path(), &Disk, false, Some(4)).unwrap();
    let trainer = streamed(&case, &device, &model);
    File::options().write(true).open(&path).unwrap().set_len(length - 100).unwrap();
    let error = case.train_with(trainer, dir.path(), &Disk, true, None).err().expect("the file is too short");
    assert!(matches!(error, TrainError::Read(_)), "{error}");
    let text = error.to_string();
    let place = format!("{} at byte {}", path.display(), length - 100);
    assert!(text.contains(&place) && text.contains("model.layers.1"), "{text}");
    assert_eq!(checkpoint::steps(&Disk, dir.path()).unwrap().last(), Some(&4));
    // The file is whole again.
    copied(home.path());
    let (_, resumed) = case.train_with(streamed(&case, &device, &model), dir.path(), &Disk, true, None).unwrap();
    resumed.assert_equal(&whole, "resumed");
}
