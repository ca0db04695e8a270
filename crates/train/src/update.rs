//! One update of one parameter, and the checks before it. Knows no batch and no loop.

use ounce_optim::{Optimizer, Rounding, State, StepContext};
use ounce_tensor::{Cost, Device, ParamId, Random, Tensor, Weight};

/// The updates of one step.
pub(crate) struct Updates<'a> {
    pub device: &'a Device,
    pub optimizer: &'a dyn Optimizer,
    pub trained: &'a [ParamId],
    /// One for each of `trained`; none on the dry device.
    pub states: &'a mut [State],
    /// Updates of the run so far, this one counted.
    pub step: usize,
    pub lr: f64,
    pub random: Random,
}

impl Updates<'_> {
    /// Updates the `i`-th trained parameter by `scale · grad`.
    pub fn apply(&mut self, i: usize, weight: &mut Weight, grad: &Tensor, scale: f32) {
        let Weight::Dense(param) = weight else { unreachable!("trained parameters are dense") };
        let n = grad.len();
        let moved = 2 * (param.bytes_len() + self.optimizer.state_bytes(n)) + grad.bytes_len();
        let cost = Cost { bytes: moved as f64, ..Cost::elementwise(n, 0) };
        let rounding = Rounding { key: self.random.parameter_key(self.trained[i]), first: 0 };
        let at = StepContext { step: self.step, lr: self.lr, grad_scale: scale, rounding };
        let (optimizer, state) = (self.optimizer, self.states.get_mut(i));
        self.device.run(cost, |cpu| {
            optimizer.step(cpu, param.output(), grad.f32(), state.expect("a state for each parameter"), &at)
        });
    }
}

/// `Σ g²`: not finite if any element is not.
pub(crate) fn sum_squares(device: &Device, grad: &Tensor) -> f64 {
    let mut sum = 0.0;
    device.run(Cost::elementwise(grad.len(), 4), |cpu| sum = cpu.sum_squares(grad.input()));
    sum
}
