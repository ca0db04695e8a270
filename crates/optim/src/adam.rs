//! Adam with L2 regularisation (Kingma & Ba 2015, arXiv 1412.6980): weight decay is a part of the gradient, and so goes
//! through the moments. `g ← g + λ p`, then [`AdamW`] without its own decay. Knows only flat slices.

use ounce_kernels::{Cpu, Out};
use ounce_spec::recipe::OptimizerRecipe;

use crate::{AdamW, Layout, Moments, Optimizer, StepContext, Unit};

#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    /// λ of the L2 term.
    pub weight_decay: f32,
    /// The rule without decay.
    rule: AdamW,
}

impl Adam {
    pub fn from_recipe(recipe: &OptimizerRecipe) -> Adam {
        let rule = AdamW { weight_decay: 0.0, ..AdamW::from_recipe(recipe) };
        Adam { weight_decay: recipe.weight_decay as f32, rule }
    }
}

impl Optimizer for Adam {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn unit(&self) -> Unit {
        self.rule.unit()
    }

    fn layout(&self) -> Layout {
        self.rule.layout()
    }

    fn step(&self, cpu: &Cpu, param: Out, grad: &[f32], state: Moments, at: &StepContext) {
        let [m, v] = state.each();
        let constants = ounce_kernels::AdamW { l2: self.weight_decay, ..self.rule.constants(at) };
        cpu.adamw(param, m, v, grad, at.grad_scale, &constants, at.rounding);
    }
}
