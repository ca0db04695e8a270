//! [`GradSink`]: the one way a parameter gradient takes. It comes in factors, before it is multiplied out.

mod update_now;

pub use update_now::UpdateNow;

use crate::device::{Cost, Device};
use crate::memory::Purpose;
use crate::params::{ParamId, Params};
use crate::tensor::{Elem, Tensor};
use crate::weight::matmul_kernel;

/// Takes gradients. `device` is where the tensors are.
pub trait GradSink {
    /// Whether `p` has a gradient at all. Where it has not, nothing is computed for it and nothing is kept.
    fn wants(&self, p: ParamId) -> bool;
    /// `dW[n, k] += dy[t, n]ᵀ · x[t, k]`.
    fn outer(&mut self, device: &Device, p: ParamId, dy: &Tensor, x: &Tensor);
    /// `dw[c] += Σ_t d[t, c]`.
    fn per_row(&mut self, device: &Device, p: ParamId, d: &Tensor);
    /// `dW[ids[t], ..] += dy[t, ..]`.
    fn rows(&mut self, device: &Device, p: ParamId, ids: &[u32], dy: &Tensor);
    /// The backward pass of `segment` is over: gradients of parameters with `complete_at == segment` are whole.
    fn segment_done(&mut self, _segment: usize, _params: &mut Params) {}
}

/// A sink that wants nothing: gradients of inputs only.
#[derive(Debug)]
pub struct NoGrad;

impl GradSink for NoGrad {
    fn wants(&self, _: ParamId) -> bool {
        false
    }
    fn outer(&mut self, _: &Device, _: ParamId, _: &Tensor, _: &Tensor) {}
    fn per_row(&mut self, _: &Device, _: ParamId, _: &Tensor) {}
    fn rows(&mut self, _: &Device, _: ParamId, _: &[u32], _: &Tensor) {}
}

/// Sums gradients in f32 buffers, one for each trained parameter.
#[derive(Debug)]
pub struct Accumulate {
    grads: Vec<Option<Tensor>>,
    /// Of every trained parameter.
    shapes: Vec<Option<(usize, usize)>>,
}

impl Accumulate {
    /// Buffers for `trained`, at zero.
    pub fn new(device: &Device, params: &Params, trained: &[ParamId]) -> Accumulate {
        let mut sink = Accumulate::on_demand(params, trained);
        for &p in trained {
            sink.buffer(device, p);
        }
        sink
    }

    /// No buffer before a gradient comes.
    pub fn on_demand(params: &Params, trained: &[ParamId]) -> Accumulate {
        let mut sink = Accumulate { grads: vec![None; params.len()], shapes: vec![None; params.len()] };
        for &p in trained {
            sink.shapes[p.0 as usize] = Some(params.weight(p).shape());
        }
        sink
    }

    pub fn grad(&self, p: ParamId) -> Option<&Tensor> {
        self.grads[p.0 as usize].as_ref()
    }

    /// The gradient of `p` (zeros if none came), which is let go here.
    pub fn take(&mut self, device: &Device, p: ParamId) -> Tensor {
        self.buffer(device, p);
        self.grads[p.0 as usize].take().expect("it was just made")
    }

    /// Back to zero, for the next step.
    pub fn clear(&mut self, device: &Device) {
        for g in self.grads.iter_mut().flatten() {
            let cost = Cost::elementwise(g.len(), 4);
            device.run(cost, |_| g.fill_zero());
        }
    }

    fn buffer(&mut self, device: &Device, p: ParamId) -> &mut Tensor {
        let (n, k) = self.shapes[p.0 as usize].expect("a gradient nobody wanted");
        self.grads[p.0 as usize].get_or_insert_with(|| Tensor::zeros(device, Elem::F32, n, k, Purpose::Gradients))
    }
}

impl GradSink for Accumulate {
    fn wants(&self, p: ParamId) -> bool {
        self.shapes[p.0 as usize].is_some()
    }

    fn outer(&mut self, device: &Device, p: ParamId, dy: &Tensor, x: &Tensor) {
        let (m, n, k) = (dy.rows(), dy.cols(), x.cols());
        let grad = self.buffer(device, p);
        assert_eq!((grad.rows(), grad.cols(), x.rows()), (n, k, m), "outer: dy {dy:?}, x {x:?}, grad {grad:?}");
        let cost = Cost {
            kernel: matmul_kernel(x.elem(), n, k),
            flops: 2.0 * m as f64 * n as f64 * k as f64,
            bytes: (dy.bytes_len() + x.bytes_len() + 2 * grad.bytes_len()) as f64,
        };
        device.run(cost, |cpu| cpu.matmul_tn(grad.f32_mut(), dy.input(), x.input(), true, m, n, k));
    }

    fn per_row(&mut self, device: &Device, p: ParamId, d: &Tensor) {
        let grad = self.buffer(device, p);
        assert_eq!(grad.len(), d.cols());
        device.run(Cost::elementwise(d.len(), d.elem().bytes()), |cpu| {
            cpu.sum_rows(grad.f32_mut(), d.input(), true, d.rows(), d.cols())
        });
    }

    fn rows(&mut self, device: &Device, p: ParamId, ids: &[u32], dy: &Tensor) {
        let grad = self.buffer(device, p);
        device.run(Cost::elementwise(dy.len(), 8 + dy.elem().bytes()), |cpu| {
            cpu.scatter_add_rows(grad.f32_mut(), ids, dy.input(), dy.cols())
        });
    }
}
