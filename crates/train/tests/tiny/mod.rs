//! Whole runs on the tiny golden llama: what a test asks for in a [`Case`], and what is left at the end, bit for bit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ounce_data::{Batches, Settings, Tokenized};
use ounce_formats::Checkpoint;
use ounce_model::{Model, adapters::lora};
use ounce_optim::Buffer;
use ounce_spec::Event;
use ounce_spec::recipe::{Compute, Gradients, MasterWeights, Method, OptimizerName, Recipe, StateType};
use ounce_tensor::kernels::{Cpu, In};
use ounce_tensor::{Device, Elem, Policy};
use ounce_train::report::{METRICS, Metrics};
use ounce_train::vfs::Vfs;
use ounce_train::{Outcome, Run, Scratch, TrainError, Trainer};

/// Token ids of the model; the last one is in no example unless a test puts it there.
pub const VOCABULARY: u32 = 97;
pub const MAX_LENGTH: usize = 24;
/// Of every run here, unless a test wants another.
pub const HASH: &str = "the recipe and the data";

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// A directory for a run, in memory where the system has such a place: what survives a power cut is tested elsewhere, and
/// syncing to a disk is most of the time of a tiny run.
pub fn run_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

pub fn device(threads: usize) -> Device {
    Device::cpu(Cpu::new(threads))
}

/// One kind of run.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    pub recipe: Recipe,
    /// Sequences to evaluate on.
    pub valid: usize,
    /// What every block does with its activations.
    pub activations: Policy,
    /// The golden model; another vocabulary must be no smaller.
    pub golden: &'static str,
}

impl Case {
    /// LoRA with dropout in f32: nine steps of two packed rows, a checkpoint every three.
    pub fn lora() -> Case {
        let mut recipe = Recipe { batch_size: 2, max_steps: Some(9), save_every: 3, seed: 5, ..Recipe::default() };
        recipe.data.max_length = MAX_LENGTH;
        recipe.lora.rank = 4;
        recipe.lora.dropout = 0.2;
        recipe.optimizer.learning_rate = 1e-2;
        recipe.compute = Compute::F32;
        Case { name: "lora", recipe, valid: 0, activations: Policy::Keep, golden: "llama" }
    }

    pub fn full() -> Case {
        let mut case = Case::lora().named("full");
        case.recipe.method = Method::Full;
        case.recipe.optimizer.weight_decay = 0.01;
        case
    }

    pub fn named(self, name: &'static str) -> Case {
        Case { name, ..self }
    }

    pub fn bf16(mut self, name: &'static str) -> Case {
        self.recipe.compute = Compute::Bf16;
        self.named(name)
    }

    pub fn f16(mut self, name: &'static str) -> Case {
        self.recipe.compute = Compute::F16;
        self.named(name)
    }

    /// Evaluates on six sequences every other step, and stops early after `patience` without a better one.
    pub fn evaluating(mut self, name: &'static str, patience: usize) -> Case {
        (self.recipe.eval_every, self.recipe.patience, self.valid) = (2, patience, 6);
        self.named(name)
    }

    /// Plain SGD without clipping or warm-up: a step of rate 64 moves each parameter by 64 gradients.
    pub fn sgd(mut self) -> Case {
        self.recipe.optimizer.name = OptimizerName::Sgd;
        (self.recipe.optimizer.momentum, self.recipe.optimizer.weight_decay) = (0.0, 0.0);
        self
    }

    /// Updates during the backward pass, which excludes clipping.
    pub fn update_now(mut self, name: &'static str) -> Case {
        (self.recipe.gradients, self.recipe.max_grad_norm) = (Gradients::UpdateNow, 0.0);
        self.named(name)
    }

    /// No f32 copy of any matrix.
    pub fn pure_bf16(mut self, name: &'static str) -> Case {
        self.recipe.master_weights = MasterWeights::None;
        self.bf16(name)
    }

