//! From a recipe to everything a run needs: the model with what is trained on it, and the data in batches.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ounce_data::{Batches, Renderer, Settings, Tokenized};
use ounce_formats::scratch::{self, ScratchError, ScratchFile};
use ounce_formats::{Checkpoint, Kind, peft};
use ounce_model::adapters::lora;
use ounce_model::{LoadError, Model};
use ounce_spec::Recipe;
use ounce_spec::recipe::{Compute, Gradients, MasterWeights, Method, Offload};
use ounce_tensor::kernels::Cpu;
use ounce_tensor::{Device, Elem, ParamId};
use ounce_train::{Scratch, Trainer};
use sha2::{Digest, Sha256};

use crate::codes;
use crate::error::{CliError, Place, Result, plural};
use crate::memory;
use crate::model::{self, Text};
use crate::output::units;
use crate::recipe::{self, nearest};
use crate::verbs::Context;
use crate::verbs::data::data_error;

/// A run that has not begun.
pub struct Prepared {
    /// The one that the run is on.
    pub device: Device,
    /// On the dry device where what it trains alone is more than may be used.
    pub trainer: Trainer,
    pub batches: Batches,
    pub valid: Vec<Tokenized>,
    /// Of all data, BLAKE3 in hex.
    pub fingerprint: String,
    pub target: Target,
    pub origins: Origins,
    /// Resident before the model: the program, its tokenizer and data.
    pub program_bytes: usize,
    notes: Vec<String>,
}

/// Where training examples were read from.
pub struct Origins {
    files: Vec<String>,
    lines: Vec<(u32, usize)>,
}

impl Origins {
    /// File and line of an example.
    pub fn of(&self, example: u32) -> Option<String> {
        let &(file, line) = self.lines.get(example as usize)?;
        Some(format!("{}:{line}", self.files.get(file as usize)?))
    }
}

/// The base model as its result will need it.
#[derive(Clone)]
pub struct Target {
    pub checkpoint: Checkpoint,
}

/// `limit_bytes`: what the run may use of memory; what is trained goes to disk where it alone takes more.
pub fn prepare(context: &Context, recipe: &Recipe, limit_bytes: usize) -> Result<Prepared> {
    let checkpoint = model::open(&recipe.model, &context.env)?;
    let longest = checkpoint.config.max_position_embeddings;
    if recipe.data.max_length > longest {
        let what =
            format!("data.max_length is {}, but the model was made for {longest} tokens", recipe.data.max_length);
        return Err(CliError::new(&codes::RECIPE, what).help(format!("--max-length {longest}")));
    }
    let text = Text::of(&checkpoint)?;
    let renderer = text.template.as_ref().map(|t| t as &dyn Renderer);
    let data = ounce_data::prepare(&recipe.data, recipe.seed, &text.tokenizer, renderer).map_err(data_error)?;
    let mut notes = Vec::new();
    for file in data.train_files.iter().chain(&data.valid_files).filter(|f| f.rows > 0) {
        notes.push(format!("{}: {}, {} ({})", file.path, file.format.name(), plural(file.rows, "row"), file.because));
    }
    let r = &data.train_report;
    let mut line = format!(
        "{} to train on: {} tokens, {} bear loss, the longest example has {}",
        plural(r.used, "example"),
        units::count(r.tokens as f64),
        units::count(r.loss_tokens as f64),
        r.longest
    );
    for (n, what) in [
        (r.too_long, "too long and left out"),
        (r.truncated, "cut at max_length"),
        (r.unteaching, "left out for want of an answer"),
        (r.straddling, "with an answer that begins inside a token"),
    ] {
        if n > 0 {
            line += &format!("; {n} {what}");
        }
    }
    notes.push(line);
    notes.push(match data.valid.len() {
        0 => "nothing to evaluate on: --valid FILE, or --set data.valid_share=0.1".into(),
        n => format!("{} to evaluate on", plural(n, "sequence")),
    });
    let settings = Settings {
        seed: recipe.seed,
        batch_size: recipe.batch_size,
        max_length: recipe.data.max_length,
        packing: recipe.data.packing,
        shuffle: recipe.data.shuffle,
        weights: data.weights.clone(),
    };
    let batches = Batches::new(data.train, settings).map_err(data_error)?;
    // Pages of the model's file that were looked at on the way here are no part of the program.
    checkpoint.tensors.iter().for_each(|(_, tensor)| tensor.bytes.forget());
    let device = Device::cpu(Cpu::new(context.threads()));
    let program_bytes = memory::program_bytes(context.threads()) + memory::RUN_GROWTH;
    let in_memory = build(&Device::dry(), &checkpoint, recipe)?;
    let least = program_bytes + in_memory.memory().live() + in_memory.optimizer_bytes();
    let trainer = match disk_for(recipe).filter(|_| least > limit_bytes) {
        Some(dir) => build_on_disk(&device, &checkpoint, recipe, &dir)?,
        // It cannot fit, and nothing is made for it: the forecast says what would be needed.
        None if least > limit_bytes => in_memory,
        None => build(&device, &checkpoint, recipe)?,
    };
    let files = data.train_files.into_iter().map(|file| file.path).collect();
    let origins = Origins { files, lines: data.train_lines };
    Ok(Prepared {
        device,
        trainer,
        batches,
        valid: data.valid,
        fingerprint: data.fingerprint,
        target: Target { checkpoint },
        origins,
        program_bytes,
        notes,
    })
}

