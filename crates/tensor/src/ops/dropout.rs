//! Inverted dropout (Srivastava et al. 2014): elements are zeroed with probability `p`, the others divided by `1 - p`.
//! The mask is a function of (seed, step, segment, op, row, column) and is never stored.

use super::{Op, Rule};
use crate::graph::{Context, Graph, Var};
use crate::tape::Backward;
use crate::{Cost, Tensor};

pub(crate) struct Dropout {
    x: Var,
    p: f32,
    key: u64,
    first_row: u64,
}

impl Graph<'_> {
    /// `[t, c] -> [t, c]`; `x` itself outside training or for `p = 0`. `first_row`: number of row 0 in the run's order.
    pub fn dropout(&mut self, x: Var, p: f32, first_row: u64) -> Var {
        if p == 0.0 {
            return x;
        }
        match self.next_key() {
            Some(key) => self.apply1(Op::Dropout(Dropout { x, p, key, first_row })),
            None => x,
        }
    }
}

impl Dropout {
    fn run(&self, device: &crate::Device, x: &Tensor, out: &mut Tensor) {
        let cost = Cost::elementwise(x.len(), 2 * x.elem().bytes());
        device.run(cost, |cpu| cpu.dropout(out.output(), x.input(), self.p, self.key, self.first_row, x.cols()));
    }
}

impl Rule for Dropout {
    fn operands(&self) -> Vec<Var> {
        vec![self.x]
    }
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, _: bool) -> Vec<Tensor> {
        vec![self.rebuild(cx, 0, &inputs)]
    }
    fn rebuilt_from(&self, _: usize, _: &[Var]) -> Option<Vec<Var>> {
        Some(vec![self.x])
    }
    fn rebuild(&self, cx: &Context, _: usize, inputs: &[Tensor]) -> Tensor {
        let mut out = cx.empty(inputs[0].elem(), inputs[0].rows(), inputs[0].cols());
        self.run(cx.device, &inputs[0], &mut out);
        out
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        let Some(dy) = walk.take_grad(outputs[0]) else { return };
        let mut dx = walk.empty(&dy);
        self.run(walk.device, &dy, &mut dx);
        walk.add(self.x, dx);
    }
}
