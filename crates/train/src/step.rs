//! What one step did, or why it was not done. Knows no model.

use ounce_tensor::ReadError;

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// Mean over the tokens that bear loss.
    pub loss: f64,
    pub grad_norm: f64,
    pub tokens: usize,
    pub loss_tokens: usize,
    /// Nothing was updated: a scaled loss or gradient was not finite, and the scale has been halved.
    pub skipped: bool,
}

/// A loss or a gradient that is not a number, before an update; or a parameter, after one. Nothing of it was saved.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "step {step}: the {what} is {value}; the examples of the batch are {examples:?}; nothing of this step was saved"
)]
pub struct NonFinite {
    pub step: usize,
    /// `loss`, `gradient norm` (also `of` a parameter), or a parameter's name.
    pub what: String,
    pub value: f64,
    /// Of the step's batches, as indices into the data set; empty if the step was done by another process.
    pub examples: Vec<u32>,
}

/// A step that was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    NonFinite(#[from] NonFinite),
    /// A disk that failed with weights, optimizer state or activations on their way. Where gradients are accumulated and what is
    /// trained is in memory, nothing was updated; else only a checkpoint leads back.
    #[error(transparent)]
    Read(#[from] ReadError),
}
