//! A recipe: everything that decides a tuning run. Written by a person in YAML, overridden by flags, saved resolved.

use serde::{Deserialize, Serialize};

/// All settings of a run, each with the default a user would want. Unknown keys are refused by the reader in `cli`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recipe {
    /// Model directory, GGUF file or hub name.
    pub model: String,
    pub data: DataRecipe,
    pub method: Method,
    pub lora: LoraRecipe,
    pub optimizer: OptimizerRecipe,
    pub schedule: ScheduleRecipe,
    /// Examples (or packed rows) in one forward pass.
    pub batch_size: usize,
    /// Tokens that go through the model at once, at most (but whole sequences): a batch is cut into parts of this size, whose
    /// gradients are summed. Memory goes with it. 0: a batch is never cut.
    pub micro_batch_tokens: usize,
    /// Batches whose gradients are summed before an update.
    pub gradient_accumulation: usize,
    pub gradients: Gradients,
    /// Passes over the data; ignored where `max_steps` is set.
    pub epochs: f64,
    pub max_steps: Option<usize>,
    /// Gradient norm limit; 0 turns clipping off.
    pub max_grad_norm: f32,
    pub compute: Compute,
    pub master_weights: MasterWeights,
    pub activations: Activations,
    pub offload: Offload,
    pub seed: u64,
    pub out: String,
    pub log_every: usize,
    /// Steps between checkpoints; 0: only at the end and when interrupted.
    pub save_every: usize,
    /// Checkpoints to keep, at least 2.
    pub save_limit: usize,
    /// Steps between evaluations; 0: only at the end.
    pub eval_every: usize,
    /// Stop after this many evaluations without improvement; 0: never.
    pub patience: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataRecipe {
    /// Files or directories, each with an optional weight in the mixture.
    pub train: Vec<String>,
    pub valid: Vec<String>,
    /// Share of `train` held out when `valid` is empty.
    pub valid_share: f64,
    /// `auto` or a format name.
    pub format: String,
    /// Longest example in tokens; longer ones are handled as `too_long` says.
    pub max_length: usize,
    pub too_long: TooLong,
    /// Put several examples in one row of `max_length`, without attention between them.
    pub packing: bool,
    /// Loss on the assistant's turns only.
    pub loss_on_answers: bool,
    pub shuffle: bool,
    pub max_samples: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// Leave the example out, and say how many were.
    #[default]
    Drop,
    /// Keep its first `max_length` tokens, and say how many were cut.
    Truncate,
    /// Refuse the data set.
    Error,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    #[default]
    Lora,
    Full,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraRecipe {
    pub rank: usize,
    pub alpha: f32,
    pub dropout: f32,
    /// Scale by `alpha / sqrt(rank)` (Kalajdzievski 2023) instead of `alpha / rank`.
    pub rslora: bool,
    /// `all-linear` or module names (`q_proj`, …).
    pub target: Vec<String>,
    /// A PEFT adapter directory to start from, instead of fresh matrices.
    pub init_from: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OptimizerRecipe {
    pub name: OptimizerName,
    pub state: StateType,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub momentum: f64,
    pub nesterov: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerName {
    #[default]
    Adamw,
    Adam,
    Sgd,
}

/// How an optimizer's moments are stored between steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateType {
    #[default]
    F32,
    /// With stochastic rounding.
    Bf16,
    /// Block-wise dynamic codes of eight bits (Dettmers et al. 2022).
    #[serde(rename = "8bit")]
    Block8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleRecipe {
    pub name: ScheduleName,
    /// Steps of linear warm-up; `None`: `warmup_ratio` of the run.
    pub warmup_steps: Option<usize>,
    pub warmup_ratio: f64,
    /// Where the decay ends, as a share of the peak.
    pub final_ratio: f64,
    /// WSD: share of the run spent decaying.
    pub decay_ratio: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    Constant,
    Linear,
    #[default]
    Cosine,
    /// Warm-up, stable, decay (Hu et al. 2024).
    Wsd,
}

/// What becomes of a parameter's gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gradients {
    /// It is added up until the end of the step.
    #[default]
    Accumulate,
    /// The parameter is updated during the backward pass and the gradient let go (Lv et al. 2023).
    UpdateNow,
}

/// Element type of activations and products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    F32,
    #[default]
    Bf16,
    /// With a dynamic loss scale (Micikevicius et al. 2018).
    F16,
}

/// What the updates of full tuning are added to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MasterWeights {
    /// f32 weights, which the products round where `compute` says so (Micikevicius et al. 2018).
    #[default]
    F32,
    /// The bf16 matrices themselves, rounded stochastically (Zamirai et al. 2020); vectors stay f32.
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activations {
    /// Keep what fits; recompute the rest or write it to disk, whichever is faster.
    #[default]
    Auto,
    Keep,
    /// Keep only the input of each block (Chen et al. 2016).
    Recompute,
    /// Write them to disk, and read them back for the backward pass.
    Offload,
}

/// Where what does not fit into memory may be while a run trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// Activations, trained weights and their optimizer state wait on the disk of the run, and a base model is streamed from
    /// its file, as far as that is what it takes to fit, or faster.
    #[default]
    Disk,
    /// Nowhere: a run that does not fit is refused.
    None,
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            model: String::new(),
            data: DataRecipe::default(),
            method: Method::Lora,
            lora: LoraRecipe::default(),
            optimizer: OptimizerRecipe::default(),
            schedule: ScheduleRecipe::default(),
            batch_size: 4,
            micro_batch_tokens: 512,
            gradient_accumulation: 1,
            gradients: Gradients::Accumulate,
            epochs: 1.0,
            max_steps: None,
            max_grad_norm: 1.0,
            compute: Compute::Bf16,
            master_weights: MasterWeights::F32,
            activations: Activations::Auto,
            offload: Offload::Disk,
            seed: 0,
            out: String::new(),
            log_every: 1,
            save_every: 100,
            save_limit: 2,
            eval_every: 0,
            patience: 0,
        }
    }
}

impl Default for DataRecipe {
    fn default() -> Self {
        DataRecipe {
            train: vec![],
            valid: vec![],
            valid_share: 0.0,
            format: "auto".into(),
            max_length: 1024,
            too_long: TooLong::Drop,
            packing: true,
            loss_on_answers: true,
            shuffle: true,
            max_samples: None,
        }
    }
}

impl Default for LoraRecipe {
    fn default() -> Self {
        LoraRecipe {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            rslora: false,
            target: vec!["all-linear".into()],
            init_from: None,
        }
    }
}

impl Default for OptimizerRecipe {
    fn default() -> Self {
        OptimizerRecipe {
            name: OptimizerName::Adamw,
            state: StateType::F32,
            learning_rate: 2e-4,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            momentum: 0.9,
            nesterov: false,
        }
    }
}

impl Default for ScheduleRecipe {
    fn default() -> Self {
        ScheduleRecipe {
            name: ScheduleName::Cosine,
            warmup_steps: None,
            warmup_ratio: 0.03,
            final_ratio: 0.1,
            decay_ratio: 0.2,
        }
    }
}
