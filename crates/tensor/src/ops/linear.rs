//! `y_i = x W_iᵀ + b_i`: one linear layer, or several that read the same input. A weight may be stored in any format; a frozen
//! one costs no gradient and keeps no input.

use super::{Op, Rule};
use crate::device::{Cost, Device};
use crate::graph::{Context, Graph, Mode, Var};
use crate::params::ParamId;
use crate::tape::{Backward, Question};
use crate::{Elem, Interleaved, Tensor, interleaved};

pub(crate) struct Linear {
    x: Var,
    parts: Vec<Part>,
    /// Element type of `y`: that of `x`, or f32 for logits.
    out: Option<Elem>,
}

/// Weight and bias.
type Part = (ParamId, Option<ParamId>);

impl Graph<'_> {
    /// `[t, k] -> [t, n]` with `weight [n, k]` and `bias [n]`.
    pub fn linear(&mut self, x: Var, weight: ParamId, bias: Option<ParamId>) -> Var {
        self.linears(x, &[(weight, bias)])[0]
    }

    /// Several linear layers on one input.
    pub fn linears(&mut self, x: Var, parts: &[(ParamId, Option<ParamId>)]) -> Vec<Var> {
        self.apply(Op::Linear(Linear { x, parts: parts.to_vec(), out: None }))
    }

    /// The same with an f32 result, whatever the type of `x`.
    pub fn linear_f32(&mut self, x: Var, weight: ParamId, bias: Option<ParamId>) -> Var {
        self.apply1(Op::Linear(Linear { x, parts: vec![(weight, bias)], out: Some(Elem::F32) }))
    }
}

impl Rule for Linear {
    fn operands(&self) -> Vec<Var> {
        vec![self.x]
    }
    fn params(&self) -> Vec<ParamId> {
        self.parts.iter().flat_map(|&(weight, bias)| bias.into_iter().chain([weight])).collect()
    }
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, _: bool) -> Vec<Tensor> {
        let x = &inputs[0];
        let rows = |&(weight, _): &Part| cx.params.weight(weight).shape().0;
        let elem = self.out.unwrap_or(x.elem());
        let mut ys: Vec<Tensor> = self.parts.iter().map(|part| cx.empty(elem, x.rows(), rows(part))).collect();
        let int8 = cx.mode == Mode::Infer { int8: true } && x.elem() == Elem::F32;
        let side_by_side: Option<Vec<&Interleaved>> =
            self.parts.iter().map(|&(weight, _)| cx.params[weight].interleaved.as_ref()).collect();
        match side_by_side.filter(|_| int8) {
            Some(weights) => interleaved::apply(cx.device, &mut ys, x, &weights),
            None => {
                for (y, &(weight, _)) in ys.iter_mut().zip(&self.parts) {
                    let weight = cx.params.weight(weight);
                    // In inference a row's bits do not depend on the rows beside it.
                    match cx.mode {
                        Mode::Infer { .. } if int8 && weight.dtype().is_quantized() => {
                            weight.apply_int8(cx.device, y, x)
                        }
                        Mode::Infer { .. } => weight.apply_by_rows(cx.device, y, 0, x, false),
                        Mode::Record | Mode::RecordLean | Mode::Forward => weight.apply(cx.device, y, x, false),
                    }
                }
            }
        }
        for (y, &(_, bias)) in ys.iter_mut().zip(&self.parts) {
            let Some(bias) = bias else { continue };
            cx.device.run(Cost::elementwise(y.len(), 2 * y.elem().bytes()), |cpu| {
                let n = y.cols();
                cpu.add_bias(y.output(), None, cx.params.weight(bias).vector(), n)
            });
        }
        ys
    }
    fn reads(&self, ask: &Question, _: &[Var]) -> Vec<Var> {
        if self.parts.iter().any(|&(weight, _)| ask.wants(weight)) { vec![self.x] } else { Vec::new() }
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        for (&(weight, bias), &output) in self.parts.iter().zip(outputs).rev() {
            let Some(dy) = walk.take_grad(output) else { continue };
            if let Some(bias) = bias.filter(|b| walk.wants(*b)) {
                walk.sink.per_row(walk.device, bias, &dy);
            }
            let x_elem = walk.elem(self.x);
            let dy = cast(walk.device, dy, x_elem);
            if walk.wants(weight) {
                let x = walk.value(self.x);
                walk.sink.outer(walk.device, weight, &dy, &x);
            }
            if walk.needs(self.x) {
                let params = walk.params;
                walk.accumulate(self.x, |device, dx, accumulate| {
                    params.weight(weight).apply_t(device, dx, &dy, accumulate)
                });
            }
        }
    }
}

/// `t` in another element type; itself if it has it already.
pub(crate) fn cast(device: &Device, t: Tensor, elem: Elem) -> Tensor {
    if t.elem() == elem {
        return t;
    }
    let mut out = Tensor::empty(device, elem, t.rows(), t.cols(), t.purpose());
    device.run(Cost::elementwise(t.len(), 6), |cpu| cpu.scale(out.output(), t.input(), 1.0));
    out
}

#[cfg(test)]
pub(crate) mod samples {
    use crate::conformance::{M, Sample};

    pub fn samples() -> Vec<Sample> {
        vec![
            Sample::new(
                "linear",
                &[(7, 33)],
                &[(12, 33)],
                |g, x, p| vec![g.linear(x[0], p[0], None)],
                |x, p| vec![x[0].times_t(&p[0])],
            ),
            Sample::new(
                "linear with bias",
                &[(3, 8)],
                &[(5, 8), (1, 5)],
                |g, x, p| vec![g.linear(x[0], p[0], Some(p[1]))],
                |x, p| {
                    let y = x[0].times_t(&p[0]);
                    vec![M::from_fn(3, 5, |i, j| y.at(i, j) + p[1].at(0, j))]
                },
            ),
            Sample::new(
                "linears on one input",
                &[(6, 16)],
                &[(9, 16), (5, 16), (1, 5)],
                |g, x, p| g.linears(x[0], &[(p[0], None), (p[1], Some(p[2]))]),
                |x, p| {
                    let y = x[0].times_t(&p[1]);
                    vec![x[0].times_t(&p[0]), M::from_fn(6, 5, |i, j| y.at(i, j) + p[2].at(0, j))]
                },
            ),
            Sample::new(
                "one input, two linears",
                &[(6, 16)],
                &[(9, 16), (9, 16)],
                |g, x, p| {
                    let (a, b) = (g.linear(x[0], p[0], None), g.linear(x[0], p[1], None));
                    vec![g.add(a, b)]
                },
                |x, p| {
                    let (a, b) = (x[0].times_t(&p[0]), x[0].times_t(&p[1]));
                    vec![M::from_fn(6, 9, |i, j| a.at(i, j) + b.at(i, j))]
                },
            ),
        ]
    }
}
