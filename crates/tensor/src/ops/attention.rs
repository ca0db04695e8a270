//! Scaled dot-product attention over ragged sequences: `out = softmax(scale · q kᵀ + mask) v` for each head, grouped
//! queries, causal, sliding window (Vaswani et al. 2017; tiled as in FlashAttention-2, Dao 2023).

use std::sync::Arc;

use ounce_kernels::{AttnShape, Span};

use super::{Op, Rule};
use crate::device::{Cost, Kernel};
use crate::graph::{Context, Graph, Var};
use crate::tape::{Backward, Question};
use crate::{Elem, Purpose, Tensor};

pub(crate) struct Attention {
    q: Var,
    k: Var,
    v: Var,
    spans: Arc<[Span]>,
    shape: AttnShape,
    /// Log of the sum of exponentials, `[t, h]`.
    lse: Option<Tensor>,
}

impl Graph<'_> {
    /// `q [t, h·d]`, `k` and `v` `[_, kv·d]` (the rows `spans` points into) `-> [t, h·d]`.
    pub fn attention(&mut self, q: Var, k: Var, v: Var, spans: &Arc<[Span]>, shape: AttnShape) -> Var {
        self.apply1(Op::Attention(Attention { q, k, v, spans: spans.clone(), shape, lse: None }))
    }
}

/// Pairs of query and key that are looked at, over all heads.
pub(super) fn pairs(spans: &[Span], shape: &AttnShape) -> f64 {
    let window = shape.window.unwrap_or(usize::MAX);
    let pairs: f64 = spans
        .iter()
        .map(|s| match shape.causal {
            true => (0..s.q_len).map(|i| (s.kv_len - s.q_len + i + 1).min(window) as f64).sum::<f64>(),
            false => (s.q_len * s.kv_len) as f64,
        })
        .sum();
    pairs * shape.heads as f64
}

impl Rule for Attention {
    fn operands(&self) -> Vec<Var> {
        vec![self.q, self.k, self.v]
    }
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, needs_grad: bool) -> Vec<Tensor> {
        let [q, k, v] = &inputs[..] else { unreachable!("three operands") };
        let mut out = cx.empty(q.elem(), q.rows(), q.cols());
        let mut lse = cx.empty(Elem::F32, q.rows(), self.shape.heads);
        let cost = Cost {
            kernel: Kernel::Attention,
            flops: 4.0 * pairs(&self.spans, &self.shape) * self.shape.head_dim as f64,
            bytes: (2 * q.bytes_len() + k.bytes_len() + v.bytes_len()) as f64,
        };
        cx.device.run(cost, |cpu| {
            cpu.attention(out.output(), lse.f32_mut(), q.input(), k.input(), v.input(), &self.spans, &self.shape)
        });
        self.lse = needs_grad.then_some(lse);
        vec![out]
    }
    fn saved(&mut self) -> Vec<&mut Option<Tensor>> {
        vec![&mut self.lse]
    }
    fn reads(&self, _: &Question, outputs: &[Var]) -> Vec<Var> {
        vec![self.q, self.k, self.v, outputs[0]]
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        let Some(dout) = walk.take_grad(outputs[0]) else { return };
        let (q, k, v, out) = (walk.value(self.q), walk.value(self.k), walk.value(self.v), walk.value(outputs[0]));
        let lse = self.lse.as_ref().expect("recorded with a gradient in view");
        let like = |t: &Tensor| Tensor::empty(walk.device, t.elem(), t.rows(), t.cols(), Purpose::Activations);
        let (mut dq, mut dk, mut dv) = (like(&q), like(&k), like(&v));
        let cost = Cost {
            kernel: Kernel::AttentionBwd,
            flops: 10.0 * pairs(&self.spans, &self.shape) * self.shape.head_dim as f64,
            bytes: (4 * q.bytes_len() + 4 * k.bytes_len()) as f64,
        };
        walk.device.run(cost, |cpu| {
            cpu.attention_bwd(
                dq.output(),
                dk.output(),
                dv.output(),
                dout.input(),
                out.input(),
                lse.f32(),
                q.input(),
                k.input(),
                v.input(),
                &self.spans,
                &self.shape,
            )
        });
        walk.add(self.q, dq);
        walk.add(self.k, dk);
        walk.add(self.v, dv);
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use crate::conformance::{M, Sample};
    use crate::kernels::{AttnShape, Span};

    pub fn reference(q: &M, k: &M, v: &M, spans: &[Span], s: &AttnShape) -> M {
        let (d, group) = (s.head_dim, s.heads / s.kv_heads);
        let mut out = M::zeros(q.rows, q.cols);
        for span in spans {
            for i in 0..span.q_len {
                let (row, position) = (span.q_start + i, span.kv_len - span.q_len + i);
                for h in 0..s.heads {
                    let kv = h / group;
                    let seen = |j: usize| (!s.causal || j <= position) && s.window.is_none_or(|w| j + w > position);
                    let score = |j: usize| -> f64 {
                        (0..d).map(|x| q.at(row, h * d + x) * k.at(span.kv_start + j, kv * d + x)).sum::<f64>()
                            * s.scale as f64
                    };
                    let e: Vec<(usize, f64)> =
                        (0..span.kv_len).filter(|&j| seen(j)).map(|j| (j, score(j).exp())).collect();
                    let total: f64 = e.iter().map(|x| x.1).sum();
                    for x in 0..d {
                        let value: f64 = e.iter().map(|&(j, w)| w * v.at(span.kv_start + j, kv * d + x)).sum();
                        out.set(row, h * d + x, value / total);
                    }
                }
            }
        }
        out
    }

    pub fn samples() -> Vec<Sample> {
        let shape = |heads, kv_heads, head_dim, window| AttnShape {
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f32).powf(-0.5),
            causal: true,
            window,
        };
        let span = |start, len| Span { q_start: start, q_len: len, kv_start: start, kv_len: len };
        let cases = [
            ("causal, grouped", shape(4, 2, 16, None), vec![span(0, 13)]),
            ("ragged", shape(2, 2, 8, None), vec![span(0, 5), span(5, 1), span(6, 9)]),
            ("sliding window", shape(2, 1, 16, Some(4)), vec![span(0, 11), span(11, 3)]),
            ("three heads of 96 to one", shape(3, 1, 96, None), vec![span(0, 3), span(3, 2)]),
            ("bidirectional", AttnShape { causal: false, ..shape(2, 1, 8, None) }, vec![span(0, 6)]),
        ];
        cases
            .into_iter()
            .map(|(name, s, spans)| {
                let rows = spans.iter().map(|s: &Span| s.q_len).sum();
                let (wide, narrow) = ((rows, s.heads * s.head_dim), (rows, s.kv_heads * s.head_dim));
                let (for_graph, for_reference): (std::sync::Arc<[Span]>, _) = (spans.clone().into(), spans);
                Sample::new(
                    &format!("attention {name}"),
                    &[wide, narrow, narrow],
                    &[],
                    move |g, x, _| vec![g.attention(x[0], x[1], x[2], &for_graph, s)],
                    move |x, _| vec![reference(&x[0], &x[1], &x[2], &for_reference, &s)],
                )
            })
            .collect()
    }
}
