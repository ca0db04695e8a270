//! Attention of a batch to a [`Cache`] that holds the keys and values of all its positions. For inference: nothing is recorded.

use std::sync::Arc;

use ounce_kernels::{AttnShape, Span};

use super::{Op, Rule, attention};
use crate::cache::{Cache, Table};
use crate::device::{Cost, Kernel};
use crate::graph::{Context, Graph, Var};
use crate::tape::Backward;
use crate::{Elem, Tensor};

pub(crate) struct AttentionCached {
    q: Var,
    cache: Arc<Cache>,
    table: Table,
    spans: Arc<[Span]>,
    shape: AttnShape,
}

impl Graph<'_> {
    /// `q [t, h·d] -> [t, h·d]`, f32. `kv_start` of a span is a row of `table`.
    pub fn attention_cached(
        &mut self,
        q: Var,
        cache: &Arc<Cache>,
        table: &Table,
        spans: &Arc<[Span]>,
        shape: AttnShape,
    ) -> Var {
        let (cache, table, spans) = (cache.clone(), table.clone(), spans.clone());
        self.apply1(Op::AttentionCached(AttentionCached { q, cache, table, spans, shape }))
    }
}

impl Rule for AttentionCached {
    fn operands(&self) -> Vec<Var> {
        vec![self.q]
    }
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, _: bool) -> Vec<Tensor> {
        let q = &inputs[0];
        let mut out = cx.empty(Elem::F32, q.rows(), q.cols());
        let keys: usize = self.spans.iter().map(|span| span.kv_len).sum();
        let cost = Cost {
            kernel: Kernel::Attention,
            flops: 4.0 * attention::pairs(&self.spans, &self.shape) * self.shape.head_dim as f64,
            bytes: (2 * q.bytes_len() + keys * self.cache.position_bytes()) as f64,
        };
        cx.device.run(cost, |cpu| {
            cpu.attention_cached(out.f32_mut(), q.f32(), &self.cache.view(&self.table), &self.spans, &self.shape)
        });
        vec![out]
    }
    fn backward(&self, _: &mut Backward, _: &[Var]) {
        unreachable!("a cache is for inference, which records nothing")
    }
}
