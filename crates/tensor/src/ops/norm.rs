//! What RMSNorm and LayerNorm share: how a norm is recorded and walked back, alone or fused with the residual sum before it.
//! What a norm computes is for its own file to say.

use ounce_kernels::{Cpu, In, Out};

use super::Rule;
use crate::graph::{Context, Var};
use crate::params::{ParamId, Params};
use crate::tape::{Backward, Question};
use crate::{Cost, Elem, Tensor};

/// A norm over groups of `c` columns (whole rows, or single heads); its weight is `[c]`. Kernels see `rows` of them.
pub(crate) trait Norm {
    /// Numbers of a row that the backward pass needs.
    const STATISTICS: usize;

    fn weight(&self) -> ParamId;
    /// What is added in the end.
    fn bias(&self) -> Option<ParamId> {
        None
    }
    /// `out = norm(x)`.
    fn forward(&self, cpu: &Cpu, params: &Params, out: Out, statistics: &mut [Tensor], x: In, rows: usize, c: usize);
    /// `outs[0] = terms[0] + terms[1]`, `outs[1] = norm(outs[0])`.
    fn add_forward(
        &self,
        cpu: &Cpu,
        params: &Params,
        outs: [Out; 2],
        statistics: &mut [Tensor],
        terms: [In; 2],
        rows: usize,
        c: usize,
    );
    /// `dx` (`+=` if `accumulate`), and each row's part in the gradient of the weight.
    fn backward(
        &self,
        cpu: &Cpu,
        params: &Params,
        dx: Out,
        accumulate: bool,
        dw_rows: Option<Out>,
        dy: In,
        x: In,
        statistics: &[&Tensor],
        rows: usize,
        c: usize,
    );
}

/// `[t, g·c] -> [t, g·c]`.
pub(crate) struct Alone<N> {
    x: Var,
    norm: N,
    statistics: Vec<Option<Tensor>>,
}

/// `(a + b, norm(a + b))`, `[t, c]` all.
pub(crate) struct AfterSum<N> {
    a: Var,
    b: Var,
    norm: N,
    statistics: Vec<Option<Tensor>>,
}

impl<N: Norm> Alone<N> {
    pub fn new(x: Var, norm: N) -> Self {
        Alone { x, norm, statistics: Vec::new() }
    }
}

impl<N: Norm> AfterSum<N> {
    pub fn new(a: Var, b: Var, norm: N) -> Self {
        AfterSum { a, b, norm, statistics: Vec::new() }
    }
}

fn statistics<N: Norm>(cx: &Context, rows: usize) -> Vec<Tensor> {
    (0..N::STATISTICS).map(|_| cx.empty(Elem::F32, rows, 1)).collect()
}

fn run<N: Norm>(norm: &N, cx: &Context, x: &Tensor) -> (Tensor, Vec<Tensor>) {
    let c = cx.params.weight(norm.weight()).shape().1;
    let rows = x.len() / c;
    let (mut out, mut statistics) = (cx.empty(x.elem(), x.rows(), x.cols()), statistics::<N>(cx, rows));
    cx.device.run(Cost::elementwise(x.len(), 2 * x.elem().bytes()), |cpu| {
        norm.forward(cpu, cx.params, out.output(), &mut statistics, x.input(), rows, c)
    });
    (out, statistics)
}

fn backward<N: Norm>(norm: &N, walk: &mut Backward, x: Var, statistics: &[Option<Tensor>], dy: Tensor) {
    if let Some(bias) = norm.bias().filter(|&bias| walk.wants(bias)) {
        walk.sink.per_row(walk.device, bias, &dy);
    }
    let statistics: Vec<&Tensor> = statistics.iter().flatten().collect();
    assert_eq!(statistics.len(), N::STATISTICS, "recorded statistics of a norm");
    let (weight, x_value) = (norm.weight(), walk.value(x));
    let c = walk.params.weight(weight).shape().1;
    let rows = x_value.len() / c;
    let wants = walk.wants(weight);
    let mut dw_rows = wants.then(|| walk.empty(&x_value));
    let params = walk.params;
    let cost = Cost::elementwise(x_value.len(), (3 + wants as usize) * x_value.elem().bytes());
    walk.accumulate(x, |device, dx, accumulate| {
        device.run(cost, |cpu| {
            let (dx, dw) = (dx.output(), dw_rows.as_mut().map(|t| t.output()));
            norm.backward(cpu, params, dx, accumulate, dw, dy.input(), x_value.input(), &statistics, rows, c)
        })
    });
    if let Some(d) = dw_rows {
        walk.sink.per_row(walk.device, weight, &d.reshape(rows, c));
    }
}

