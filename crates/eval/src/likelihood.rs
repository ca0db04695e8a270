//! How likely a model finds given texts: sums of `-ln p` over the tokens that bear loss. Knows no tasks.

use std::sync::Arc;

use ounce_data::{Batch, Tokenized};
use ounce_model::{Model, Training};
use ounce_tensor::{Device, Elem, Loss, Policy, ReadError, Rows, Stage};

use crate::stats::DocumentLoss;

/// Tokens in one pass at most (one sequence at least).
const TOKENS: usize = 2048;

/// For each sequence, the sum of `-ln p` over its scored tokens and their number. Activations are of type `elem`; what
/// is scored of a sequence does not depend on the others. `on_pass(done)` is called before each pass with the number of
/// sequences that are done, and ends the work by returning false: then there is no result. Fails where streamed weights
/// cannot be read.
pub fn losses(
    device: &Device,
    model: &Model,
    elem: Elem,
    sequences: &[Tokenized],
    mut on_pass: impl FnMut(usize) -> bool,
) -> Result<Option<Vec<DocumentLoss>>, ReadError> {
    let mut out = Vec::with_capacity(sequences.len());
    let mut start = 0;
    while start < sequences.len() {
        if !on_pass(start) {
            return Ok(None);
        }
        let (mut end, mut size) = (start, 0);
        while end < sequences.len() && (end == start || size + sequences[end].ids.len() <= TOKENS) {
            size += sequences[end].ids.len();
            end += 1;
        }
        let batch = Batch::of(&sequences[start..end]);
        let each = cross_entropies(device, model, elem, &batch)?;
        for range in batch.bounds.windows(2) {
            let scored = (range[0]..range[1]).filter(|&row| batch.weights[row] > 0.0);
            let (mut nll_sum, mut tokens) = (0.0, 0);
            for row in scored {
                nll_sum += f64::from(each[row]);
                tokens += 1;
            }
            out.push(DocumentLoss { nll_sum, tokens });
        }
        start = end;
    }
    Ok(Some(out))
}

/// `-ln p` of each row's target, 0 where it bears no loss; `[t]`.
fn cross_entropies(device: &Device, model: &Model, elem: Elem, batch: &Batch) -> Result<Vec<f32>, ReadError> {
    let mut rows = Rows::whole(batch.ids.clone(), &batch.bounds);
    let weights: Arc<[f32]> = batch.weights.as_slice().into();
    rows.loss = Some(Loss { targets: batch.targets.as_slice().into(), weights });
    let training = Training { family: &*model.family, elem };
    let segments = model.segments();
    // Nothing is walked back: no activation is worth keeping.
    let policies = vec![Policy::Recompute; segments];
    let stage =
        Stage { model: &training, range: 0..segments, policies: &policies, wanted: &[], random: None, offload: None };
    let pass = stage.forward(device, &model.params, &rows, Vec::new())?;
    Ok(pass.outputs[1].f32().to_vec())
}
