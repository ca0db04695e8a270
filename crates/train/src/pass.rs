//! What a pass over the model is made of: its stage, the rows of a batch, where gradients begin.

use std::sync::Arc;

use ounce_data::Batch;
use ounce_model::Training;
use ounce_tensor::{Device, Loss, Offload, Policy, Purpose, Random, Rows, Stage, Tensor};

/// All segments, in training.
pub(crate) fn stage<'a>(
    training: &'a Training,
    policies: &'a [Policy],
    wanted: &'a [bool],
    random: Random,
    offload: Option<&'a Offload>,
) -> Stage<'a> {
    Stage { model: training, range: 0..policies.len(), policies, wanted, random: Some(random), offload }
}

/// The gradients of a pass's outputs: 1 for the loss.
pub(crate) fn from_loss(device: &Device) -> Vec<Option<Tensor>> {
    vec![Some(Tensor::from_f32(device, &[1.0], 1, 1, Purpose::Activations)), None]
}

pub(crate) fn scalar(t: &Tensor, device: &Device) -> f64 {
    if device.is_dry() { 0.0 } else { t.f32()[0] as f64 }
}

pub(crate) fn policies(blocks: usize, activations: &[Policy]) -> Vec<Policy> {
    let policy = |block: usize| activations.get(block).copied().unwrap_or(Policy::Keep);
    // The embedding has nothing to recompute. The head's logits go with the first block that gives something up.
    let whole = (0..blocks).all(|block| policy(block) == Policy::Keep);
    let head = if whole { Policy::Keep } else { Policy::Recompute };
    std::iter::once(Policy::Keep).chain((0..blocks).map(policy)).chain([head]).collect()
}

/// A batch for the model: the loss is `scale` times the mean over `loss_tokens` tokens. The scale is in the weights of the
/// rows, so that it is there before anything of the backward pass is rounded: the first gradients come with the logits.
pub(crate) fn rows_of(batch: &Batch, loss_tokens: usize, first_row: u64, scale: f64) -> Rows {
    let mut rows = Rows::whole(batch.ids.clone(), &batch.bounds);
    let weight = scale as f32 / loss_tokens.max(1) as f32;
    let weights: Arc<[f32]> = batch.weights.iter().map(|w| w * weight).collect();
    rows.loss = Some(Loss { targets: batch.targets.as_slice().into(), weights });
    rows.first_row = first_row;
    rows
}