    /// Adapters so wide that their matrices are not among the small ones.
    pub fn wide(mut self) -> Case {
        self.recipe.lora.rank = 200;
        self
    }

    pub fn state(mut self, state: StateType, name: &'static str) -> Case {
        self.recipe.optimizer.state = state;
        self.named(name)
    }

    pub fn trainer(&self, device: &Device) -> Trainer {
        self.trainer_of(device, &ounce_formats::open(&golden(self.golden)).unwrap())
    }

    pub fn trainer_of(&self, device: &Device, checkpoint: &Checkpoint) -> Trainer {
        let recipe = &self.recipe;
        let mut model = Model::load(device, checkpoint, MAX_LENGTH).unwrap();
        let masters = if recipe.master_weights == MasterWeights::None { Elem::Bf16 } else { Elem::F32 };
        let trained = match recipe.method {
            Method::Full => model.make_dense(device, masters),
            Method::Lora => lora::attach(&mut model, device, &recipe.lora, recipe.seed).unwrap(),
        };
        let elem = match recipe.compute {
            Compute::F32 => Elem::F32,
            Compute::Bf16 => Elem::Bf16,
            Compute::F16 => Elem::F16,
        };
        let activations = vec![self.activations; model.family.blocks()];
        let optimizer = ounce_optim::from_recipe(&recipe.optimizer);
        let gradients = recipe.gradients;
        let mut trainer = Trainer::new(device, model, trained, optimizer, gradients, elem, &activations, recipe.seed);
        if !device.is_dry() && matches!(self.activations, Policy::Offload | Policy::OffloadInputs) {
            let scratch = Scratch::create(&std::env::temp_dir(), 0).unwrap();
            trainer.offload_to(Arc::new(scratch)).unwrap();
        }
        trainer
    }

    pub fn batches(&self) -> Batches {
        let recipe = &self.recipe;
        let settings = Settings {
            seed: recipe.seed,
            batch_size: recipe.batch_size,
            max_length: MAX_LENGTH,
            packing: recipe.data.packing,
            shuffle: recipe.data.shuffle,
            weights: vec![],
        };
        Batches::new(sequences(23, 1), settings).unwrap()
    }

    pub fn run<'a>(&'a self, device: &Device, dir: &'a Path, vfs: &'a dyn Vfs, stop: &'a AtomicBool) -> Run<'a> {
        self.run_of(self.trainer(device), dir, vfs, stop)
    }

    fn run_of<'a>(&'a self, trainer: Trainer, dir: &'a Path, vfs: &'a dyn Vfs, stop: &'a AtomicBool) -> Run<'a> {
        Run {
            recipe: &self.recipe,
            trainer,
            batches: self.batches(),
            valid: sequences(self.valid, 2),
            dir,
            vfs,
            recipe_hashes: vec![HASH.into()],
            stop,
        }
    }

    /// Trains until the end, or until step `stop_after` is done (0: before the first).
    pub fn train(
        &self,
        device: &Device,
        dir: &Path,
        vfs: &dyn Vfs,
        resume: bool,
        stop_after: Option<usize>,
    ) -> Result<(Outcome, Left), TrainError> {
        self.train_with(self.trainer(device), dir, vfs, resume, stop_after)
    }

    /// The same with a trainer of the caller's.
    pub fn train_with(
        &self,
        trainer: Trainer,
        dir: &Path,
        vfs: &dyn Vfs,
        resume: bool,
        stop_after: Option<usize>,
    ) -> Result<(Outcome, Left), TrainError> {
        let (outcome, trainer) = self.train_only(trainer, dir, vfs, resume, stop_after)?;
        let left = Left::of(&trainer, dir);
        Ok((outcome, left))
    }

