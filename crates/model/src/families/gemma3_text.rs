//! Gemma 3, text (Gemma Team 2025): RMSNorm before and after attention and feed-forward with weights stored as `w - 1`, norms
//! on q and k, GeGLU, embeddings scaled by `√c`; five layers with a sliding window and a local rope for each that sees all.

use std::sync::Arc;

use ounce_spec::ModelConfig;
use ounce_spec::model::LayerType;
use ounce_tensor::{Elem, Graph, ParamId, Rows, Var};

use super::{Family, act, attention_shape};
use crate::attention::Attention;
use crate::kv::Kv;
use crate::linear::Linear;
use crate::load::Loader;
use crate::mlp::GatedMlp;
use crate::rope;

/// Norm weights are stored less one.
const ADD: f32 = 1.0;

pub struct Gemma3 {
    embed: ParamId,
    embed_scale: f32,
    blocks: Vec<Block>,
    norm: ParamId,
    head: ParamId,
    eps: f32,
}

struct Block {
    input_norm: ParamId,
    attention: Attention,
    post_attention_norm: ParamId,
    pre_feedforward_norm: ParamId,
    mlp: GatedMlp,
    post_feedforward_norm: ParamId,
}

pub fn build(config: &ModelConfig, loader: &mut Loader, context: usize) -> Gemma3 {
    let (c, v, d) = (config.hidden_size, config.vocab_size, config.head_dim);
    let global = Arc::new(rope::table(&config.rope, d, context));
    let local = match &config.rope_local {
        Some(rope) => Arc::new(rope::table(rope, d, context)),
        None => global.clone(),
    };
    let embed = loader.matrix("model.embed_tokens.weight", v, c, 0);
    let blocks = (0..config.num_hidden_layers)
        .map(|i| {
            let slides = config.layer_types.get(i) == Some(&LayerType::SlidingAttention);
            block(config, loader, i, if slides { &local } else { &global })
        })
        .collect();
    let last = config.num_hidden_layers + 1;
    let norm = loader.vector("model.norm.weight", c, last);
    let head = loader.head(embed, v, c, config.tie_word_embeddings, last);
    Gemma3 { embed, embed_scale: (c as f32).sqrt(), blocks, norm, head, eps: config.norm_eps }
}

fn block(config: &ModelConfig, loader: &mut Loader, i: usize, rope: &Arc<ounce_tensor::RopeTable>) -> Block {
    let (c, d, segment, name) = (config.hidden_size, config.head_dim, i + 1, format!("model.layers.{i}"));
    let (wide, narrow) = (config.num_attention_heads * d, config.num_key_value_heads * d);
    let mut linear = |part: &str, n, k, bias| loader.linear(&format!("{name}.self_attn.{part}"), n, k, bias, segment);
    let q = linear("q_proj", wide, c, config.qkv_bias);
    let k = linear("k_proj", narrow, c, config.qkv_bias);
    let v = linear("v_proj", narrow, c, config.qkv_bias);
    let o = linear("o_proj", c, wide, config.o_bias);
    let mut vector = |part: &str, n| loader.vector(&format!("{name}.{part}.weight"), n, segment);
    let qk_norm = Some((vector("self_attn.q_norm", d), vector("self_attn.k_norm", d), ADD));
    let input_norm = vector("input_layernorm", c);
    let post_attention_norm = vector("post_attention_layernorm", c);
    let pre_feedforward_norm = vector("pre_feedforward_layernorm", c);
    let post_feedforward_norm = vector("post_feedforward_layernorm", c);
    let (shape, norm_eps) = (attention_shape(config, i), config.norm_eps);
    let attention = Attention { q, k, v, o, qk_norm, norm_eps, rope: rope.clone(), shape };
    let f = config.intermediate_size;
    let mlp = GatedMlp::load(loader, &format!("{name}.mlp"), c, f, config.mlp_bias, act(config), segment);
    Block { input_norm, attention, post_attention_norm, pre_feedforward_norm, mlp, post_feedforward_norm }
}

impl Family for Gemma3 {
    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn embed(&self, g: &mut Graph, rows: &Rows, elem: Elem) -> Var {
        // transformers rounds the factor to the type of the embedding.
        let scale = match elem {
            Elem::F32 => self.embed_scale,
            Elem::Bf16 => ounce_tensor::kernels::bf16::from_f32(self.embed_scale).to_f32(),
            Elem::F16 => ounce_tensor::kernels::f16::from_f32(self.embed_scale).to_f32(),
        };
        g.embedding(self.embed, &rows.ids, scale, elem)
    }

    fn attend(&self, g: &mut Graph, i: usize, x: Var, rows: &Rows, kv: Option<&mut Kv>) -> Var {
        let b = &self.blocks[i];
        let h = g.rmsnorm(x, b.input_norm, ADD, self.eps);
        b.attention.heads(g, h, rows, kv.map(|kv| (kv, i)))
    }

    fn finish(&self, g: &mut Graph, i: usize, x: Var, heads: Var, rows: &Rows) -> Var {
        let b = &self.blocks[i];
        let attended = b.attention.o.forward(g, heads, rows);
        let attended = g.rmsnorm(attended, b.post_attention_norm, ADD, self.eps);
        let (x, h) = g.add_rmsnorm(x, attended, b.pre_feedforward_norm, ADD, self.eps);
        let fed = b.mlp.forward(g, h, rows);
        let fed = g.rmsnorm(fed, b.post_feedforward_norm, ADD, self.eps);
        g.add(x, fed)
    }

    fn final_norm(&self, g: &mut Graph, x: Var) -> Var {
        g.rmsnorm(x, self.norm, ADD, self.eps)
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
