//! LayerNorm (Ba et al. 2016): `out = (x - mean(x)) · rstd · w + b`, `rstd = (var(x) + eps)^-1/2`, over whole rows. Alone, or
//! fused with the residual sum before it.

use ounce_kernels::{Cpu, In, Out};

use super::Op;
use super::norm::{AfterSum, Alone, Norm};
use crate::Tensor;
use crate::graph::{Graph, Var};
use crate::params::{ParamId, Params};

/// Its statistics: `mean` and `rstd`.
pub(crate) struct LayerNorm {
    weight: ParamId,
    bias: ParamId,
    eps: f32,
}

impl Graph<'_> {
    /// `[t, c] -> [t, c]`; `weight` and `bias` `[c]`.
    pub fn layernorm(&mut self, x: Var, weight: ParamId, bias: ParamId, eps: f32) -> Var {
        self.apply1(Op::LayerNorm(Alone::new(x, LayerNorm { weight, bias, eps })))
    }

    /// `(a + b, layernorm(a + b))`.
    pub fn add_layernorm(&mut self, a: Var, b: Var, weight: ParamId, bias: ParamId, eps: f32) -> (Var, Var) {
        let out = self.apply(Op::AddLayerNorm(AfterSum::new(a, b, LayerNorm { weight, bias, eps })));
        (out[0], out[1])
    }
}

impl LayerNorm {
    fn vectors<'a>(&self, params: &'a Params) -> (&'a [f32], &'a [f32]) {
        (params.weight(self.weight).vector(), params.weight(self.bias).vector())
    }
}

impl Norm for LayerNorm {
    const STATISTICS: usize = 2;

    fn weight(&self) -> ParamId {
        self.weight
    }
    fn bias(&self) -> Option<ParamId> {
        Some(self.bias)
    }
    fn forward(&self, cpu: &Cpu, params: &Params, out: Out, statistics: &mut [Tensor], x: In, rows: usize, c: usize) {
        let [mean, rstd] = statistics else { unreachable!("a norm has as many statistics as it says") };
        let (w, b) = self.vectors(params);
        cpu.layernorm(out, mean.f32_mut(), rstd.f32_mut(), x, w, b, self.eps, rows, c)
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
        let [mean, rstd] = statistics else { unreachable!("a norm has as many statistics as it says") };
        let (w, bias) = self.vectors(params);
        cpu.add_layernorm(sum, out, mean.f32_mut(), rstd.f32_mut(), a, b, w, bias, self.eps, rows, c)
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
        let (w, [mean, rstd]) = (self.vectors(params).0, [statistics[0].f32(), statistics[1].f32()]);
        cpu.layernorm_bwd(dx, dw_rows, dy, x, w, mean, rstd, accumulate, rows, c)
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use crate::conformance::{M, Sample};

    fn reference(x: &M, w: &M, b: &M) -> M {
        let c = x.cols as f64;
        let mean = |i: usize| x.row(i).iter().sum::<f64>() / c;
        let rstd = |i: usize| (x.row(i).iter().map(|v| (v - mean(i)).powi(2)).sum::<f64>() / c + 1e-5).powf(-0.5);
        M::from_fn(x.rows, x.cols, |i, j| (x.at(i, j) - mean(i)) * rstd(i) * w.at(0, j) + b.at(0, j))
    }

    pub fn samples() -> Vec<Sample> {
        vec![
            Sample::new(
                "layernorm",
                &[(4, 37)],
                &[(1, 37), (1, 37)],
                |g, x, p| vec![g.layernorm(x[0], p[0], p[1], 1e-5)],
                |x, p| vec![reference(&x[0], &p[0], &p[1])],
            ),
            Sample::new(
                "add_layernorm",
                &[(5, 37), (5, 37)],
                &[(1, 37), (1, 37)],
                |g, x, p| {
                    let (sum, out) = g.add_layernorm(x[0], x[1], p[0], p[1], 1e-5);
                    vec![sum, out]
                },
                |x, p| {
                    let sum = M::from_fn(5, 37, |i, j| x[0].at(i, j) + x[1].at(i, j));
                    let out = reference(&sum, &p[0], &p[1]);
                    vec![sum, out]
                },
            ),
        ]
    }
}
