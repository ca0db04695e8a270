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

    /// Some of the rows, in any order, each for itself: in no sequence.
    pub fn only(&self, which: &[u32]) -> Rows {
        let of = |values: &[u32]| which.iter().map(|&row| values[row as usize]).collect();
        let mut adapted: Vec<(Range<usize>, AdapterId)> = Vec::new();
        for (i, &row) in which.iter().enumerate() {
            let Some((_, id)) = self.adapted.iter().find(|(rows, _)| rows.contains(&(row as usize))) else { continue };
            match adapted.last_mut() {
                Some((rows, last)) if last == id && rows.end == i => rows.end += 1,
                _ => adapted.push((i..i + 1, *id)),
            }
        }
        let (ids, positions) = (of(&self.ids), of(&self.positions));
        Rows { ids, positions, spans: Arc::default(), first_row: self.first_row, adapted: adapted.into(), loss: None }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_rows_keep_their_tokens_and_adapters() {
        let [a, b] = [AdapterId(7), AdapterId(9)];
        let mut rows = Rows::whole((10..20).collect(), &[0, 4, 10]);
        rows.adapted = vec![(1..3, a), (3..4, b), (6..9, a)].into();
        let some = rows.only(&[0, 1, 2, 3, 5, 8, 7]);
        assert_eq!(
            (&some.ids[..], &some.positions[..]),
            (&[10, 11, 12, 13, 15, 18, 17][..], &[0, 1, 2, 3, 1, 4, 3][..])
        );
        assert_eq!(some.adapted[..], [(1..3, a), (3..4, b), (5..7, a)]);
        assert!(rows.only(&[]).is_empty());
    }
}
