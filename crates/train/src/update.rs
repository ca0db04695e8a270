//! One update of one parameter, and the checks before it. Knows no batch and no loop.

use ounce_optim::{Optimizer, Rounding, State, StepContext};
use ounce_tensor::{Cost, Device, Kernel, ParamId, Random, ReadError, Tensor, Weight};

use crate::tiers::{Tiers, Update};

/// The updates of one step.
pub(crate) struct Updates<'a> {
    pub device: &'a Device,
    pub optimizer: &'a dyn Optimizer,
    pub trained: &'a [ParamId],
    /// One for each of `trained`; none on the dry device.
    pub states: &'a mut [State],
    /// Those of the trained parameters that are on disk.
    pub tiers: Option<&'a mut Tiers>,
    /// Or nothing is changed: what is on disk is moved to memory and back.
    pub change: bool,
    /// Updates of the run so far, this one counted.
    pub step: usize,
    pub lr: f64,
    pub random: Random,
}

impl Updates<'_> {
    /// Updates the `i`-th trained parameter by `scale · grad`.
    pub fn apply(&mut self, i: usize, weight: &mut Weight, grad: &Tensor, scale: f32) -> Result<(), ReadError> {
        let rounding = Rounding { key: self.random.parameter_key(self.trained[i]), first: 0 };
        let at = StepContext { step: self.step, lr: self.lr, grad_scale: scale, rounding };
        let (optimizer, change) = (self.optimizer, self.change);
        if let Some(tiers) = self.tiers.as_mut().filter(|tiers| tiers.has(i)) {
            return tiers.update(i, &Update { optimizer, grad, at, change });
        }
        if !change {
            return Ok(());
        }
        let Weight::Dense(param) = weight else { unreachable!("what is trained in memory is dense") };
        let n = grad.len();
        let moved = 2 * (param.bytes_len() + optimizer.state_bytes(n)) + grad.bytes_len();
        let cost = Cost { kernel: Kernel::Update, flops: n as f64, bytes: moved as f64 };
        let state = self.states.get_mut(i);
        self.device.run(cost, |cpu| {
            let state = state.expect("a state for each parameter").view();
            optimizer.step(cpu, param.output(), grad.f32(), state, &at)
        });
        Ok(())
    }
}

/// `Σ g²`: not finite if any element is not.
pub(crate) fn sum_squares(device: &Device, grad: &Tensor) -> f64 {
    let mut sum = 0.0;
    device.run(Cost::elementwise(grad.len(), 4), |cpu| sum = cpu.sum_squares(grad.input()));
    sum
}
