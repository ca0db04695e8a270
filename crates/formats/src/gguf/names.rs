//! GGUF tensor names and Hugging Face names, both ways.

/// The architectures of GGUF files that can be read, with the `model_type` each becomes.
pub(super) const ARCHITECTURES: [(&str, &str); 5] =
    [("llama", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3"), ("gemma3", "gemma3_text"), ("gpt2", "gpt2")];

/// The GGUF architecture that a `model_type` is written as. Mistral is Llama there.
pub(super) fn architecture(model_type: &str) -> Option<&'static str> {
    if model_type == "mistral" {
        return Some("llama");
    }
    ARCHITECTURES.iter().find(|(_, hf)| *hf == model_type).map(|(gguf, _)| *gguf)
}

/// Names outside the layers: (GGUF, Hugging Face), without `.weight` or `.bias`.
const OUTER: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];
const OUTER_GPT2: [(&str, &str); 4] = [
    ("token_embd", "transformer.wte"),
    ("position_embd", "transformer.wpe"),
    ("output_norm", "transformer.ln_f"),
    ("output", "lm_head"),
];

/// Names inside a layer.
const LAYER: [(&str, &str); 9] = [
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
const NORMS: [(&str, &str); 2] = [("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")];
const NORMS_GEMMA3: [(&str, &str); 4] = [
    ("attn_norm", "input_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];
const LAYER_GPT2: [(&str, &str); 6] = [
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];

/// The tables of a family: names outside the layers, the layers' prefix, names inside.
fn tables(
    model_type: &str,
) -> (&'static [(&'static str, &'static str)], &'static str, [&'static [(&'static str, &'static str)]; 2]) {
    match model_type {
        "gpt2" => (&OUTER_GPT2, "transformer.h.", [&LAYER_GPT2, &[]]),
        "gemma3_text" => (&OUTER, "model.layers.", [&LAYER, &NORMS_GEMMA3]),
        _ => (&OUTER, "model.layers.", [&LAYER, &NORMS]),
    }
}

/// The Hugging Face name of a GGUF tensor; `None` if the family has no such tensor.
pub(super) fn to_hf(model_type: &str, name: &str) -> Option<String> {
    let (outer, prefix, inner) = tables(model_type);
    let (stem, ending) = split(name)?;
    match stem.strip_prefix("blk.") {
        None => outer.iter().find(|(gguf, _)| *gguf == stem).map(|(_, hf)| format!("{hf}.{ending}")),
        Some(rest) => {
            let (layer, part) = layer(rest)?;
            let (_, hf) = inner.into_iter().flatten().find(|(gguf, _)| *gguf == part)?;
            Some(format!("{prefix}{layer}.{hf}.{ending}"))
        }
    }
}

/// The GGUF name of a Hugging Face tensor; `None` if GGUF has no name for it.
pub(super) fn to_gguf(model_type: &str, name: &str) -> Option<String> {
    let (outer, prefix, inner) = tables(model_type);
    let (stem, ending) = split(name)?;
    match stem.strip_prefix(prefix) {
        None => outer.iter().find(|(_, hf)| *hf == stem).map(|(gguf, _)| format!("{gguf}.{ending}")),
        Some(rest) => {
            let (layer, part) = layer(rest)?;
            let (gguf, _) = inner.into_iter().flatten().find(|(_, hf)| *hf == part)?;
            Some(format!("blk.{layer}.{gguf}.{ending}"))
        }
    }
}

fn split(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, ending)| matches!(*ending, "weight" | "bias"))
}

/// `12.attn_q` as 12 and `attn_q`. Only the plain spelling of a number counts, so that names stay unique.
fn layer(rest: &str) -> Option<(usize, &str)> {
    let (digits, part) = rest.split_once('.')?;
    let layer: usize = digits.parse().ok()?;
    (layer.to_string() == digits).then_some((layer, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_goes_there_and_back() {
        for (_, model_type) in ARCHITECTURES {
            let (outer, _, inner) = tables(model_type);
            let outer = outer.iter().map(|(gguf, _)| format!("{gguf}.weight"));
            let inner = inner.into_iter().flatten().map(|(gguf, _)| format!("blk.17.{gguf}.bias"));
            for name in outer.chain(inner) {
                let hf = to_hf(model_type, &name).unwrap();
                assert_eq!(to_gguf(model_type, &hf).as_deref(), Some(&*name), "{model_type} {hf}");
            }
        }
        assert_eq!(
            to_hf("gemma3_text", "blk.3.ffn_norm.weight").unwrap(),
            "model.layers.3.pre_feedforward_layernorm.weight"
        );
        for bad in ["blk.03.attn_q.weight", "blk.+3.attn_q.weight", "blk..attn_q.weight", "attn_q.weight", "output", ""]
        {
            assert_eq!(to_hf("llama", bad), None, "{bad}");
        }
    }
}
