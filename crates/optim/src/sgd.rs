//! Stochastic gradient descent with momentum (Sutskever et al. 2013), Nesterov's form as torch writes it. Knows only flat
//! slices.
//!
//! ```text
//! g ← g + λ p      b ← μ b + g      p ← p − lr·b      (Nesterov: p ← p − lr·(g + μ b))
//! ```

use ounce_kernels::{Cpu, Map8, Out};
use ounce_spec::recipe::{OptimizerRecipe, StateType};

use crate::state::Moment;
use crate::{Layout, Moments, Optimizer, StepContext, Unit};

const MOMENTUM: Moment = Moment { name: "momentum_buffer", map: Map8::Signed };

#[derive(Clone, Debug, PartialEq)]
pub struct Sgd {
    /// μ; at 0 nothing is kept between steps.
    pub momentum: f32,
    pub nesterov: bool,
    /// λ of the L2 term.
    pub weight_decay: f32,
    /// How the momentum is stored.
    pub state: StateType,
}

impl Sgd {
    pub fn from_recipe(recipe: &OptimizerRecipe) -> Sgd {
        Sgd {
            momentum: recipe.momentum as f32,
            nesterov: recipe.nesterov,
            weight_decay: recipe.weight_decay as f32,
            state: recipe.state,
        }
    }
}

impl Optimizer for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn unit(&self) -> Unit {
        if self.momentum == 0.0 { Unit::Element } else { Unit::of(self.state) }
    }

    fn layout(&self) -> Layout {
        Layout { storage: self.state, moments: if self.momentum == 0.0 { &[] } else { &[MOMENTUM] } }
    }

    fn step(&self, cpu: &Cpu, param: Out, grad: &[f32], state: Moments, at: &StepContext) {
        let momentum = if self.momentum == 0.0 {
            let [] = state.each();
            None
        } else {
            let [momentum] = state.each();
            Some(momentum)
        };
        let constants = ounce_kernels::Sgd {
            lr: at.lr as f32,
            momentum: self.momentum,
            nesterov: self.nesterov,
            weight_decay: self.weight_decay,
        };
        cpu.sgd(param, momentum, grad, at.grad_scale, &constants, at.rounding);
    }
}