fn params<N: Norm>(norm: &N) -> Vec<ParamId> {
    [norm.weight()].into_iter().chain(norm.bias()).collect()
}

/// What is kept if a backward pass may follow.
fn kept(statistics: Vec<Tensor>, needs_grad: bool) -> Vec<Option<Tensor>> {
    statistics.into_iter().filter(|_| needs_grad).map(Some).collect()
}

impl<N: Norm> Rule for Alone<N> {
    fn operands(&self) -> Vec<Var> {
        vec![self.x]
    }
    fn params(&self) -> Vec<ParamId> {
        params(&self.norm)
    }
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, needs_grad: bool) -> Vec<Tensor> {
        let (out, statistics) = run(&self.norm, cx, &inputs[0]);
        self.statistics = kept(statistics, needs_grad);
        vec![out]
    }
    fn saved(&mut self) -> Vec<&mut Option<Tensor>> {
        self.statistics.iter_mut().collect()
    }
    fn reads(&self, _: &Question, _: &[Var]) -> Vec<Var> {
        vec![self.x]
    }
    fn rebuilt_from(&self, _: usize, _: &[Var]) -> Option<Vec<Var>> {
        Some(vec![self.x])
    }
    fn rebuild(&self, cx: &Context, _: usize, inputs: &[Tensor]) -> Tensor {
        run(&self.norm, cx, &inputs[0]).0
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        let Some(dy) = walk.take_grad(outputs[0]) else { return };
        backward(&self.norm, walk, self.x, &self.statistics, dy);
    }
}

impl<N: Norm> Rule for AfterSum<N> {
    fn operands(&self) -> Vec<Var> {
        vec![self.a, self.b]
    }
    fn params(&self) -> Vec<ParamId> {
        params(&self.norm)
    }
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, needs_grad: bool) -> Vec<Tensor> {
        let (a, b) = (&inputs[0], &inputs[1]);
        let (rows, c) = (a.rows(), a.cols());
        assert_eq!((rows, c, a.elem()), (b.rows(), b.cols(), b.elem()), "a norm after the sum of {a:?} and {b:?}");
        let (mut sum, mut out) = (cx.empty(a.elem(), rows, c), cx.empty(a.elem(), rows, c));
        let mut statistics = statistics::<N>(cx, rows);
        cx.device.run(Cost::elementwise(a.len(), 4 * a.elem().bytes()), |cpu| {
            let (outs, terms) = ([sum.output(), out.output()], [a.input(), b.input()]);
            self.norm.add_forward(cpu, cx.params, outs, &mut statistics, terms, rows, c)
        });
        self.statistics = kept(statistics, needs_grad);
        vec![sum, out]
    }
    fn saved(&mut self) -> Vec<&mut Option<Tensor>> {
        self.statistics.iter_mut().collect()
    }
    fn reads(&self, _: &Question, outputs: &[Var]) -> Vec<Var> {
        vec![outputs[0]]
    }
    fn rebuilt_from(&self, output: usize, outputs: &[Var]) -> Option<Vec<Var>> {
        (output == 1).then(|| vec![outputs[0]])
    }
    fn rebuild(&self, cx: &Context, _: usize, inputs: &[Tensor]) -> Tensor {
        run(&self.norm, cx, &inputs[0]).0
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        if let Some(dy) = walk.take_grad(outputs[1]) {
            backward(&self.norm, walk, outputs[0], &self.statistics, dy);
        }
        let Some(dsum) = walk.take_grad(outputs[0]) else { return };
        walk.add(self.a, dsum.clone());
        walk.add(self.b, dsum);
    }
}
