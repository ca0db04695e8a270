//! `ounce tune`: the flags that are recipe settings carry the path of their key.

use std::path::PathBuf;

use crate::output::units::parse_bytes;
use crate::recipe::{Draft, Node, Value};

/// Teach a model from examples, with low-rank adapters or all of its weights
///
/// Everything that decides a run is in its recipe: a YAML file (--config), overridden by --set, overridden by flags.
/// The resolved recipe is saved with the run. Names of LLaMA-Factory, axolotl and TRL are understood.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    ounce tune smollm2.gguf --data train.jsonl\n  \
    ounce tune ./smollm2 --data train.jsonl --valid valid.jsonl --epochs 3 --lr 2e-4 --out runs/a\n  \
    ounce tune --config recipe.yaml --set lora.rank=16 --set schedule.name=wsd\n  \
    ounce tune ./gpt2 --data notes.txt --method full --max-steps 200\n  \
    ounce tune --config recipe.yaml --dry-run\n  \
    ounce tune --resume runs/a\n\n\
    Ctrl-C saves and stops; the run goes on with --resume to the same weights, bit for bit, as if it had not stopped.\n\
    All keys of recipes: ounce schema recipe")]
pub struct Args {
    /// Base model: directory, GGUF file or hub name; it stays as it is
    #[arg(value_name = "MODEL")]
    pub model: Option<String>,
    /// Recipe file, YAML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one key of the recipe, such as lora.rank=16 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Training data: file, directory, or file:weight (repeatable)
    #[arg(long, value_name = "FILE")]
    pub data: Vec<String>,
    /// Data to evaluate on during the run (repeatable)
    #[arg(long, value_name = "FILE")]
    pub valid: Vec<String>,
    /// What is trained: lora or full [default: lora]
    #[arg(long, value_name = "NAME")]
    pub method: Option<String>,
    /// Rank of LoRA adapters [default: 8]
    #[arg(long, value_name = "N")]
    pub rank: Option<usize>,
    /// Peak learning rate [default: 2e-4]
    #[arg(long, value_name = "RATE")]
    pub lr: Option<f64>,
    /// Storage of the optimizer's moments: f32, bf16 or 8bit [default: f32]
    #[arg(long, value_name = "TYPE")]
    pub optimizer_state: Option<String>,
    /// Examples or packed rows in one forward pass [default: 4]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Forward passes for each update [default: 1]
    #[arg(long, value_name = "N")]
    pub gradient_accumulation: Option<usize>,
    /// What becomes of gradients: accumulate, or update_now (needs max_grad_norm=0) [default: accumulate]
    #[arg(long, value_name = "WHEN")]
    pub gradients: Option<String>,
    /// Passes over the data [default: 1]
    #[arg(long, value_name = "N")]
    pub epochs: Option<f64>,
    /// Updates to do, whatever the epochs
    #[arg(long, value_name = "N")]
    pub max_steps: Option<usize>,
    /// Longest example, tokens [default: 1024]
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<usize>,
    /// Element type of the computation: bf16, f32 or f16 [default: bf16]
    #[arg(long, value_name = "TYPE")]
    pub compute: Option<String>,
    /// What full tuning updates: f32 weights, or none but bf16 ones [default: f32]
    #[arg(long, value_name = "TYPE")]
    pub master_weights: Option<String>,
    /// Seed of everything random [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Directory of the run [default: runs/1, runs/2, …]
    #[arg(long, value_name = "DIR")]
    pub out: Option<String>,
    /// Go on with a run that was stopped or killed
    #[arg(long, value_name = "RUN", conflicts_with_all = ["model", "config", "data", "valid", "out"])]
    pub resume: Option<PathBuf>,
    /// Where what does not fit into memory may be: disk, or none to be refused instead [default: disk]
    #[arg(long, value_name = "WHERE")]
    pub offload: Option<String>,
    /// Memory that the run may use, such as 6GiB [default: what this process may have]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub mem: Option<usize>,
    /// Check everything, say what would be done, and stop before the first step
    #[arg(long)]
    pub dry_run: bool,
}

impl Args {
    /// Puts what was typed into a draft, on top of what is there.
    pub fn apply(&self, draft: &mut Draft) {
        for assignment in &self.set {
            draft.assignment(assignment);
        }
        let text = |s: &String| Value::Text(s.clone());
        let count = |n: &usize| Value::Int(*n as i128);
        let texts = |list: &[String]| {
            let items = list.iter().map(|s| Node { line: 0, value: Value::Text(s.clone()) });
            (!list.is_empty()).then(|| Value::List(items.collect()))
        };
        for (flag, key, value) in [
            ("MODEL", "model", self.model.as_ref().map(text)),
            ("--data", "data.train", texts(&self.data)),
            ("--valid", "data.valid", texts(&self.valid)),
            ("--method", "method", self.method.as_ref().map(text)),
            ("--rank", "lora.rank", self.rank.as_ref().map(count)),
            ("--lr", "optimizer.learning_rate", self.lr.map(Value::Float)),
            ("--optimizer-state", "optimizer.state", self.optimizer_state.as_ref().map(text)),
            ("--batch-size", "batch_size", self.batch_size.as_ref().map(count)),
            ("--gradient-accumulation", "gradient_accumulation", self.gradient_accumulation.as_ref().map(count)),
            ("--gradients", "gradients", self.gradients.as_ref().map(text)),
            ("--epochs", "epochs", self.epochs.map(Value::Float)),
            ("--max-steps", "max_steps", self.max_steps.as_ref().map(count)),
            ("--max-length", "data.max_length", self.max_length.as_ref().map(count)),
            ("--compute", "compute", self.compute.as_ref().map(text)),
            ("--master-weights", "master_weights", self.master_weights.as_ref().map(text)),
            ("--offload", "offload", self.offload.as_ref().map(text)),
            ("--seed", "seed", self.seed.map(|n| Value::Int(n.into()))),
            ("--out", "out", self.out.as_ref().map(text)),
        ] {
            if let Some(value) = value {
                draft.flag(flag, key, value);
            }
        }
    }
}
