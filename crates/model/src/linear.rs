//! [`Linear`]: a weight, an optional bias, and an optional adapter on top. The weight's format does not matter here.

use ounce_tensor::{Graph, ParamId, Rows, Var};

use crate::adapters::lora::Lora;

/// `y = x Wᵀ + b`, plus what an adapter adds.
#[derive(Clone, Debug)]
pub struct Linear {
    /// The module's Hugging Face name: `model.layers.0.self_attn.q_proj`.
    pub module: String,
    pub segment: usize,
    pub weight: ParamId,
    pub bias: Option<ParamId>,
    pub lora: Option<Lora>,
}

impl Linear {
    /// `[t, k] -> [t, n]`.
    pub fn forward(&self, g: &mut Graph, x: Var, rows: &Rows) -> Var {
        let [y] = Linear::forward_all([self], g, x, rows);
        y
    }

    /// Several layers on one input, which is then read once where the processor can.
    pub fn forward_all<const N: usize>(linears: [&Linear; N], g: &mut Graph, x: Var, rows: &Rows) -> [Var; N] {
        let ys = g.linears(x, &linears.map(|l| (l.weight, l.bias)));
        std::array::from_fn(|i| match &linears[i].lora {
            Some(lora) => lora.forward(g, ys[i], x, rows),
            None => ys[i],
        })
    }

    /// The last part of the module's name: `q_proj`.
    pub fn short_name(&self) -> &str {
        self.module.rsplit('.').next().unwrap_or(&self.module)
    }
}
