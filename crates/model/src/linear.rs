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
        let y = g.linear(x, self.weight, self.bias);
        match &self.lora {
            Some(lora) => lora.forward(g, y, x, rows),
            None => y,
        }
    }

    /// The last part of the module's name: `q_proj`.
    pub fn short_name(&self) -> &str {
        self.module.rsplit('.').next().unwrap_or(&self.module)
    }
}
