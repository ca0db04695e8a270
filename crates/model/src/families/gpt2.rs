//! GPT-2 (Radford et al. 2019): LayerNorm, learned positions, one projection for q, k and v, GELU, biases everywhere, tied
//! output. Weights are `[n_out, n_in]` here; `formats` transposes the files' Conv1D layout.

use ounce_spec::ModelConfig;
use ounce_tensor::kernels::{Act, AttnShape};
use ounce_tensor::{Elem, Graph, ParamId, Rows, Var};

use super::{Family, act, attention_shape};
use crate::attention::attend;
use crate::kv::Kv;
use crate::linear::Linear;
use crate::load::Loader;

pub struct Gpt2 {
    tokens: ParamId,
    positions: ParamId,
    blocks: Vec<Block>,
    norm: (ParamId, ParamId),
    head: ParamId,
    eps: f32,
}

struct Block {
    norm_1: (ParamId, ParamId),
    qkv: Linear,
    out: Linear,
    norm_2: (ParamId, ParamId),
    up: Linear,
    down: Linear,
    act: Act,
    shape: AttnShape,
}

pub fn build(config: &ModelConfig, loader: &mut Loader, _context: usize) -> Gpt2 {
    let (c, f, v) = (config.hidden_size, config.intermediate_size, config.vocab_size);
    let tokens = loader.matrix("transformer.wte.weight", v, c, 0);
    let positions = loader.matrix("transformer.wpe.weight", config.max_position_embeddings, c, 0);
    let blocks = (0..config.num_hidden_layers)
        .map(|i| {
            let (name, segment) = (format!("transformer.h.{i}"), i + 1);
            let mut norm = |part: &str| norm(loader, &format!("{name}.{part}"), c, segment);
            let (norm_1, norm_2) = (norm("ln_1"), norm("ln_2"));
            let mut linear = |part: &str, n, k| loader.linear(&format!("{name}.{part}"), n, k, true, segment);
            Block {
                norm_1,
                qkv: linear("attn.c_attn", 3 * c, c),
                out: linear("attn.c_proj", c, c),
                norm_2,
                up: linear("mlp.c_fc", f, c),
                down: linear("mlp.c_proj", c, f),
                act: act(config),
                shape: attention_shape(config, i),
            }
        })
        .collect();
    let last = config.num_hidden_layers + 1;
    let norm = norm(loader, "transformer.ln_f", c, last);
    let head = loader.head(tokens, v, c, config.tie_word_embeddings, last);
    Gpt2 { tokens, positions, blocks, norm, head, eps: config.norm_eps }
}

fn norm(loader: &mut Loader, name: &str, c: usize, segment: usize) -> (ParamId, ParamId) {
    let weight = loader.vector(&format!("{name}.weight"), c, segment);
    (weight, loader.vector(&format!("{name}.bias"), c, segment))
}

impl Family for Gpt2 {
    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn embed(&self, g: &mut Graph, rows: &Rows, elem: Elem) -> Var {
        let tokens = g.embedding(self.tokens, &rows.ids, 1.0, elem);
        let positions = g.embedding(self.positions, &rows.positions, 1.0, elem);
        g.add(tokens, positions)
    }

    fn attend(&self, g: &mut Graph, i: usize, x: Var, rows: &Rows, kv: Option<&mut Kv>) -> Var {
        let b = &self.blocks[i];
        let h = g.layernorm(x, b.norm_1.0, b.norm_1.1, self.eps);
        let qkv = b.qkv.forward(g, h, rows);
        let parts = g.split(qkv, 3);
        attend(g, parts[0], parts[1], parts[2], rows, b.shape, kv.map(|kv| (kv, i)))
    }

    fn finish(&self, g: &mut Graph, i: usize, x: Var, heads: Var, rows: &Rows) -> Var {
        let b = &self.blocks[i];
        let attended = b.out.forward(g, heads, rows);
        let (x, h) = g.add_layernorm(x, attended, b.norm_2.0, b.norm_2.1, self.eps);
        let up = b.up.forward(g, h, rows);
        let up = g.act(up, b.act);
        let fed = b.down.forward(g, up, rows);
        g.add(x, fed)
    }

    fn final_norm(&self, g: &mut Graph, x: Var) -> Var {
        g.layernorm(x, self.norm.0, self.norm.1, self.eps)
    }

    fn output_weight(&self) -> ParamId {
        self.head
    }

    fn linears(&self) -> Vec<&Linear> {
        self.blocks.iter().flat_map(|b| [&b.qkv, &b.out, &b.up, &b.down]).collect()
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        self.blocks.iter_mut().flat_map(|b| [&mut b.qkv, &mut b.out, &mut b.up, &mut b.down]).collect()
    }
}