/// The model on a device with the parameters that `recipe` trains.
pub fn build(device: &Device, checkpoint: &Checkpoint, recipe: &Recipe) -> Result<Trainer> {
    assemble(device, checkpoint, recipe, true)
}

/// The same with what is trained on the disk of `dir`, where full tuning is concerned. On the dry device nothing is written.
pub fn build_on_disk(device: &Device, checkpoint: &Checkpoint, recipe: &Recipe, dir: &Path) -> Result<Trainer> {
    let mut trainer = assemble(device, checkpoint, recipe, false)?;
    let file = match device.is_dry() {
        true => None,
        false => Some(room(dir, build_on_disk(&Device::dry(), checkpoint, recipe, dir)?.file_bytes())?),
    };
    let let_go = || checkpoint.tensors.iter().for_each(|(_, tensor)| tensor.bytes.forget());
    trainer.move_to_disk(masters(recipe), file, &let_go).map_err(|e| CliError::of(&codes::WRITE, &e))?;
    Ok(trainer)
}

/// A scratch file in `dir` that has `bytes` bytes.
fn room(dir: &Path, bytes: usize) -> Result<ScratchFile> {
    let help = |e| {
        scratch_error(e)
            .detail("weights and optimizer state of this run wait there, since they do not fit into memory")
            .help("choose an --out on a larger disk, or train adapters: --method lora")
            .help("or keep them in memory: a higher --mem, if there is more than was seen")
    };
    let file = ScratchFile::create(dir).map_err(help)?;
    // Given back at once: what was reserved stays the file's.
    drop(file.reserve(bytes).map_err(help)?);
    Ok(file)
}

/// Where a run may keep on disk what it trains: only full tuning has much of it, and a file system in memory is no disk.
pub fn disk_for(recipe: &Recipe) -> Option<PathBuf> {
    let dir = existing(recipe.out.as_ref());
    let may = recipe.method == Method::Full && recipe.offload == Offload::Disk;
    (may && !scratch::is_memory(&dir)).then_some(dir)
}

/// `dir`, or the directory that it will be made in: both are on the same disk.
pub fn existing(dir: &Path) -> PathBuf {
    let there = dir.ancestors().find(|dir| dir.is_dir() && !dir.as_os_str().is_empty());
    there.unwrap_or(Path::new(".")).to_owned()
}

/// What full tuning stores its matrices as, and adapters theirs.
pub fn masters(recipe: &Recipe) -> Elem {
    match (recipe.method, recipe.master_weights) {
        (Method::Full, MasterWeights::None) => Elem::Bf16,
        _ => Elem::F32,
    }
}

/// `dense`: weights that full tuning trains are in memory.
fn assemble(device: &Device, checkpoint: &Checkpoint, recipe: &Recipe, dense: bool) -> Result<Trainer> {
    let bad_model =
        |e| CliError::of(&codes::MODEL, &e).help("supported families: llama, mistral, qwen2, qwen3, gemma3, gpt2");
    let mut model = Model::load(device, checkpoint, recipe.data.max_length).map_err(bad_model)?;
    let trained = match recipe.method {
        Method::Full if dense => model.make_dense(device, masters(recipe)),
        Method::Full => model.params.ids().collect(),
        Method::Lora => attach(device, &mut model, recipe)?,
    };
    let elem = elem(recipe.compute);
    let optimizer = ounce_optim::from_recipe(&recipe.optimizer);
    let mut trainer = Trainer::new(device, model, trained, optimizer, recipe.gradients, elem, &[], recipe.seed);
    trainer.set_micro_batch(micro_batch_tokens(recipe));
    Ok(trainer)
}

/// The element type of activations.
pub fn elem(compute: Compute) -> Elem {
    match compute {
        Compute::F32 => Elem::F32,
        Compute::Bf16 => Elem::Bf16,
        Compute::F16 => Elem::F16,
    }
}

