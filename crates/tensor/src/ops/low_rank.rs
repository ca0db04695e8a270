//! `y += scale · (x Aᵀ) Bᵀ`: the low-rank update of a linear layer (LoRA, Hu et al. 2021). Works in place on `y`.

use super::{Op, Rule, low_rank_rows};
use crate::graph::{Context, Graph, Mode, Var};
use crate::params::ParamId;
use crate::tape::{Backward, Question};
use crate::{Purpose, Tensor};

pub(crate) struct LowRank {
    y: Var,
    x: Var,
    a: ParamId,
    b: ParamId,
    scale: f32,
    /// `scale · x Aᵀ`, `[t, r]`.
    u: Option<Tensor>,
}

impl Graph<'_> {
    /// `y [t, n]`, `x [t, k]`, `a [r, k]`, `b [n, r]` `-> [t, n]`. `y` is consumed.
    pub fn low_rank(&mut self, y: Var, x: Var, a: ParamId, b: ParamId, scale: f32) -> Var {
        self.apply1(Op::LowRank(LowRank { y, x, a, b, scale, u: None }))
    }
}

impl Rule for LowRank {
    fn operands(&self) -> Vec<Var> {
        vec![self.y, self.x]
    }
    fn params(&self) -> Vec<ParamId> {
        vec![self.a, self.b]
    }
    fn consumes(&self, i: usize) -> bool {
        i == 0
    }
    fn forward(&mut self, cx: &Context, mut inputs: Vec<Tensor>, needs_grad: bool) -> Vec<Tensor> {
        let x = inputs.pop().expect("two operands");
        let mut y = inputs.pop().expect("two operands").into_unique(cx.device);
        let (a, b) = (cx.params.weight(self.a), cx.params.weight(self.b));
        if matches!(cx.mode, Mode::Infer { .. }) {
            low_rank_rows::update(cx, &mut y, 0, &x, a, b, self.scale);
            return vec![y];
        }
        let mut u = cx.empty(x.elem(), x.rows(), a.shape().0);
        a.apply(cx.device, &mut u, &x, false);
        let u = u.scaled(cx.device, self.scale);
        b.apply(cx.device, &mut y, &u, true);
        self.u = needs_grad.then_some(u);
        vec![y]
    }
    fn saved(&mut self) -> Vec<&mut Option<Tensor>> {
        vec![&mut self.u]
    }
    fn reads(&self, ask: &Question, _: &[Var]) -> Vec<Var> {
        if ask.wants(self.a) { vec![self.x] } else { Vec::new() }
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        let Some(dy) = walk.take_grad(outputs[0]) else { return };
        if walk.wants(self.b) {
            walk.sink.outer(walk.device, self.b, &dy, self.u.as_ref().expect("recorded"));
        }
        if walk.wants(self.a) || walk.needs(self.x) {
            let rank = walk.params.weight(self.a).shape().0;
            let mut du = Tensor::empty(walk.device, dy.elem(), dy.rows(), rank, Purpose::Activations);
            walk.params.weight(self.b).apply_t(walk.device, &mut du, &dy, false);
            let du = du.scaled(walk.device, self.scale);
            if walk.wants(self.a) {
                let x = walk.value(self.x);
                walk.sink.outer(walk.device, self.a, &du, &x);
            }
            if walk.needs(self.x) {
                let params = walk.params;
                walk.accumulate(self.x, |device, dx, accumulate| {
                    params.weight(self.a).apply_t(device, dx, &du, accumulate)
                });
            }
        }
        walk.add(self.y, dy);
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use crate::conformance::{M, Sample};

    pub fn samples() -> Vec<Sample> {
        vec![Sample::new(
            "low_rank",
            &[(9, 11), (9, 20)],
            &[(4, 20), (11, 4)],
            |g, x, p| vec![g.low_rank(x[0], x[1], p[0], p[1], 1.5)],
            |x, p| {
                let update = x[1].times_t(&p[0]).times_t(&p[1]);
                vec![M::from_fn(9, 11, |i, j| x[0].at(i, j) + 1.5 * update.at(i, j))]
            },
        )]
    }
}
