//! How likely a model finds given texts: sums of `-ln p` over the tokens that bear loss, by the pass that answers requests:
//! what a served model says of a text is bit for bit what is said of it here. Knows no tasks.

use ounce_data::{Batch, Tokenized};
use ounce_engine::sampler::logprob;
use ounce_model::{Kv, Model, Part};
use ounce_tensor::kernels::CacheType;
use ounce_tensor::{BLOCK, Device, ReadError};

use crate::stats::DocumentLoss;

/// Tokens in one pass at most; a longer sequence takes several.
const TOKENS: usize = 512;

/// Rows of logits at a time: with 262,144 tokens to choose from, 64 of them are 64 MiB.
const SCORED_ROWS: usize = 64;

/// For each sequence, the sum of `-ln p` over its scored tokens and their number, in f32 and with exact products. What is
/// scored of a sequence does not depend on the others. `on_pass(done)` is called before each pass with the number of
/// sequences that are done, and ends the work by returning false: then there is no result. Fails where streamed weights
/// cannot be read.
pub fn losses(
    device: &Device,
    model: &Model,
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
        let each = cross_entropies(device, model, &batch)?;
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

/// The largest pass of [`losses`] over sequences of up to `longest` tokens, made on `device`, which is dry: it has no memory, and
/// counts it.
///
/// # Errors
/// Never: nothing is read.
pub fn rehearse(device: &Device, model: &Model, longest: usize) -> Result<(), ReadError> {
    let longest = longest.max(1);
    let (count, rows) = (longest.max(TOKENS).div_ceil(BLOCK), TOKENS.min(longest));
    let mut kv = Kv::new(device, &model.config, CacheType::F32, count);
    let (tokens, blocks) = (vec![0; rows], (0..count as u32).collect::<Vec<_>>());
    let scored: Vec<u32> = (0..SCORED_ROWS.min(rows) as u32).collect();
    // The second time, weights that are streamed are those that the first has left.
    for _ in 0..2 {
        let rows = kv.begin(&[Part { tokens: &tokens, past: longest - rows, blocks: &blocks }]);
        let x = model.infer_blocks(device, &rows, &mut kv, false)?;
        model.infer_head(device, &x, &scored, false)?;
    }
    Ok(())
}

/// `-ln p` of each row's target, 0 where it bears no loss; `[t]`. The batch fits into a pass, or is one sequence.
fn cross_entropies(device: &Device, model: &Model, batch: &Batch) -> Result<Vec<f32>, ReadError> {
    let mut count = 0;
    let sequences: Vec<(usize, &[u32], Vec<u32>)> = batch
        .bounds
        .windows(2)
        .map(|range| {
            let tokens = &batch.ids[range[0]..range[1]];
            let first = count;
            count += tokens.len().div_ceil(BLOCK) as u32;
            (range[0], tokens, (first..count).collect())
        })
        .collect();
    let mut kv = Kv::new(device, &model.config, CacheType::F32, count as usize);
    let mut each = vec![0.0; batch.ids.len()];
    let longest = sequences.iter().map(|(_, tokens, _)| tokens.len()).max().unwrap_or(0);
    for past in (0..longest).step_by(TOKENS) {
        let (mut parts, mut places) = (Vec::new(), Vec::new());
        for (start, tokens, blocks) in sequences.iter().filter(|(_, tokens, _)| tokens.len() > past) {
            let tokens = &tokens[past..tokens.len().min(past + TOKENS)];
            places.extend(start + past..start + past + tokens.len());
            parts.push(Part { tokens, past, blocks });
        }
        let rows = kv.begin(&parts);
        let x = model.infer_blocks(device, &rows, &mut kv, false)?;
        let scored: Vec<u32> = (0..places.len() as u32).filter(|&r| batch.weights[places[r as usize]] > 0.0).collect();
        for wanted in scored.chunks(SCORED_ROWS) {
            let logits = model.infer_head(device, &x, wanted, false)?;
            for (logits, &row) in logits.f32().chunks_exact(logits.cols()).zip(wanted) {
                let place = places[row as usize];
                each[place] = -logprob(logits, batch.targets[place]);
            }
        }
    }
    Ok(each)
}