/// Tokens that go through the model at once; 0: a whole batch. Gradients that are used at once cannot be those of a part.
pub fn micro_batch_tokens(recipe: &Recipe) -> usize {
    match recipe.gradients {
        Gradients::Accumulate => recipe.micro_batch_tokens,
        Gradients::UpdateNow => 0,
    }
}

/// Lets the base model's weights be read from their file a segment ahead.
pub fn stream(trainer: &mut Trainer, checkpoint: &Checkpoint) -> Result<()> {
    let device = trainer.device.clone();
    trainer.model.stream(&device, checkpoint).map_err(|e| CliError::of(&codes::READ, &e))
}

/// Lets activations wait on the disk of `dir`, which must have `bytes` bytes left for them.
pub fn offload(trainer: &mut Trainer, dir: &Path, bytes: usize) -> Result<()> {
    let help = |e| scratch_error(e).help("or keep activations off the disk: --set activations=recompute");
    let scratch = Scratch::create(dir, bytes).map_err(help)?;
    trainer.offload_to(Arc::new(scratch)).map_err(|e| CliError::of(&codes::WRITE, &e))
}

fn scratch_error(error: ScratchError) -> CliError {
    match &error {
        ScratchError::Full { .. } | ScratchError::Reserve { .. } => CliError::of(&codes::DISK_FULL, &error),
        _ => CliError::of(&codes::WRITE, &error),
    }
}

fn attach(device: &Device, model: &mut Model, recipe: &Recipe) -> Result<Vec<ParamId>> {
    let bad = |e: &dyn std::error::Error| CliError::of(&codes::ADAPTER, e);
    match &recipe.lora.init_from {
        None => lora::attach(model, device, &recipe.lora, recipe.seed).map_err(|e| match e {
            LoadError::NoSuchLayer { names, known } => no_such_layer(&names, &known),
            other => bad(&other).help("lora.target names the layers to adapt: all-linear, or some of the model's"),
        }),
        Some(path) => {
            let (config, tensors) = peft::read_adapter(path.as_ref())
                .map_err(|e| bad(&e).help("lora.init_from names a PEFT adapter directory"))?;
            lora::attach_saved(model, device, path, &config, &tensors)
                .map_err(|e| bad(&e).help("start from an adapter of this very base model"))
        }
    }
}

fn no_such_layer(names: &[String], known: &[String]) -> CliError {
    let mut out = CliError::new(&codes::RECIPE, "lora.target names layers that the model does not have");
    for name in names {
        let close = nearest(name, known.iter().map(String::as_str));
        let help = close.first().map(|known| format!("did you mean {known}?"));
        out.places.push(Place { at: "lora.target".into(), what: name.clone(), help });
    }
    out.help(format!("use all-linear, or some of: {}", known.join(", ")))
}

impl Prepared {
    pub fn describe(&self, context: &Context, recipe: &Recipe) {
        let config = &self.target.checkpoint.config;
        let kind = match self.target.checkpoint.kind {
            Kind::Gguf => "GGUF",
            Kind::HuggingFace => "Hugging Face",
        };
        context.out.note(format!(
            "{}: {} ({kind}), {} layers of {}",
            recipe.model, config.model_type, config.num_hidden_layers, config.hidden_size
        ));
        for note in &self.notes {
            context.out.note(note);
        }
    }

    /// Of everything that a resumed run must share with its beginning: what decides the weights, not where they go or how
    /// often something is written. The first is of this program, the others of older ones.
    pub fn hashes(&self, recipe: &Recipe) -> Vec<String> {
        let mut hashes: Vec<Sha256> = recipe::texts(recipe).iter().map(Sha256::new_with_prefix).collect();
        let mut update = |bytes: &[u8]| hashes.iter_mut().for_each(|hash| hash.update(bytes));
        update(self.fingerprint.as_bytes());
        mark(&self.target.checkpoint, &mut update);
        let text = |hash: Sha256| hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        hashes.into_iter().map(text).collect()
    }
}

/// What tells a model from any other of its shape: the start and the middle of every tensor. Tuning a model or training it
/// anew changes all of them; reading a large model whole would take longer than a short run.
fn mark(checkpoint: &Checkpoint, update: &mut dyn FnMut(&[u8])) {
    const SAMPLE: usize = 4096;
    for (name, tensor) in checkpoint.tensors.iter() {
        let bytes = tensor.bytes.stored();
        let middle = &bytes[bytes.len() / 2..];
        update(format!("{name} {:?} {:?}", tensor.dtype, tensor.shape).as_bytes());
        update(&bytes[..bytes.len().min(SAMPLE)]);
        update(&middle[..middle.len().min(SAMPLE)]);
        // A run that streams its weights has no other use for these pages.
        tensor.bytes.forget();
    }
}
