//! `out = act(x)`, elementwise: the feed-forward activation of GPT-2.

use ounce_kernels::Act;

use super::{Op, Rule};
use crate::graph::{Context, Graph, Var};
use crate::tape::{Backward, Question};
use crate::{Cost, Tensor};

pub(crate) struct ActOp {
    x: Var,
    act: Act,
}

impl Graph<'_> {
    /// `[t, c] -> [t, c]`.
    pub fn act(&mut self, x: Var, act: Act) -> Var {
        self.apply1(Op::Act(ActOp { x, act }))
    }
}

impl Rule for ActOp {
    fn operands(&self) -> Vec<Var> {
        vec![self.x]
    }
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, _: bool) -> Vec<Tensor> {
        vec![self.rebuild(cx, 0, &inputs)]
    }
    fn reads(&self, _: &Question, _: &[Var]) -> Vec<Var> {
        vec![self.x]
    }
    fn rebuilt_from(&self, _: usize, _: &[Var]) -> Option<Vec<Var>> {
        Some(vec![self.x])
    }
    fn rebuild(&self, cx: &Context, _: usize, inputs: &[Tensor]) -> Tensor {
        let x = &inputs[0];
        let mut out = cx.empty(x.elem(), x.rows(), x.cols());
        cx.device
            .run(Cost::elementwise(x.len(), 2 * x.elem().bytes()), |cpu| cpu.act(out.output(), x.input(), self.act));
        out
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        let Some(dy) = walk.take_grad(outputs[0]) else { return };
        let x = walk.value(self.x);
        let mut dx = walk.empty(&x);
        let cost = Cost::elementwise(x.len(), 3 * x.elem().bytes());
        walk.device.run(cost, |cpu| cpu.act_bwd(dx.output(), dy.input(), x.input(), self.act));
        walk.add(self.x, dx);
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use crate::conformance::{M, Sample};
    use ounce_kernels::Act;

    pub fn value(x: f64, act: Act) -> f64 {
        match act {
            Act::Silu => x / (1.0 + (-x).exp()),
            Act::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Act::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
            Act::Relu => x.max(0.0),
        }
    }

    /// Maclaurin series: exact to f64 for the small arguments of the samples.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    pub fn samples() -> Vec<Sample> {
        [Act::Silu, Act::GeluTanh, Act::Gelu]
            .into_iter()
            .map(|act| {
                Sample::new(
                    &format!("act {act:?}"),
                    &[(5, 33)],
                    &[],
                    move |g, x, _| vec![g.act(x[0], act)],
                    move |x, _| vec![M::map(&x[0], |v| value(v, act))],
                )
            })
            .collect()
    }
}
