//! RMSNorm (Zhang & Sennrich 2019): `out = x · rstd · (w + add)`, `rstd = (mean(x²) + eps)^-1/2`, over groups of `c` columns
//! (whole rows, or single heads). `add` is 1 for Gemma, which stores `w - 1`. Alone, or fused with the residual sum before it.

use super::{Op, Rule};
use crate::graph::{Context, Graph, Var};
use crate::params::ParamId;
use crate::tape::{Backward, Question};
use crate::{Cost, Elem, Tensor};

/// What both forms share.
#[derive(Clone, Copy)]
struct Norm {
    weight: ParamId,
    add: f32,
    eps: f32,
}

pub(crate) struct RmsNorm {
    x: Var,
    norm: Norm,
    rstd: Option<Tensor>,
}

pub(crate) struct AddRmsNorm {
    a: Var,
    b: Var,
    norm: Norm,
    rstd: Option<Tensor>,
}

impl Graph<'_> {
    /// `[t, g·c] -> [t, g·c]` with `weight [c]`.
    pub fn rmsnorm(&mut self, x: Var, weight: ParamId, add: f32, eps: f32) -> Var {
        self.apply1(Op::RmsNorm(RmsNorm { x, norm: Norm { weight, add, eps }, rstd: None }))
    }

    /// `(a + b, rmsnorm(a + b))`.
    pub fn add_rmsnorm(&mut self, a: Var, b: Var, weight: ParamId, add: f32, eps: f32) -> (Var, Var) {
        let out = self.apply(Op::AddRmsNorm(AddRmsNorm { a, b, norm: Norm { weight, add, eps }, rstd: None }));
        (out[0], out[1])
    }
}

impl Norm {
    fn run(&self, cx: &Context, x: &Tensor) -> (Tensor, Tensor) {
        let c = cx.params.weight(self.weight).shape().1;
        let rows = x.len() / c;
        let (mut out, mut rstd) = (cx.empty(x.elem(), x.rows(), x.cols()), cx.empty(Elem::F32, rows, 1));
        cx.device.run(Cost::elementwise(x.len(), 2 * x.elem().bytes()), |cpu| {
            let w = cx.params.weight(self.weight).vector();
            cpu.rmsnorm(out.output(), rstd.f32_mut(), x.input(), w, self.add, self.eps, rows, c)
        });
        (out, rstd)
    }

    fn backward(&self, walk: &mut Backward, x: Var, rstd: &Tensor, dy: Tensor) {
        let wants = walk.wants(self.weight);
        let x_value = walk.value(x);
        let c = walk.params.weight(self.weight).shape().1;
        let rows = x_value.len() / c;
        let mut dw_rows = wants.then(|| walk.empty(&x_value));
        let params = walk.params;
        let cost = Cost::elementwise(x_value.len(), (3 + wants as usize) * x_value.elem().bytes());
        walk.accumulate(x, |device, dx, accumulate| {
            device.run(cost, |cpu| {
                let (w, dw) = (params.weight(self.weight).vector(), dw_rows.as_mut().map(|t| t.output()));
                let (dy, x) = (dy.input(), x_value.input());
                cpu.rmsnorm_bwd(dx.output(), dw, dy, x, w, self.add, rstd.f32(), accumulate, rows, c)
            })
        });
        if let Some(d) = dw_rows {
            walk.sink.per_row(walk.device, self.weight, &d.reshape(rows, c));
        }
    }
}

impl Rule for RmsNorm {
    fn operands(&self) -> Vec<Var> {
        vec![self.x]
    }
    fn params(&self) -> Vec<ParamId> {
        vec![self.norm.weight]
    }
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, needs_grad: bool) -> Vec<Tensor> {
        let (out, rstd) = self.norm.run(cx, &inputs[0]);
        self.rstd = needs_grad.then_some(rstd);
        vec![out]
    }
    fn saved(&mut self) -> Vec<&mut Option<Tensor>> {
        vec![&mut self.rstd]
    }
    fn reads(&self, _: &Question, _: &[Var]) -> Vec<Var> {
        vec![self.x]
    }
    fn rebuilt_from(&self, _: usize, _: &[Var]) -> Option<Vec<Var>> {
        Some(vec![self.x])
    }
    fn rebuild(&self, cx: &Context, _: usize, inputs: &[Tensor]) -> Tensor {
        self.norm.run(cx, &inputs[0]).0
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        let Some(dy) = walk.take_grad(outputs[0]) else { return };
        self.norm.backward(walk, self.x, self.rstd.as_ref().expect("recorded"), dy);
    }
}

