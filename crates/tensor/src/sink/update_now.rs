//! [`UpdateNow`]: a parameter is updated as soon as its gradient is whole, and the gradient is let go, so that the gradients
//! of one segment exist at a time and not those of the model (Lv et al. 2023, arXiv 2306.09782). A tied weight's gradient
//! waits for the earliest segment that uses it.
//!
//! It must not know what an update is.

use super::{Accumulate, GradSink};
use crate::device::Device;
use crate::params::{ParamId, Params};
use crate::tensor::Tensor;
use crate::weight::Weight;

/// What is done with a whole gradient: (the parameter's place among the trained ones, its weight, its gradient).
pub type Update<'a> = dyn FnMut(usize, &mut Weight, &Tensor) + 'a;

/// A sink for one backward pass.
pub struct UpdateNow<'a> {
    device: &'a Device,
    grads: &'a mut Accumulate,
    trained: &'a [ParamId],
    updated: Vec<bool>,
    update: &'a mut Update<'a>,
}

impl<'a> UpdateNow<'a> {
    /// `grads` is from [`Accumulate::on_demand`] with the same `trained`.
    pub fn new(
        device: &'a Device,
        grads: &'a mut Accumulate,
        trained: &'a [ParamId],
        update: &'a mut Update<'a>,
    ) -> UpdateNow<'a> {
        UpdateNow { device, grads, trained, updated: vec![false; trained.len()], update }
    }

    /// Ends the pass: parameters that no gradient came to get one of zeros, as they would have if it had been accumulated.
    pub fn finish(mut self, params: &mut Params) {
        self.update_where(params, |_| true);
    }

    fn update_where(&mut self, params: &mut Params, is_whole: impl Fn(usize) -> bool) {
        for (i, &p) in self.trained.iter().enumerate() {
            if self.updated[i] || !is_whole(params.complete_at(p)) {
                continue;
            }
            let grad = self.grads.take(self.device, p);
            (self.update)(i, &mut params[p].weight, &grad);
            self.updated[i] = true;
        }
    }
}

impl GradSink for UpdateNow<'_> {
    fn wants(&self, p: ParamId) -> bool {
        self.grads.wants(p)
    }
    fn outer(&mut self, device: &Device, p: ParamId, dy: &Tensor, x: &Tensor) {
        self.grads.outer(device, p, dy, x);
    }
    fn per_row(&mut self, device: &Device, p: ParamId, d: &Tensor) {
        self.grads.per_row(device, p, d);
    }
    fn rows(&mut self, device: &Device, p: ParamId, ids: &[u32], dy: &Tensor) {
        self.grads.rows(device, p, ids, dy);
    }
    fn segment_done(&mut self, segment: usize, params: &mut Params) {
        // Segments come in falling order; one that the walk left out is done as well.
        self.update_where(params, |complete_at| complete_at >= segment);
    }
}
