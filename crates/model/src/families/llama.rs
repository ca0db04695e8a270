//! Llama (Touvron et al. 2023): RMSNorm before attention and feed-forward, rope, grouped queries, SwiGLU. Also SmolLM2, Llama 3
//! with its rope scaling, and Mistral with its sliding window; Qwen2 and Qwen3 build on it.

use std::sync::Arc;

use ounce_spec::ModelConfig;
use ounce_tensor::{Elem, Graph, ParamId, RopeTable, Rows, Var};

use super::{Family, act, attention_shape};
use crate::attention::Attention;
use crate::kv::Kv;
use crate::linear::Linear;
use crate::load::Loader;
use crate::mlp::GatedMlp;
use crate::rope;

pub struct Llama {
    embed: ParamId,
    blocks: Vec<Block>,
    norm: ParamId,
    head: ParamId,
    eps: f32,
}

struct Block {
    input_norm: ParamId,
    attention: Attention,
    post_attention_norm: ParamId,
    mlp: GatedMlp,
}

pub fn build(config: &ModelConfig, loader: &mut Loader, context: usize) -> Llama {
    build_with(config, loader, context, |_, _, _| None)
}

/// Llama with norms on q and k where `qk_norm(loader, layer's name, segment)` gives them.
pub(super) fn build_with(
    config: &ModelConfig,
    loader: &mut Loader,
    context: usize,
    qk_norm: impl Fn(&mut Loader, &str, usize) -> Option<(ParamId, ParamId, f32)>,
) -> Llama {
    let (c, v) = (config.hidden_size, config.vocab_size);
    let rope = Arc::new(rope::table(&config.rope, config.head_dim, context));
    let embed = loader.matrix("model.embed_tokens.weight", v, c, 0);
    let blocks = (0..config.num_hidden_layers).map(|i| block(config, loader, i, &rope, &qk_norm)).collect();
    let last = config.num_hidden_layers + 1;
    let norm = loader.vector("model.norm.weight", c, last);
    let head = loader.head(embed, v, c, config.tie_word_embeddings, last);
    Llama { embed, blocks, norm, head, eps: config.norm_eps }
}

fn block(
    config: &ModelConfig,
    loader: &mut Loader,
    i: usize,
    rope: &Arc<RopeTable>,
    qk_norm: &impl Fn(&mut Loader, &str, usize) -> Option<(ParamId, ParamId, f32)>,
) -> Block {
    let (c, segment, name) = (config.hidden_size, i + 1, format!("model.layers.{i}"));
    let (wide, narrow) = (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
    let input_norm = loader.vector(&format!("{name}.input_layernorm.weight"), c, segment);
    let mut part = |part: &str, n, k, bias| loader.linear(&format!("{name}.self_attn.{part}"), n, k, bias, segment);
    let q = part("q_proj", wide, c, config.qkv_bias);
    let k = part("k_proj", narrow, c, config.qkv_bias);
    let v = part("v_proj", narrow, c, config.qkv_bias);
    let o = part("o_proj", c, wide, config.o_bias);
    let qk_norm = qk_norm(loader, &name, segment);
    let (shape, norm_eps) = (attention_shape(config, i), config.norm_eps);
    let attention = Attention { q, k, v, o, qk_norm, norm_eps, rope: rope.clone(), shape };
    let post_attention_norm = loader.vector(&format!("{name}.post_attention_layernorm.weight"), c, segment);
    let (f, bias) = (config.intermediate_size, config.mlp_bias);
    let mlp = GatedMlp::load(loader, &format!("{name}.mlp"), c, f, bias, act(config), segment);
    Block { input_norm, attention, post_attention_norm, mlp }
}

impl Family for Llama {
    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn embed(&self, g: &mut Graph, rows: &Rows, elem: Elem) -> Var {
        g.embedding(self.embed, &rows.ids, 1.0, elem)
    }

    fn attend(&self, g: &mut Graph, i: usize, x: Var, rows: &Rows, kv: Option<&mut Kv>) -> Var {
        let block = &self.blocks[i];
        let h = g.rmsnorm(x, block.input_norm, 0.0, self.eps);
        block.attention.heads(g, h, rows, kv.map(|kv| (kv, i)))
    }

    fn finish(&self, g: &mut Graph, i: usize, x: Var, heads: Var, rows: &Rows) -> Var {
        let block = &self.blocks[i];
        let attended = block.attention.o.forward(g, heads, rows);
        let (x, h) = g.add_rmsnorm(x, attended, block.post_attention_norm, 0.0, self.eps);
        let fed = block.mlp.forward(g, h, rows);
        g.add(x, fed)
    }

    fn final_norm(&self, g: &mut Graph, x: Var) -> Var {
        g.rmsnorm(x, self.norm, 0.0, self.eps)
    }

    fn output_weight(&self) -> ParamId {
        self.head
    }

    fn linears(&self) -> Vec<&Linear> {
        self.blocks.iter().flat_map(|b| b.attention.linears().into_iter().chain(b.mlp.linears())).collect()
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        self.blocks.iter_mut().flat_map(|b| b.attention.linears_mut().into_iter().chain(b.mlp.linears_mut())).collect()
    }
}
