//! Writes a Llama of random 4-bit weights as a GGUF file, for measuring runs on models that are large and need not be good.
//! The tokenizer and its vocabulary come from another GGUF file.
//!
//! `random_llama TOKENIZER.gguf OUT.gguf [--layers 16] [--hidden 2048] [--ffn 8192] [--heads 32] [--kv-heads 8] [--f32]`
//! (the defaults are the shapes of Llama 3.2 1B)

use std::borrow::Cow;
use std::path::Path;

use ounce_formats::gguf;
use ounce_formats::save::Info;
use ounce_spec::DType;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: usize| {
        let at = args.iter().position(|a| a == &format!("--{name}"));
        at.and_then(|i| args.get(i + 1)).map_or(default, |n| n.parse().expect("a number"))
    };
    let from = ounce_formats::open(Path::new(&args[0])).unwrap_or_else(|e| panic!("{e}"));
    let mut config = from.config.clone();
    config.hidden_size = number("hidden", 2048);
    config.intermediate_size = number("ffn", 8192);
    config.num_hidden_layers = number("layers", 16);
    config.num_attention_heads = number("heads", 32);
    config.num_key_value_heads = number("kv-heads", 8);
    config.head_dim = config.hidden_size / config.num_attention_heads;
    config.attention_scale = (config.head_dim as f32).powf(-0.5);
    config.layer_types.truncate(0);
    let dtype = if args.iter().any(|a| a == "--f32") { DType::F32 } else { DType::Q4_0 };

    let (c, f, d) = (config.hidden_size, config.intermediate_size, config.head_dim);
    let (wide, narrow) = (config.num_attention_heads * d, config.num_key_value_heads * d);
    let mut infos = vec![matrix("model.embed_tokens.weight", config.vocab_size, c, dtype)];
    if !config.tie_word_embeddings {
        infos.push(matrix("lm_head.weight", config.vocab_size, c, dtype));
    }
    for layer in 0..config.num_hidden_layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        infos.extend([vector(&name("input_layernorm"), c), vector(&name("post_attention_layernorm"), c)]);
        for (part, n, k) in [("q_proj", wide, c), ("k_proj", narrow, c), ("v_proj", narrow, c), ("o_proj", c, wide)] {
            infos.push(matrix(&name(&format!("self_attn.{part}")), n, k, dtype));
        }
        for (part, n, k) in [("gate_proj", f, c), ("up_proj", f, c), ("down_proj", c, f)] {
            infos.push(matrix(&name(&format!("mlp.{part}")), n, k, dtype));
        }
    }
    infos.push(vector("model.norm.weight", c));
    let base = from.gguf.clone().expect("the tokenizer of a GGUF file");
    let export = gguf::export(&config, &from.generation, &infos, &base).unwrap_or_else(|all| panic!("{all:?}"));
    let mut state = 1u64;
    let mut bytes_of = |info: &Info| -> Result<Cow<'static, [u8]>, _> { Ok(values(info, &mut state).into()) };
    export.write(Path::new(&args[1]), &mut bytes_of).unwrap_or_else(|e| panic!("{e}"));
}

fn matrix(name: &str, n: usize, k: usize, dtype: DType) -> Info {
    Info { name: name.into(), dtype, shape: vec![n, k] }
}

fn vector(name: &str, c: usize) -> Info {
    Info { name: name.into(), dtype: DType::F32, shape: vec![c] }
}

/// Ones for a norm; for a matrix, values of a standard deviation near 0.02.
fn values(info: &Info, state: &mut u64) -> Vec<u8> {
    let elements: usize = info.shape.iter().product();
    if info.shape.len() == 1 {
        return std::iter::repeat_n(1f32.to_le_bytes(), elements).flatten().collect();
    }
    if info.dtype == DType::F32 {
        let value = |bits: u64| ((bits >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.07;
        return (0..elements).flat_map(|_| value(next(state)).to_le_bytes()).collect();
    }
    // A block of Q4_0: its scale in f16 (0.0043), then 32 nibbles that count from -8.
    let scale = 0x1c67u16.to_le_bytes();
    let block = |state: &mut u64| [next(state), next(state)].into_iter().flat_map(u64::to_le_bytes);
    (0..elements / 32).flat_map(|_| scale.into_iter().chain(block(state)).collect::<Vec<u8>>()).collect()
}

/// SplitMix64 (Steele et al. 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
