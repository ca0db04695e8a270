//! Adam with L2 regularisation (Kingma & Ba 2015, arXiv 1412.6980): weight decay is a part of the gradient, and so goes
//! through the moments. `g ← g + λ p`, then [`AdamW`] without its own decay. Knows only flat slices.

use ounce_kernels::Cpu;
use ounce_spec::recipe::OptimizerRecipe;

use crate::{AdamW, Optimizer, State, StepContext, Unit};

/// Elements whose regularised gradient is held at a time: 256 KiB, a part of any L2 cache, yet enough for the kernel to
/// spread over threads.
const CHUNK: usize = 1 << 16;

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

    fn state_bytes(&self, elements: usize) -> usize {
        self.rule.state_bytes(elements)
    }

    fn init(&self, elements: usize) -> State {
        self.rule.init(elements)
    }

    fn step(&self, cpu: &Cpu, param: &mut [f32], grad: &[f32], state: &mut State, at: &StepContext) {
        if self.weight_decay == 0.0 {
            return self.rule.step(cpu, param, grad, state, at);
        }
        let constants = self.rule.constants(at);
        let [m, v] = state.slices();
        let lengths = (grad.len(), m.len(), v.len());
        assert_eq!(lengths, (param.len(), param.len(), param.len()), "gradient and moments do not fit the parameter");
        let mut regularised = Vec::with_capacity(CHUNK.min(param.len()));
        let pieces = param.chunks_mut(CHUNK).zip(grad.chunks(CHUNK)).zip(m.chunks_mut(CHUNK).zip(v.chunks_mut(CHUNK)));
        for ((param, grad), (m, v)) in pieces {
            regularised.clear();
            regularised.extend(grad.iter().zip(&*param).map(|(g, p)| g * at.grad_scale + self.weight_decay * p));
            cpu.adamw(param, m, v, &regularised, 1.0, &constants);
        }
    }
}
