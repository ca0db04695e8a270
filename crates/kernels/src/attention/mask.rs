//! Which keys a query sees: causal order, sliding window, the end of the keys. Must not know how scores are made.

use super::{AttnShape, Span};
use crate::lanes::{L, Simd};

/// The mask of one span.
#[derive(Clone, Copy)]
pub(super) struct Mask {
    q_len: usize,
    kv_len: usize,
    /// Position of the span's first query; negative if there are more queries than keys.
    first: isize,
    causal: bool,
    window: isize,
}

impl Mask {
    pub fn new(span: &Span, shape: &AttnShape) -> Mask {
        let window = shape.window.map_or(isize::MAX / 2, |w| w.min(isize::MAX as usize / 2) as isize);
        let first = span.kv_len as isize - span.q_len as isize;
        Mask { q_len: span.q_len, kv_len: span.kv_len, first, causal: shape.causal, window }
    }

    /// The keys that query `i` sees.
    pub fn seen(&self, i: usize) -> std::ops::Range<usize> {
        let position = self.first + i as isize;
        let n = self.kv_len as isize;
        let end = if self.causal { (position + 1).clamp(0, n) } else { n };
        let start = (position - self.window + 1).clamp(0, end);
        start as usize..end as usize
    }

    /// The keys from the first to the last that queries `i..end` see.
    pub fn seen_by(&self, i: usize, end: usize) -> std::ops::Range<usize> {
        // Both ends grow with the query; a query that sees nothing has an empty range wherever its window is.
        let start = (self.first + i as isize - self.window + 1).clamp(0, self.kv_len as isize) as usize;
        start..self.seen(end - 1).end.max(start)
    }

    /// Whether any of queries `i..i_end` sees any of keys `j..j_end`.
    pub fn any(&self, i: usize, i_end: usize, j: usize, j_end: usize) -> bool {
        let seen = self.seen_by(i, i_end);
        seen.start.max(j) < seen.end.min(j_end)
    }

    /// Whether each of queries `i..i_end` sees each of keys `j..j_end`.
    pub fn all(&self, i: usize, i_end: usize, j: usize, j_end: usize) -> bool {
        let (first, last) = (self.seen(i), self.seen(i_end - 1));
        i_end <= self.q_len && first.start <= j && last.start <= j && j_end <= first.end && j_end <= last.end
    }

    /// The scores of key `j` for queries `i..i+16`: minus infinity where it is not seen.
    #[inline(always)]
    pub fn apply<S: Simd>(&self, s: S, scores: S::V, i: usize, j: usize) -> S::V {
        let hidden = s.splat(f32::NEG_INFINITY);
        if j >= self.kv_len {
            return hidden;
        }
        // Key j is seen by queries from..to of this vector: position of query i + lane is >= j (causal) and < j + window.
        let lane = s.load(&LANES);
        let at = j as isize - self.first - i as isize;
        let from = if self.causal { at.clamp(0, L as isize) } else { 0 };
        let to = (at.saturating_add(self.window)).clamp(0, L as isize);
        let scores = s.select_lt(lane, s.splat(from as f32), hidden, scores);
        s.select_lt(lane, s.splat(to as f32), scores, hidden)
    }
}

/// The number of each lane.
pub(super) const LANES: [f32; L] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
