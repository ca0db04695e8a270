//! AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101). Knows only flat slices.
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
//! p ← p − lr·(λ p + m̂ / (√v̂ + ε))     m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)
//! ```

use ounce_kernels::{Cpu, Map8, Out};
use ounce_spec::recipe::{OptimizerRecipe, StateType};

use crate::state::Moment;
use crate::{Layout, Moments, Optimizer, StepContext, Unit};

/// Names of Adam's two moments, as torch saves them.
const MOMENTS: [Moment; 2] =
    [Moment { name: "exp_avg", map: Map8::Signed }, Moment { name: "exp_avg_sq", map: Map8::Unsigned }];

#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// λ, decoupled from the gradient.
    pub weight_decay: f32,
    /// How the moments are stored.
    pub state: StateType,
}

impl AdamW {
    pub fn from_recipe(recipe: &OptimizerRecipe) -> AdamW {
        AdamW {
            beta1: recipe.beta1 as f32,
            beta2: recipe.beta2 as f32,
            eps: recipe.eps as f32,
            weight_decay: recipe.weight_decay as f32,
            state: recipe.state,
        }
    }

    /// The kernel's constants at one step.
    pub(crate) fn constants(&self, at: &StepContext) -> ounce_kernels::AdamW {
        // The kernel works with β in f32, so the correction must be that β's: at t = 1 `v̂` is then exactly g². With the
        // recipe's f64 β₂ = 0.999 the first steps would be 6e-6 too long.
        let bias = |beta: f32| (1.0 - f64::from(beta).powf(at.step as f64)) as f32;
        ounce_kernels::AdamW {
            lr: at.lr as f32,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
            l2: 0.0,
            bias1: bias(self.beta1),
            bias2: bias(self.beta2),
        }
    }
}

impl Optimizer for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn unit(&self) -> Unit {
        Unit::of(self.state)
    }

    fn layout(&self) -> Layout {
        Layout { storage: self.state, moments: &MOMENTS }
    }

    fn step(&self, cpu: &Cpu, param: Out, grad: &[f32], state: Moments, at: &StepContext) {
        let [m, v] = state.each();
        cpu.adamw(param, m, v, grad, at.grad_scale, &self.constants(at), at.rounding);
    }
}
