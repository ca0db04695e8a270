//! Stochastic gradient descent with momentum (Sutskever et al. 2013), Nesterov's form as torch writes it. Knows only flat
//! slices.
//!
//! ```text
//! g ← g + λ p      b ← μ b + g      p ← p − lr·b      (Nesterov: p ← p − lr·(g + μ b))
//! ```

use ounce_kernels::Cpu;
use ounce_spec::recipe::OptimizerRecipe;

use crate::{Optimizer, State, StepContext, Unit};

#[derive(Clone, Debug, PartialEq)]
pub struct Sgd {
    /// μ; at 0 nothing is kept between steps.
    pub momentum: f32,
    pub nesterov: bool,
    /// λ of the L2 term.
    pub weight_decay: f32,
}

impl Sgd {
    pub fn from_recipe(recipe: &OptimizerRecipe) -> Sgd {
        Sgd { momentum: recipe.momentum as f32, nesterov: recipe.nesterov, weight_decay: recipe.weight_decay as f32 }
    }
}

impl Optimizer for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn unit(&self) -> Unit {
        Unit::Element
    }

    fn state_bytes(&self, elements: usize) -> usize {
        if self.momentum == 0.0 { 0 } else { elements * size_of::<f32>() }
    }

    fn init(&self, elements: usize) -> State {
        if self.momentum == 0.0 { State::default() } else { State::zeros(&["momentum_buffer"], elements) }
    }

    fn step(&self, cpu: &Cpu, param: &mut [f32], grad: &[f32], state: &mut State, at: &StepContext) {
        let buffer: &mut [f32] = if self.momentum == 0.0 {
            let [] = state.slices();
            &mut []
        } else {
            let [buffer] = state.slices();
            buffer
        };
        let lr = at.lr as f32;
        cpu.sgd(param, buffer, grad, at.grad_scale, lr, self.momentum, self.nesterov, self.weight_decay);
    }
}
