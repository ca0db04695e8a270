//! LayerNorm (Ba et al. 2016): `out = (x - mean(x)) · rstd · w + b`, `rstd = (var(x) + eps)^-1/2`.

use super::{Op, Rule};
use crate::graph::{Context, Graph, Var};
use crate::params::ParamId;
use crate::tape::{Backward, Question};
use crate::{Cost, Elem, Tensor};

pub(crate) struct LayerNorm {
    x: Var,
    weight: ParamId,
    bias: ParamId,
    eps: f32,
    mean: Option<Tensor>,
    rstd: Option<Tensor>,
}

impl Graph<'_> {
    /// `[t, c] -> [t, c]`; `weight` and `bias` `[c]`.
    pub fn layernorm(&mut self, x: Var, weight: ParamId, bias: ParamId, eps: f32) -> Var {
        self.apply1(Op::LayerNorm(LayerNorm { x, weight, bias, eps, mean: None, rstd: None }))
    }
}

impl LayerNorm {
    fn run(&self, cx: &Context, x: &Tensor) -> (Tensor, Tensor, Tensor) {
        let (rows, c) = (x.rows(), x.cols());
        let mut out = cx.empty(x.elem(), rows, c);
        let (mut mean, mut rstd) = (cx.empty(Elem::F32, rows, 1), cx.empty(Elem::F32, rows, 1));
        cx.device.run(Cost::elementwise(x.len(), 2 * x.elem().bytes()), |cpu| {
            let (w, b) = (cx.params.weight(self.weight).vector(), cx.params.weight(self.bias).vector());
            cpu.layernorm(out.output(), mean.f32_mut(), rstd.f32_mut(), x.input(), w, b, self.eps, rows, c)
        });
        (out, mean, rstd)
    }
}

impl Rule for LayerNorm {
    fn operands(&self) -> Vec<Var> {
        vec![self.x]
    }
    fn params(&self) -> Vec<ParamId> {
        vec![self.weight, self.bias]
    }
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, needs_grad: bool) -> Vec<Tensor> {
        let (out, mean, rstd) = self.run(cx, &inputs[0]);
        if needs_grad {
            (self.mean, self.rstd) = (Some(mean), Some(rstd));
        }
        vec![out]
    }
    fn saved(&mut self) -> Vec<&mut Option<Tensor>> {
        vec![&mut self.mean, &mut self.rstd]
    }
    fn reads(&self, _: &Question, _: &[Var]) -> Vec<Var> {
        vec![self.x]
    }
    fn rebuilt_from(&self, _: usize, _: &[Var]) -> Option<Vec<Var>> {
        Some(vec![self.x])
    }
    fn rebuild(&self, cx: &Context, _: usize, inputs: &[Tensor]) -> Tensor {
        self.run(cx, &inputs[0]).0
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        let Some(dy) = walk.take_grad(outputs[0]) else { return };
        let x = walk.value(self.x);
        let (rows, c) = (x.rows(), x.cols());
        if walk.wants(self.bias) {
            walk.sink.per_row(walk.device, self.bias, &dy);
        }
        let wants = walk.wants(self.weight);
        let (mut dx, mut dw_rows) = (walk.empty(&x), wants.then(|| walk.empty(&x)));
        let (mean, rstd) = (self.mean.as_ref().expect("recorded"), self.rstd.as_ref().expect("recorded"));
        let params = walk.params;
        walk.device.run(Cost::elementwise(x.len(), (3 + wants as usize) * x.elem().bytes()), |cpu| {
            let w = params.weight(self.weight).vector();
            let dw = dw_rows.as_mut().map(|t| t.output());
            cpu.layernorm_bwd(dx.output(), dw, dy.input(), x.input(), w, mean.f32(), rstd.f32(), false, rows, c)
        });
        if let Some(d) = dw_rows {
            walk.sink.per_row(walk.device, self.weight, &d);
        }
        walk.add(self.x, dx);
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use crate::conformance::{M, Sample};

    pub fn samples() -> Vec<Sample> {
        vec![Sample::new(
            "layernorm",
            &[(4, 37)],
            &[(1, 37), (1, 37)],
            |g, x, p| vec![g.layernorm(x[0], p[0], p[1], 1e-5)],
            |x, p| {
                let c = x[0].cols as f64;
                let mean = |i: usize| x[0].row(i).iter().sum::<f64>() / c;
                let rstd =
                    |i: usize| (x[0].row(i).iter().map(|v| (v - mean(i)).powi(2)).sum::<f64>() / c + 1e-5).powf(-0.5);
                vec![M::from_fn(x[0].rows, x[0].cols, |i, j| {
                    (x[0].at(i, j) - mean(i)) * rstd(i) * p[0].at(0, j) + p[1].at(0, j)
                })]
            },
        )]
    }
}
