//! Multi-head attention with rope, grouped queries, and optional norms on q and k.

use std::sync::Arc;

use ounce_tensor::kernels::AttnShape;
use ounce_tensor::{Graph, ParamId, RopeTable, Rows, Var};

use crate::kv::Kv;
use crate::linear::Linear;

#[derive(Clone, Debug)]
pub struct Attention {
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub o: Linear,
    /// RMSNorm weights `[d]` on each head of q and k, and what is added to them.
    pub qk_norm: Option<(ParamId, ParamId, f32)>,
    pub norm_eps: f32,
    pub rope: Arc<RopeTable>,
    pub shape: AttnShape,
}

impl Attention {
    /// `[t, c] -> [t, h·d]`, what the heads see, before the output layer. With `kv`, keys and values of earlier positions come from it,
    /// and this batch's go to it.
    pub fn heads(&self, g: &mut Graph, x: Var, rows: &Rows, kv: Option<(&mut Kv, usize)>) -> Var {
        let d = self.shape.head_dim;
        let [mut q, mut k, v] = Linear::forward_all([&self.q, &self.k, &self.v], g, x, rows);
        if let Some((q_norm, k_norm, add)) = self.qk_norm {
            q = g.rmsnorm(q, q_norm, add, self.norm_eps);
            k = g.rmsnorm(k, k_norm, add, self.norm_eps);
        }
        q = g.rope(q, &self.rope, &rows.positions, d);
        k = g.rope(k, &self.rope, &rows.positions, d);
        attend(g, q, k, v, rows, self.shape, kv)
    }

    pub fn linears(&self) -> [&Linear; 4] {
        [&self.q, &self.k, &self.v, &self.o]
    }

    pub fn linears_mut(&mut self) -> [&mut Linear; 4] {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.o]
    }
}

/// Attention over this batch, or over the cache after this batch's keys and values went into it.
pub(crate) fn attend(
    g: &mut Graph,
    q: Var,
    k: Var,
    v: Var,
    rows: &Rows,
    shape: AttnShape,
    kv: Option<(&mut Kv, usize)>,
) -> Var {
    match kv {
        None => g.attention(q, k, v, &rows.spans, shape),
        Some((kv, layer)) => {
            kv.append(g.device(), layer, g.value(k), g.value(v));
            let (cache, table) = kv.layer(layer);
            g.attention_cached(q, cache, table, &rows.spans, shape)
        }
    }
}
