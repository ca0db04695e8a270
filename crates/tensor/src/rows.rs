//! [`Rows`]: one ragged batch. Packing in training and continuous batching in serving are the same thing.

use std::ops::Range;
use std::sync::Arc;

use ounce_kernels::Span;

/// The number of an adapter that is on a model beside others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterId(pub u32);

/// The rows of a forward pass: which belong to one sequence, and where they stand in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// Token of each row.
    pub ids: Arc<[u32]>,
    /// Position of each row in its sequence.
    pub positions: Arc<[u32]>,
    /// For each sequence, its rows and the keys they may see.
    pub spans: Arc<[Span]>,
    /// Number of the first row in the whole training run's order: what random numbers are counted from.
    pub first_row: u64,
    /// Rows with an adapter of their own, ascending. Others are the base's.
    pub adapted: Arc<[(Range<usize>, AdapterId)]>,
    /// What each row should predict, in training and evaluation.
    pub loss: Option<Loss>,
}

/// The loss of a batch: `Σ weights[t] · cross_entropy(logits[t], targets[t])`.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    pub targets: Arc<[u32]>,
    /// Rows of weight 0 cost nothing. For a mean the caller divides by the number of targets beforehand.
    pub weights: Arc<[f32]>,
}

impl Rows {
    /// Whole sequences side by side, each from position 0. `bounds` are the starts, and the end of the last.
    pub fn whole(ids: Vec<u32>, bounds: &[usize]) -> Rows {
        let mut positions = Vec::with_capacity(ids.len());
        let mut spans = Vec::with_capacity(bounds.len().saturating_sub(1));
        for pair in bounds.windows(2) {
            let (start, len) = (pair[0], pair[1] - pair[0]);
            positions.extend(0..len as u32);
            spans.push(Span { q_start: start, q_len: len, kv_start: start, kv_len: len });
        }
        assert_eq!(positions.len(), ids.len(), "bounds cover all rows");
        let (ids, positions, spans) = (ids.into(), positions.into(), spans.into());
        Rows { ids, positions, spans, first_row: 0, adapted: Arc::default(), loss: None }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