    /// The same without a look at what is left: the trainer, whose parameters may be anywhere.
    pub fn train_only(
        &self,
        trainer: Trainer,
        dir: &Path,
        vfs: &dyn Vfs,
        resume: bool,
        stop_after: Option<usize>,
    ) -> Result<(Outcome, Trainer), TrainError> {
        let stop = AtomicBool::new(stop_after == Some(0));
        let mut run = self.run_of(trainer, dir, vfs, &stop);
        let outcome = run.train(resume, &mut |event| match event {
            Event::Step { step, .. } | Event::Skipped { step, .. } if stop_after == Some(*step) => {
                stop.store(true, Ordering::Relaxed)
            }
            _ => {}
        })?;
        Ok((outcome, run.trainer))
    }
}

/// `count` sequences of 3 to 20 tokens, the same for the same `seed`; the first tokens bear no loss.
pub fn sequences(count: usize, seed: u64) -> Vec<Tokenized> {
    let mut state = seed;
    let mut next = |below: u64| {
        // Knuth's MMIX generator; the high bits are good.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    (0..count as u32)
        .map(|example| {
            let length = 3 + next(18) as usize;
            let ids = (0..length).map(|_| next(u64::from(VOCABULARY) - 1) as u32).collect();
            let quiet = next(3) as usize;
            Tokenized { ids, loss: (0..length).map(|t| t >= quiet).collect(), example, source: 0 }
        })
        .collect()
}

fn bits(values: Buffer) -> Vec<u32> {
    match values {
        Buffer::F32(values) => values.iter().map(|v| v.to_bits()).collect(),
        Buffer::Bf16(values) => values.iter().map(|v| v.to_bits().into()).collect(),
        Buffer::U8(values) => values.iter().map(|&v| v.into()).collect(),
    }
}

/// What a run leaves: equal only if every bit is.
#[derive(Clone, PartialEq)]
pub struct Left {
    pub params: Vec<(String, Vec<u32>)>,
    pub state: Vec<(String, Vec<u32>)>,
    /// Step and loss of the log, as bits.
    pub losses: Vec<(usize, u64)>,
    pub norms: Vec<u64>,
    pub evals: Vec<(usize, u64, bool)>,
}

impl Left {
    pub fn of(trainer: &Trainer, dir: &Path) -> Left {
        let name = |p| trainer.model.params[p].name.clone();
        let values = |p| match trainer.tensor(p).input() {
            In::F32(values) => bits(Buffer::F32(values)),
            In::Bf16(values) => bits(Buffer::Bf16(values)),
            In::F16(_) => unreachable!("trained parameters are f32 or bf16"),
        };
        let params = trainer.trained.iter().map(|&p| (name(p), values(p))).collect();
        let states = trainer.trained.iter().zip(&trainer.states);
        let state = states
            .flat_map(|(&p, s)| {
                s.buffers().into_iter().map(move |(buffer, v)| (format!("{}.{buffer}", name(p)), bits(v)))
            })
            .collect();
        let log = Metrics::read(&dir.join(METRICS)).unwrap();
        assert_eq!(log.skipped, []);
        Left {
            params,
            state,
            losses: log.steps.iter().map(|s| (s.step, s.loss.to_bits())).collect(),
            norms: log.steps.iter().map(|s| s.grad_norm.to_bits()).collect(),
            evals: log.evals.iter().map(|e| (e.step, e.loss.to_bits(), e.best)).collect(),
        }
    }

    /// Fails with the first difference by name.
    pub fn assert_equal(&self, other: &Left, what: &str) {
        assert_eq!(self.losses, other.losses, "{what}: losses");
        assert_eq!(self.evals, other.evals, "{what}: evaluations");
        for (kind, ours, theirs) in [("parameters", &self.params, &other.params), ("state", &self.state, &other.state)]
        {
            assert_eq!(ours.len(), theirs.len(), "{what}: {kind}");
            for ((name, a), (other_name, b)) in ours.iter().zip(theirs) {
                assert_eq!(name, other_name, "{what}: {kind}");
                let wrong = a.iter().zip(b).filter(|(a, b)| a != b).count();
                assert!(a.len() == b.len() && wrong == 0, "{what}: {wrong} of {} values of {name} differ", a.len());
            }
        }
    }
}
