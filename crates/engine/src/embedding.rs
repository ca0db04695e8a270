//! Embeddings: hidden states after the final norm, pooled to one vector for each input. They run beside the sequences that answer, a
//! slice of blocks after each step, and need no cache. It does not know how the model computes them.

use std::collections::VecDeque;

use ounce_model::{Hidden, Model};
use ounce_tensor::{AdapterId, Device, ReadError, Rows, Tensor};

use crate::adapters::ranges;
use crate::sequence::SeqId;

/// Which hidden states make the vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// That of the last token: in a decoder it alone has seen the whole input.
    #[default]
    Last,
    /// Their mean.
    Mean,
    /// That of the first token: for models that were trained with one that stands for all.
    Cls,
}

/// An input and what is wanted of it.
#[derive(Clone, Debug)]
pub struct Embedding {
    pub input: Vec<u32>,
    pub pooling: Pooling,
    /// So many of the first elements; none: all.
    pub dimensions: Option<usize>,
    /// Whether the vector is scaled to length 1.
    pub normalize: bool,
    /// The adapter it runs with; none: the base.
    pub adapter: Option<AdapterId>,
}

/// The embeddings that wait, and the batch that runs.
#[derive(Default)]
pub(crate) struct Embeddings {
    waiting: VecDeque<(SeqId, Embedding)>,
    running: Option<Batch>,
}

struct Batch {
    parts: Vec<(SeqId, Embedding)>,
    pass: Hidden,
}

impl Embeddings {
    pub fn push(&mut self, id: SeqId, embedding: Embedding) {
        self.waiting.push_back((id, embedding));
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_none()
    }

    /// Drops one that waits. One that runs ends with its batch; nobody need look at it.
    pub fn cancel(&mut self, id: SeqId) {
        self.waiting.retain(|(of, _)| *of != id);
        if self.running.as_ref().is_some_and(|batch| batch.parts.iter().all(|(of, _)| *of == id)) {
            self.running = None;
        }
    }

    /// The adapters that are still needed.
    pub fn adapters(&self) -> impl Iterator<Item = AdapterId> {
        let running = self.running.iter().flat_map(|batch| &batch.parts);
        self.waiting.iter().chain(running).filter_map(|(_, e)| e.adapter)
    }

    /// A slice of work: inputs of `rows` tokens together (or one that is longer) through all blocks, or a longer one through so
    /// many fewer. The vectors of a batch that is through.
    pub fn advance(
        &mut self,
        model: &Model,
        device: &Device,
        rows: usize,
        int8: bool,
    ) -> Result<Vec<(SeqId, Vec<f32>)>, ReadError> {
        let Some(mut batch) = self.running.take().or_else(|| self.batch(rows, int8)) else { return Ok(Vec::new()) };
        let blocks = (rows * model.family.blocks()).div_ceil(batch.pass.rows().len().max(1));
        match batch.pass.advance(model, device, blocks) {
            Ok(Some(hidden)) => Ok(batch.pooled(&hidden)),
            Ok(None) => {
                self.running = Some(batch);
                Ok(Vec::new())
            }
            Err(error) => {
                self.running = Some(batch);
                Err(error)
            }
        }
    }

    /// Takes inputs off the queue, as many as fit into `rows`, at least one.
    fn batch(&mut self, rows: usize, int8: bool) -> Option<Batch> {
        let (mut parts, mut ids, mut bounds) = (Vec::new(), Vec::new(), vec![0]);
        while let Some((_, next)) = self.waiting.front() {
            if !parts.is_empty() && ids.len() + next.input.len() > rows {
                break;
            }
            let part = self.waiting.pop_front()?;
            ids.extend_from_slice(&part.1.input);
            bounds.push(ids.len());
            parts.push(part);
        }
        if parts.is_empty() {
            return None;
        }
        let mut rows = Rows::whole(ids, &bounds);
        rows.adapted = ranges(parts.iter().map(|(_, e)| (e.input.len(), e.adapter))).into();
        Some(Batch { parts, pass: Hidden::new(rows, int8) })
    }
}

impl Batch {
    fn pooled(self, hidden: &Tensor) -> Vec<(SeqId, Vec<f32>)> {
        let mut start = 0;
        let one = |(id, embedding): (SeqId, Embedding)| {
            let n = embedding.input.len();
            start += n;
            (id, pool(hidden.view_rows(start - n, n).f32(), hidden.cols(), &embedding))
        };
        self.parts.into_iter().map(one).collect()
    }
}

/// The vector of hidden states `[t, c]`.
fn pool(hidden: &[f32], c: usize, wanted: &Embedding) -> Vec<f32> {
    let t = hidden.len() / c;
    let mut out: Vec<f64> = match wanted.pooling {
        Pooling::Last => hidden[(t - 1) * c..].iter().map(|v| f64::from(*v)).collect(),
        Pooling::Cls => hidden[..c].iter().map(|v| f64::from(*v)).collect(),
        Pooling::Mean => {
            let sum = |j: usize| hidden.iter().skip(j).step_by(c).map(|v| f64::from(*v)).sum::<f64>();
            (0..c).map(|j| sum(j) / t as f64).collect()
        }
    };
    out.truncate(wanted.dimensions.unwrap_or(c));
    let length = out.iter().map(|v| v * v).sum::<f64>().sqrt();
    let scale = if wanted.normalize && length > 0.0 { 1.0 / length } else { 1.0 };
    out.into_iter().map(|v| (v * scale) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_pooled_cut_and_scaled() {
        let hidden = [1.0, 2.0, 5.0, 3.0, 6.0, 7.0];
        let wanted = |pooling, dimensions, normalize| {
            pool(&hidden, 3, &Embedding { input: Vec::new(), pooling, dimensions, normalize, adapter: None })
        };
        assert_eq!(wanted(Pooling::Last, None, false), [3.0, 6.0, 7.0]);
        assert_eq!(wanted(Pooling::Cls, Some(2), false), [1.0, 2.0]);
        assert_eq!(wanted(Pooling::Mean, None, false), [2.0, 4.0, 6.0]);
        // Cut first: what is left has length 1.
        assert_eq!(wanted(Pooling::Mean, Some(2), true), [(2.0 / 20f64.sqrt()) as f32, (4.0 / 20f64.sqrt()) as f32]);
    }
}
