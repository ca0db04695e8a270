//! A plan: what a run will do and what it will cost, with the reasons. `plan` writes it, `train` carries it out.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What each block does with its activations.
    pub activations: Vec<Policy>,
    /// Room on disk that offloaded activations take, at most.
    #[serde(default)]
    pub offloaded_bytes: usize,
    /// Where the model's weights are.
    #[serde(default)]
    pub weights: Residency,
    pub memory: MemoryForecast,
    pub time: TimeForecast,
    /// Why this plan, one sentence each.
    pub reasons: Vec<String>,
}

/// What a segment of the model leaves for its backward pass, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Everything that the backward rules read, in memory.
    Keep,
    /// Its inputs only; the forward pass is run again (Chen et al. 2016).
    Recompute,
    /// Everything that the backward rules read, outside memory until it is needed (Rhu et al. 2016).
    Offload,
    /// Its inputs only, outside memory until the forward pass is run again.
    OffloadInputs,
}

/// How weights come to the processor. Those that are trained are in memory unless it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Residency {
    /// Mapped from their file, and in memory as a whole.
    #[default]
    Mapped,
    /// Read from their file a segment ahead of their use, and let go after it.
    Streamed,
    /// Trained, and on disk with their optimizer state: read a segment ahead, and written back when they have been updated.
    Tiered,
}

/// Bytes at the peak of a step, by what they are for. `total_bytes` is the peak resident size of the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryForecast {
    pub weights_bytes: usize,
    pub adapters_bytes: usize,
    pub gradients_bytes: usize,
    pub optimizer_bytes: usize,
    pub activations_bytes: usize,
    pub workspace_bytes: usize,
    /// The program, its tokenizer and data.
    pub program_bytes: usize,
    pub total_bytes: usize,
    /// What the process may use: the cgroup's limit, or `--mem`.
    pub limit_bytes: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeForecast {
    pub step_s: f64,
    pub steps: usize,
    pub total_s: f64,
    pub tokens_per_s: f64,
    /// Multiply-adds counted twice, one step.
    pub step_flops: f64,
    /// Bytes read from disk, one step: weights that are streamed, activations that come back.
    #[serde(default)]
    pub step_read_bytes: f64,
    /// Bytes of activations written to disk, one step.
    #[serde(default)]
    pub step_write_bytes: f64,
}
