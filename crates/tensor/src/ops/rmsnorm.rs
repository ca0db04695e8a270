//! RMSNorm (Zhang & Sennrich 2019): `out = x · rstd · (w + add)`, `rstd = (mean(x²) + eps)^-1/2`, over groups of `c` columns
//! (whole rows, or single heads). `add` is 1 for Gemma, which stores `w - 1`. Alone, or fused with the residual sum before it.

use ounce_kernels::{Cpu, In, Out};

use super::Op;
use super::norm::{AfterSum, Alone, Norm};
use crate::Tensor;
use crate::graph::{Graph, Var};
use crate::params::{ParamId, Params};

/// Its statistics: `rstd`.
pub(crate) struct RmsNorm {
    weight: ParamId,
    add: f32,
    eps: f32,
}

impl Graph<'_> {
    /// `[t, g·c] -> [t, g·c]` with `weight [c]`.
    pub fn rmsnorm(&mut self, x: Var, weight: ParamId, add: f32, eps: f32) -> Var {
        self.apply1(Op::RmsNorm(Alone::new(x, RmsNorm { weight, add, eps })))
    }

    /// `(a + b, rmsnorm(a + b))`.
    pub fn add_rmsnorm(&mut self, a: Var, b: Var, weight: ParamId, add: f32, eps: f32) -> (Var, Var) {
        let out = self.apply(Op::AddRmsNorm(AfterSum::new(a, b, RmsNorm { weight, add, eps })));
        (out[0], out[1])
    }
}

impl Norm for RmsNorm {
    const STATISTICS: usize = 1;

    fn weight(&self) -> ParamId {
        self.weight
    }
    fn forward(&self, cpu: &Cpu, params: &Params, out: Out, statistics: &mut [Tensor], x: In, rows: usize, c: usize) {
        let w = params.weight(self.weight).vector();
        cpu.rmsnorm(out, statistics[0].f32_mut(), x, w, self.add, self.eps, rows, c)
    }
    fn add_forward(
        &self,
        cpu: &Cpu,
        params: &Params,
        [sum, out]: [Out; 2],
        statistics: &mut [Tensor],
        [a, b]: [In; 2],
        rows: usize,
        c: usize,
    ) {
        let w = params.weight(self.weight).vector();
        cpu.add_rmsnorm(sum, out, statistics[0].f32_mut(), a, b, w, self.add, self.eps, rows, c)
    }
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
    ) {
        let w = params.weight(self.weight).vector();
        cpu.rmsnorm_bwd(dx, dw_rows, dy, x, w, self.add, statistics[0].f32(), accumulate, rows, c)
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
