//! Attention, forward and backward, in tiles (FlashAttention-2, Dao 2023): memory linear in length. Ragged batches,
//! grouped queries, causal or bidirectional, sliding window.

mod backward;
mod cache;
mod cache_pairs;
mod cached;
mod forward;
mod mask;
mod pack;
mod piece;
#[cfg(target_arch = "x86_64")]
mod piece_pairs;
mod product;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_cached;

pub use cache::{CacheType, Cached};

use crate::lanes::{Elem, one_type};
use crate::{Cpu, In, Out};

/// What all sequences of a call share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttnShape {
    /// Query heads `h`.
    pub heads: usize,
    /// Key/value heads; `heads` is a multiple of it.
    pub kv_heads: usize,
    /// Head dimension `d`.
    pub head_dim: usize,
    /// Factor on the scores, usually `d^-1/2`.
    pub scale: f32,
    pub causal: bool,
    /// A query at position `p` sees keys at positions `> p - window`.
    pub window: Option<usize>,
}

/// One sequence of a ragged batch: rows `q_start..q_start+q_len` of `q` are its last `q_len` positions of `kv_len`, whose
/// keys and values are rows `kv_start..kv_start+kv_len` of `k` and `v`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub q_start: usize,
    pub q_len: usize,
    pub kv_start: usize,
    pub kv_len: usize,
}

impl AttnShape {
    /// Query heads that share a key/value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// Queries of a tile: four vectors of lanes.
const QUERIES: usize = 64;

/// Keys of a tile. A tile of scores is then 16 KiB.
const KEYS: usize = 64;

/// A unit of work: the `index`-th of a span.
struct Unit<'a> {
    span: &'a Span,
    index: usize,
}

/// The `chunk`-th unit, when each span has `count` of them.
fn units(spans: &[Span], count: impl Fn(&Span) -> usize, mut chunk: usize) -> Unit<'_> {
    for span in spans {
        let n = count(span);
        if chunk < n {
            return Unit { span, index: chunk };
        }
        chunk -= n;
    }
    unreachable!("more chunks than units of work")
}

/// Cuts scratch memory into slices of these lengths. Every slice is written before it is read.
///
/// # Safety
/// `memory` is aligned for f32, holds as many as all sizes together, and nobody else uses it.
unsafe fn floats<'a, const N: usize>(memory: *mut u8, sizes: [usize; N]) -> [&'a mut [f32]; N] {
    let mut at = memory.cast::<f32>();
    sizes.map(|n| {
        // SAFETY: the slices follow one another inside the memory.
        unsafe {
            let slice = std::slice::from_raw_parts_mut(at, n);
            at = at.add(n);
            slice
        }
    })
}

impl Cpu {
    /// `out[rows, h*d]`, `lse[rows, h]` (log of the sum of exponentials of the scaled scores, needed by the backward pass)
    /// from `q[rows, h*d]`, `k[_, kv_heads*d]`, `v[_, kv_heads*d]`. All activations have one type; softmax is f32.
    pub fn attention(&self, out: Out, lse: &mut [f32], q: In, k: In, v: In, spans: &[Span], shape: &AttnShape) {
        one_type!(q, E => {
            let (out, q) = (E::output(out, "attention"), E::input(q, "attention"));
            let (k, v) = (E::input(k, "attention"), E::input(v, "attention"));
            forward::forward(self, out, lse, q, k, v, spans, shape)
        })
    }

    /// `out[rows, h*d]` from `q[rows, h*d]` and a cache that holds the keys and values of all positions, those of `q`
    /// included. The bits of a row depend on its own sequence and position only. Where the table multiplies bf16 in pairs, it does so
    /// with a bf16 cache: queries and probabilities are then rounded to bf16 as the keys and values are; sums are f32.
    pub fn attention_cached(&self, out: &mut [f32], q: &[f32], cache: &Cached, spans: &[Span], shape: &AttnShape) {
        assert_eq!(out.len(), q.len(), "attention_cached: elements of out");
        #[cfg(target_arch = "x86_64")]
        if self.pairs_of(cache.kind) {
            return cached::forward::<piece_pairs::InPairs>(self, out, q, cache, spans, shape);
        }
        cache::one_kind!(cache.kind, K => cached::forward::<piece::Single<K>>(self, out, q, cache, spans, shape))
    }

    /// Bytes of scratch memory that attention over `rows` rows and its gradients keep, at most, over all threads.
    pub fn attention_workspace_bytes(&self, rows: usize, shape: &AttnShape) -> usize {
        backward::scratch_bytes(self.threads(), rows, shape)
    }

    /// Gradients of `q`, `k`, `v` (overwritten) from `dout` and the forward's `out` and `lse`. `kv` rows are those of the
    /// batch itself (`kv_start..kv_start+kv_len` of different spans do not overlap).
    pub fn attention_bwd(
        &self,
        dq: Out,
        dk: Out,
        dv: Out,
        dout: In,
        out: In,
        lse: &[f32],
        q: In,
        k: In,
        v: In,
        spans: &[Span],
        shape: &AttnShape,
    ) {
        let name = "attention_bwd";
        one_type!(q, E => {
            let (dq, dk, dv) = (E::output(dq, name), E::output(dk, name), E::output(dv, name));
            let (dout, out, q) = (E::input(dout, name), E::input(out, name), E::input(q, name));
            let (k, v) = (E::input(k, name), E::input(v, name));
            backward::backward(self, dq, dk, dv, dout, out, lse, q, k, v, spans, shape)
        })
    }
}
