//! `out = act(gate) · up`: the gated feed-forward of SwiGLU and GeGLU (Shazeer 2020).

use ounce_kernels::Act;

use super::{Op, Rule};
use crate::graph::{Context, Graph, Var};
use crate::tape::{Backward, Question};
use crate::{Cost, Tensor};

pub(crate) struct Glu {
    gate: Var,
    up: Var,
    act: Act,
}

impl Graph<'_> {
    /// `[t, f], [t, f] -> [t, f]`.
    pub fn glu(&mut self, gate: Var, up: Var, act: Act) -> Var {
        self.apply1(Op::Glu(Glu { gate, up, act }))
    }
}

impl Rule for Glu {
    fn operands(&self) -> Vec<Var> {
        vec![self.gate, self.up]
    }
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, _: bool) -> Vec<Tensor> {
        vec![self.rebuild(cx, 0, &inputs)]
    }
    fn reads(&self, _: &Question, _: &[Var]) -> Vec<Var> {
        vec![self.gate, self.up]
    }
    fn rebuilt_from(&self, _: usize, _: &[Var]) -> Option<Vec<Var>> {
        Some(vec![self.gate, self.up])
    }
    fn rebuild(&self, cx: &Context, _: usize, inputs: &[Tensor]) -> Tensor {
        let (gate, up) = (&inputs[0], &inputs[1]);
        let mut out = cx.empty(gate.elem(), gate.rows(), gate.cols());
        let cost = Cost::elementwise(gate.len(), 3 * gate.elem().bytes());
        cx.device.run(cost, |cpu| cpu.glu(out.output(), gate.input(), up.input(), self.act));
        out
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        let Some(dy) = walk.take_grad(outputs[0]) else { return };
        let (gate, up) = (walk.value(self.gate), walk.value(self.up));
        let (mut dgate, mut dup) = (walk.empty(&gate), walk.empty(&up));
        let cost = Cost::elementwise(gate.len(), 5 * gate.elem().bytes());
        walk.device
            .run(cost, |cpu| cpu.glu_bwd(dgate.output(), dup.output(), dy.input(), gate.input(), up.input(), self.act));
        walk.add(self.gate, dgate);
        walk.add(self.up, dup);
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use crate::conformance::{M, Sample};
    use crate::kernels::Act;
    use crate::ops::act::samples::value;

    pub fn samples() -> Vec<Sample> {
        [Act::Silu, Act::GeluTanh]
            .into_iter()
            .map(|act| {
                Sample::new(
                    &format!("glu {act:?}"),
                    &[(6, 19), (6, 19)],
                    &[],
                    move |g, x, _| vec![g.glu(x[0], x[1], act)],
                    move |x, _| vec![M::from_fn(6, 19, |i, j| value(x[0].at(i, j), act) * x[1].at(i, j))],
                )
            })
            .collect()
    }
}
