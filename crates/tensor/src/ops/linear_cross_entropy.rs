//! `loss = Σ_t weight[t] · (lse(x_t Wᵀ) - (x_t Wᵀ)[target_t])`: the output layer and the cross-entropy in one op, over chunks of
//! rows, so that the logits `[t, v]` never exist whole (as in Liger Kernel, Hsu et al. 2024). Rows of weight 0 are left out.
//!
//! The gradient of `x` is made in the forward pass while a chunk's logits are there. For the gradient of `W`, where it is
//! wanted, the gradients of the logits are kept in the element type of `x`, or made again in the backward pass
//! ([`Mode::RecordLean`]).

use std::sync::Arc;

use super::linear::cast;
use super::select_rows::{gather, spread};
use super::{Op, Rule};
use crate::device::{Cost, Device, Kernel};
use crate::graph::{Context, Graph, Mode, Var};
use crate::params::ParamId;
use crate::rows::Loss;
use crate::tape::Backward;
use crate::{Elem, Params, Purpose, Tensor};

/// A chunk's logits take at most this many bytes.
const CHUNK_BYTES: usize = 48 << 20;

pub(crate) struct LinearCrossEntropy {
    x: Var,
    weight: ParamId,
    loss: Loss,
    /// Rows of weight other than 0, and their targets and weights.
    rows: Arc<[u32]>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    /// Whether the backward pass finds the gradients of the logits.
    keeps_dlogits: bool,
    kept: Option<Kept>,
}

/// For the backward pass; over the rows of `rows` only.
struct Kept {
    x: Tensor,
    lse: Vec<f32>,
    dx: Option<Tensor>,
    /// Of each chunk, for a loss whose gradient is 1.
    dlogits: Vec<Tensor>,
}

impl Graph<'_> {
    /// `x [t, c]`, `weight [v, c]` `->` the loss `[1, 1]` and each row's cross-entropy `[t, 1]` (unweighted; 0 where the weight
    /// is 0; it carries no gradient), both f32.
    pub fn linear_cross_entropy(&mut self, x: Var, weight: ParamId, loss: &Loss) -> (Var, Var) {
        let active: Vec<usize> = (0..loss.weights.len()).filter(|&i| loss.weights[i] != 0.0).collect();
        let op = LinearCrossEntropy {
            x,
            weight,
            loss: loss.clone(),
            rows: active.iter().map(|&i| i as u32).collect(),
            targets: active.iter().map(|&i| loss.targets[i]).collect(),
            weights: active.iter().map(|&i| loss.weights[i]).collect(),
            keeps_dlogits: self.mode() == Mode::Record && self.wants(weight),
            kept: None,
        };
        let out = self.apply(Op::LinearCrossEntropy(op));
        (out[0], out[1])
    }
}

impl LinearCrossEntropy {
    /// Rows of a chunk: a multiple of 32 within the bound.
    fn chunk_rows(&self, v: usize) -> usize {
        (CHUNK_BYTES / (4 * v) / 32 * 32).clamp(32, 512)
    }

    /// Calls `visit(start, logits)` for each chunk of rows; `logits [rows, v]` is f32.
    fn chunks(&self, device: &Device, params: &Params, x: &Tensor, mut visit: impl FnMut(usize, Tensor)) {
        let weight = params.weight(self.weight);
        let v = weight.shape().0;
        let step = self.chunk_rows(v);
        for start in (0..x.rows()).step_by(step) {
            let rows = step.min(x.rows() - start);
            let mut logits = Tensor::empty(device, Elem::F32, rows, v, Purpose::Workspace);
            weight.apply(device, &mut logits, &x.view_rows(start, rows), false);
            visit(start, logits);
        }
    }

    /// Turns a chunk's logits into their gradient, in the element type of `x`.
    fn gradient(
        &self,
        device: &Device,
        start: usize,
        mut logits: Tensor,
        lse: &[f32],
        weights: &[f32],
        elem: Elem,
    ) -> Tensor {
        let (rows, v) = (logits.rows(), logits.cols());
        device.run(softmax_cost(&logits), |cpu| {
            let (lse, targets) = (&lse[start..start + rows], &self.targets[start..start + rows]);
            cpu.cross_entropy_bwd(logits.f32_mut(), lse, targets, &weights[start..start + rows], rows, v)
        });
        cast(device, logits, elem)
    }
}

fn softmax_cost(logits: &Tensor) -> Cost {
    Cost { kernel: Kernel::Softmax, flops: 4.0 * logits.len() as f64, bytes: 4.0 * logits.len() as f64 }
}

