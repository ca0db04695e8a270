//! What a running job says: the loop emits events, the command line draws them.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Once, before the first step. `step` is above 0 when a run is resumed.
    Start {
        step: usize,
        steps: usize,
        epoch_steps: usize,
        trainable: usize,
        total_params: usize,
    },
    Step {
        step: usize,
        loss: f64,
        grad_norm: f64,
        learning_rate: f64,
        tokens: usize,
        /// Tokens that carry loss.
        loss_tokens: usize,
        step_s: f64,
        memory_bytes: usize,
        /// Of f16 activations: what the loss was multiplied by.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        loss_scale: Option<f64>,
    },
    /// A step without an update: scaled gradients did not fit into f16.
    Skipped {
        step: usize,
        why: String,
        /// From the next step on.
        loss_scale: f64,
    },
    Eval {
        step: usize,
        loss: f64,
        tokens: usize,
        best: bool,
    },
    Checkpoint {
        step: usize,
        path: String,
    },
    Note {
        text: String,
    },
    End {
        step: usize,
        reason: EndReason,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    Done,
    EarlyStop,
    Interrupted,
}
