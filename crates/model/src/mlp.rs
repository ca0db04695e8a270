//! The gated feed-forward of Llama, Qwen and Gemma.

use ounce_tensor::kernels::Act;
use ounce_tensor::{Graph, Rows, Var};

use crate::linear::Linear;
use crate::load::Loader;

#[derive(Clone, Debug)]
pub struct GatedMlp {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
    pub act: Act,
}

impl GatedMlp {
    /// `module.{gate,up,down}_proj` with sizes `c` and `f`.
    pub fn load(
        loader: &mut Loader,
        module: &str,
        c: usize,
        f: usize,
        bias: bool,
        act: Act,
        segment: usize,
    ) -> GatedMlp {
        GatedMlp {
            gate: loader.linear(&format!("{module}.gate_proj"), f, c, bias, segment),
            up: loader.linear(&format!("{module}.up_proj"), f, c, bias, segment),
            down: loader.linear(&format!("{module}.down_proj"), c, f, bias, segment),
            act,
        }
    }

    /// `[t, c] -> [t, c]`.
    pub fn forward(&self, g: &mut Graph, x: Var, rows: &Rows) -> Var {
        let [gate, up] = Linear::forward_all([&self.gate, &self.up], g, x, rows);
        let hidden = g.glu(gate, up, self.act);
        self.down.forward(g, hidden, rows)
    }

    pub fn linears(&self) -> [&Linear; 3] {
        [&self.gate, &self.up, &self.down]
    }

    pub fn linears_mut(&mut self) -> [&mut Linear; 3] {
        [&mut self.gate, &mut self.up, &mut self.down]
    }
}