impl Rule for LinearCrossEntropy {
    fn operands(&self) -> Vec<Var> {
        vec![self.x]
    }
    fn params(&self) -> Vec<ParamId> {
        vec![self.weight]
    }
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, needs_grad: bool) -> Vec<Tensor> {
        let device = cx.device;
        let total_rows = self.loss.targets.len();
        assert_eq!(inputs[0].rows(), total_rows, "a target for every row");
        let x = gather(device, &inputs[0], &self.rows);
        let (mut row_loss, mut lse) = (vec![0f32; x.rows()], vec![0f32; x.rows()]);
        let recording = needs_grad && cx.mode.records();
        let mut dlogits_kept = Vec::new();
        let mut dx = recording.then(|| cx.empty(x.elem(), x.rows(), x.cols()));
        self.chunks(device, cx.params, &x, |start, logits| {
            let (rows, v) = (logits.rows(), logits.cols());
            device.run(softmax_cost(&logits), |cpu| {
                let (loss, lse) = (&mut row_loss[start..start + rows], &mut lse[start..start + rows]);
                cpu.cross_entropy(loss, lse, logits.f32(), &self.targets[start..start + rows], rows, v)
            });
            if let Some(dx) = &mut dx {
                let dlogits = self.gradient(device, start, logits, &lse, &self.weights, x.elem());
                let mut part = cx.empty(x.elem(), rows, x.cols());
                cx.params.weight(self.weight).apply_t(device, &mut part, &dlogits, false);
                device.run(Cost::elementwise(part.len(), 2 * x.elem().bytes()), |_| dx.copy_rows(start, &part));
                if self.keeps_dlogits {
                    dlogits_kept.push(dlogits);
                }
            }
        });
        let sum: f64 = row_loss.iter().zip(&self.weights).map(|(&l, &w)| l as f64 * w as f64).sum();
        let mut each = vec![0f32; total_rows];
        for (&row, &loss) in self.rows.iter().zip(&row_loss) {
            each[row as usize] = loss;
        }
        self.kept = recording.then_some(Kept { x, lse, dx, dlogits: dlogits_kept });
        let purpose = Purpose::Activations;
        vec![
            Tensor::from_f32(device, &[sum as f32], 1, 1, purpose),
            Tensor::from_f32(device, &each, total_rows, 1, purpose),
        ]
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        let Some(dloss) = walk.take_grad(outputs[0]) else { return };
        let scale = if walk.device.is_dry() { 1.0 } else { dloss.f32()[0] };
        let kept = self.kept.as_ref().expect("recorded");
        if walk.wants(self.weight) && self.keeps_dlogits {
            // `x` is the smaller one to scale.
            let x = kept.x.scaled(walk.device, scale);
            let mut start = 0;
            for d in &kept.dlogits {
                walk.sink.outer(walk.device, self.weight, d, &x.view_rows(start, d.rows()));
                start += d.rows();
            }
        } else if walk.wants(self.weight) {
            let weights: Vec<f32> = self.weights.iter().map(|w| w * scale).collect();
            let (device, params) = (walk.device, walk.params);
            self.chunks(device, params, &kept.x, |start, logits| {
                let rows = logits.rows();
                let d = self.gradient(device, start, logits, &kept.lse, &weights, kept.x.elem());
                walk.sink.outer(device, self.weight, &d, &kept.x.view_rows(start, rows));
            });
        }
        if walk.needs(self.x) {
            let dx = kept.dx.as_ref().expect("recorded with a gradient in view").scaled(walk.device, scale);
            let dx = spread(walk.device, &dx, &self.rows, self.loss.targets.len());
            walk.add(self.x, dx);
        }
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use crate::Loss;
    use crate::conformance::{M, Sample};

    pub fn samples() -> Vec<Sample> {
        let (targets, weights) = (vec![3u32, 0, 7, 7, 1, 2], vec![0.5f32, 0.0, 0.25, 1.0, 0.0, 0.1]);
        let loss = Loss { targets: targets.clone().into(), weights: weights.clone().into() };
        vec![Sample::new(
            "linear_cross_entropy",
            &[(6, 12)],
            &[(9, 12)],
            move |g, x, p| vec![g.linear_cross_entropy(x[0], p[0], &loss).0],
            move |x, p| {
                let logits = x[0].times_t(&p[0]);
                let row = |i: usize| {
                    let lse = logits.row(i).iter().map(|v| v.exp()).sum::<f64>().ln();
                    (lse - logits.at(i, targets[i] as usize)) * weights[i] as f64
                };
                vec![M::from_fn(1, 1, |_, _| (0..6).map(row).sum())]
            },
        )]
    }
}