impl Rule for AddRmsNorm {
    fn operands(&self) -> Vec<Var> {
        vec![self.a, self.b]
    }
    fn params(&self) -> Vec<ParamId> {
        vec![self.norm.weight]
    }
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, needs_grad: bool) -> Vec<Tensor> {
        let (a, b) = (&inputs[0], &inputs[1]);
        let (rows, c) = (a.rows(), a.cols());
        assert_eq!((rows, c, a.elem()), (b.rows(), b.cols(), b.elem()), "add_rmsnorm {a:?} {b:?}");
        let (mut sum, mut out) = (cx.empty(a.elem(), rows, c), cx.empty(a.elem(), rows, c));
        let mut rstd = cx.empty(Elem::F32, rows, 1);
        cx.device.run(Cost::elementwise(a.len(), 4 * a.elem().bytes()), |cpu| {
            let w = cx.params.weight(self.norm.weight).vector();
            let (add, eps) = (self.norm.add, self.norm.eps);
            cpu.add_rmsnorm(sum.output(), out.output(), rstd.f32_mut(), a.input(), b.input(), w, add, eps, rows, c)
        });
        self.rstd = needs_grad.then_some(rstd);
        vec![sum, out]
    }
    fn saved(&mut self) -> Vec<&mut Option<Tensor>> {
        vec![&mut self.rstd]
    }
    fn reads(&self, _: &Question, outputs: &[Var]) -> Vec<Var> {
        vec![outputs[0]]
    }
    fn rebuilt_from(&self, output: usize, outputs: &[Var]) -> Option<Vec<Var>> {
        (output == 1).then(|| vec![outputs[0]])
    }
    fn rebuild(&self, cx: &Context, _: usize, inputs: &[Tensor]) -> Tensor {
        self.norm.run(cx, &inputs[0]).0
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        if let Some(dy) = walk.take_grad(outputs[1]) {
            self.norm.backward(walk, outputs[0], self.rstd.as_ref().expect("recorded"), dy);
        }
        let Some(dsum) = walk.take_grad(outputs[0]) else { return };
        walk.add(self.a, dsum.clone());
        walk.add(self.b, dsum);
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use crate::conformance::{M, Sample};

    fn reference(x: &M, w: &M, add: f64, eps: f64) -> M {
        let c = w.cols;
        M::from_fn(x.rows, x.cols, |i, j| {
            let group = &x.row(i)[j / c * c..(j / c + 1) * c];
            let rstd = (group.iter().map(|v| v * v).sum::<f64>() / c as f64 + eps).powf(-0.5);
            x.at(i, j) * rstd * (w.at(0, j % c) + add)
        })
    }

    pub fn samples() -> Vec<Sample> {
        let rows = |name: &str, c: usize, groups: usize, add: f32| {
            Sample::new(
                name,
                &[(5, c * groups)],
                &[(1, c)],
                move |g, x, p| vec![g.rmsnorm(x[0], p[0], add, 1e-5)],
                move |x, p| vec![reference(&x[0], &p[0], add as f64, 1e-5f32 as f64)],
            )
        };
        vec![
            rows("rmsnorm", 40, 1, 0.0),
            rows("rmsnorm of heads, Gemma", 16, 3, 1.0),
            Sample::new(
                "add_rmsnorm",
                &[(5, 24), (5, 24)],
                &[(1, 24)],
                |g, x, p| {
                    let (sum, out) = g.add_rmsnorm(x[0], x[1], p[0], 0.0, 1e-6);
                    vec![sum, out]
                },
                |x, p| {
                    let sum = M::from_fn(5, 24, |i, j| x[0].at(i, j) + x[1].at(i, j));
                    let out = reference(&sum, &p[0], 0.0, 1e-6f32 as f64);
                    vec![sum, out]
                },
            ),
        ]
    }
}
