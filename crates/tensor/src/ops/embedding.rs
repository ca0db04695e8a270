//! `out[t] = scale · W[ids[t]]`: token and position embeddings.

use std::sync::Arc;

use super::{Op, Rule};
use crate::graph::{Context, Graph, Var};
use crate::params::ParamId;
use crate::tape::Backward;
use crate::{Elem, Tensor};

pub(crate) struct Embedding {
    ids: Arc<[u32]>,
    table: ParamId,
    scale: f32,
    elem: Elem,
}

impl Graph<'_> {
    /// `[t, c]` of type `elem` from rows of `table [v, c]`.
    pub fn embedding(&mut self, table: ParamId, ids: &Arc<[u32]>, scale: f32, elem: Elem) -> Var {
        self.apply1(Op::Embedding(Embedding { ids: ids.clone(), table, scale, elem }))
    }
}

impl Rule for Embedding {
    fn operands(&self) -> Vec<Var> {
        Vec::new()
    }
    fn params(&self) -> Vec<ParamId> {
        vec![self.table]
    }
    fn forward(&mut self, cx: &Context, _: Vec<Tensor>, _: bool) -> Vec<Tensor> {
        let table = cx.params.weight(self.table);
        let mut out = cx.empty(self.elem, self.ids.len(), table.shape().1);
        table.rows(cx.device, &mut out, &self.ids);
        vec![if self.scale == 1.0 { out } else { out.scaled(cx.device, self.scale) }]
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        let Some(mut dy) = walk.take_grad(outputs[0]) else { return };
        if walk.wants(self.table) {
            if self.scale != 1.0 {
                dy = dy.scaled(walk.device, self.scale);
            }
            walk.sink.rows(walk.device, self.table, &self.ids, &dy);
        }
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use crate::Elem;
    use crate::conformance::{M, Sample};
    use std::sync::Arc;

    pub fn samples() -> Vec<Sample> {
        let ids: Arc<[u32]> = vec![3, 0, 3, 6].into();
        [1.0f32, 2.5]
            .into_iter()
            .map(|scale| {
                let (ids, again) = (ids.clone(), ids.clone());
                Sample::new(
                    &format!("embedding × {scale}"),
                    &[],
                    &[(7, 10)],
                    move |g, _, p| vec![g.embedding(p[0], &ids, scale, Elem::F32)],
                    move |_, p| vec![M::from_fn(4, 10, |i, j| scale as f64 * p[0].at(again[i] as usize, j))],
                )
            })
            .collect()
    }
}
