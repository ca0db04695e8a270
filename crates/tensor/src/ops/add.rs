//! `out = a + b`: residual connections, position embeddings.

use super::{Op, Rule};
use crate::graph::{Context, Graph, Var};
use crate::tape::Backward;
use crate::{Cost, Tensor};

pub(crate) struct Add {
    a: Var,
    b: Var,
}

impl Graph<'_> {
    /// `[t, c] + [t, c]`.
    pub fn add(&mut self, a: Var, b: Var) -> Var {
        self.apply1(Op::Add(Add { a, b }))
    }
}

impl Rule for Add {
    fn operands(&self) -> Vec<Var> {
        vec![self.a, self.b]
    }
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, _: bool) -> Vec<Tensor> {
        let (a, b) = (&inputs[0], &inputs[1]);
        assert_eq!((a.rows(), a.cols(), a.elem()), (b.rows(), b.cols(), b.elem()), "add {a:?} {b:?}");
        let mut out = cx.empty(a.elem(), a.rows(), a.cols());
        let cost = Cost::elementwise(a.len(), 3 * a.elem().bytes());
        cx.device.run(cost, |cpu| cpu.add(out.output(), a.input(), b.input()));
        vec![out]
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        let Some(dy) = walk.take_grad(outputs[0]) else { return };
        walk.add(self.a, dy.clone());
        walk.add(self.b, dy);
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use crate::conformance::{M, Sample};

    pub fn samples() -> Vec<Sample> {
        let sum = |a: &M, b: &M| M::from_fn(a.rows, a.cols, |i, j| a.at(i, j) + b.at(i, j));
        vec![
            Sample::new(
                "add",
                &[(3, 17), (3, 17)],
                &[],
                |g, x, _| vec![g.add(x[0], x[1])],
                move |x, _| vec![sum(&x[0], &x[1])],
            ),
            Sample::new(
                "add to itself",
                &[(4, 8)],
                &[],
                |g, x, _| vec![g.add(x[0], x[0])],
                move |x, _| vec![sum(&x[0], &x[0])],
            ),
        ]
    }
}
