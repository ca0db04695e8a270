//! [`Linear`]: a weight, an optional bias, and adapters on top: one for all rows, or several for rows of their own. The weight's
//! format does not matter here.

use std::collections::BTreeMap;

use ounce_tensor::{AdapterId, Graph, LowRankRows, ParamId, Rows, Var, Weight};

use crate::adapters::lora::Lora;

/// `y = x Wᵀ + b`, plus what an adapter adds.
#[derive(Clone, Debug)]
pub struct Linear {
    /// The module's Hugging Face name: `model.layers.0.self_attn.q_proj`.
    pub module: String,
    pub segment: usize,
    pub weight: ParamId,
    pub bias: Option<ParamId>,
    /// On every row: what is trained.
    pub lora: Option<Lora>,
    /// Each on the rows that name it ([`Rows::adapted`]).
    pub beside: BTreeMap<AdapterId, Beside>,
}

/// An adapter's matrices beside those of others.
#[derive(Clone, Debug)]
pub struct Beside {
    /// `[r, k]`
    pub a: Weight,
    /// `[n, r]`
    pub b: Weight,
    pub scale: f32,
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
        std::array::from_fn(|i| linears[i].adapt(g, ys[i], x, rows))
    }

    /// Adds to `y` what adapters make of `x`.
    fn adapt(&self, g: &mut Graph, y: Var, x: Var, rows: &Rows) -> Var {
        let y = match &self.lora {
            Some(lora) => lora.forward(g, y, x, rows),
            None => y,
        };
        // The adapter of a row need not reach every layer.
        let parts = rows.adapted.iter().filter_map(|(rows, id)| {
            let Beside { a, b, scale } = self.beside.get(id)?.clone();
            Some(LowRankRows { rows: rows.clone(), a, b, scale })
        });
        let parts: Vec<LowRankRows> = parts.collect();
        if parts.is_empty() { y } else { g.low_rank_rows(y, x, parts) }
    }

    /// The last part of the module's name: `q_proj`.
    pub fn short_name(&self) -> &str {
        self.module.rsplit('.').next().unwrap_or(&self.module)
    }
}
