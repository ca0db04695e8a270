//! Released model files, read whole. They are not in the repository: `OUNCE_ASSETS` names the directory that holds
//! them, `<workspace>/assets` by default.

use std::path::PathBuf;

use ounce_formats::{Bytes, Kind, gguf, open};
use ounce_spec::{
    DType,
    model::{Activation, LayerType, RopeScaling},
};

fn asset(name: &str) -> PathBuf {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets");
    let dir = PathBuf::from(std::env::var("OUNCE_ASSETS").unwrap_or_else(|_| default.into()));
    let path = dir.join("models").join(name);
    assert!(path.is_file(), "{} is missing: run cargo xtask assets", path.display());
    path
}

const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const GEMMA3: &str = "gemma-3-270m-q4_k_m.gguf";

#[test]
fn smollm2_opens_as_a_llama() {
    let checkpoint = open(&asset(SMOLLM2)).unwrap();
    let config = &checkpoint.config;
    assert_eq!(checkpoint.kind, Kind::Gguf);
    assert_eq!(config.model_type, "llama");
    assert_eq!((config.vocab_size, config.hidden_size, config.intermediate_size), (49152, 576, 1536));
    assert_eq!((config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads), (30, 9, 3));
    assert_eq!((config.head_dim, config.max_position_embeddings, config.norm_eps), (64, 8192, 1e-5));
    assert_eq!((config.rope.theta, &config.rope.scaling), (100_000.0, &RopeScaling::None));
    assert!(config.tie_word_embeddings && !config.qkv_bias && config.hidden_act == Activation::Silu);
    assert!(config.eos_token_id.starts_with(&[2]) && config.bos_token_id == Some(1), "{config:?}");
    // 9 tensors a layer, the embedding and the last norm.
    assert_eq!(checkpoint.tensors.len(), 30 * 9 + 2);
    let down = checkpoint.tensors.get("model.layers.29.mlp.down_proj.weight").unwrap();
    assert_eq!(down.shape, [576, 1536]);
    assert!(down.bytes.is_mapped());
    let tokens = checkpoint.gguf.as_ref().unwrap().strings("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!((tokens.len(), tokens.get(2)), (49152, Some("<|im_end|>")));
}

/// Neighbouring rows of a q weight in the file must be half a head apart in memory.
#[test]
fn smollm2_query_rows_are_put_back_in_order() {
    let path = asset(SMOLLM2);
    let file = gguf::parse(&Bytes::map(&path).unwrap()).unwrap();
    let stored = file.tensors.iter().find(|tensor| tensor.name == "blk.3.attn_q.weight").unwrap();
    let checkpoint = open(&path).unwrap();
    let query = checkpoint.tensors.get("model.layers.3.self_attn.q_proj.weight").unwrap();
    assert_eq!((&stored.shape, stored.bytes.len()), (&query.shape, query.bytes.len()));
    let row = query.bytes.len() / 576;
    for head in 0..9 {
        for pair in 0..32 {
            for part in 0..2 {
                let ours = &query.bytes[(head * 64 + part * 32 + pair) * row..][..row];
                let theirs = &stored.bytes[(head * 64 + 2 * pair + part) * row..][..row];
                assert_eq!(ours, theirs, "head {head} pair {pair} part {part}");
            }
        }
    }
}

#[test]
fn gemma3_opens_with_its_windows_and_norms() {
    let checkpoint = open(&asset(GEMMA3)).unwrap();
    let config = &checkpoint.config;
    assert_eq!(config.model_type, "gemma3_text");
    assert_eq!((config.vocab_size, config.hidden_size, config.intermediate_size), (262_144, 640, 2048));
    assert_eq!((config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads), (18, 4, 1));
    assert_eq!((config.head_dim, config.max_position_embeddings, config.norm_eps), (256, 32_768, 1e-6));
    assert_eq!((config.rope.theta, config.rope_local.as_ref().unwrap().theta), (1e6, 1e4));
    assert_eq!((config.sliding_window, config.attention_scale), (Some(512), 1.0 / 16.0));
    let full: Vec<usize> = (0..18).filter(|&i| config.layer_types[i] == LayerType::FullAttention).collect();
    assert_eq!(full, [5, 11, 17]);
    assert!(config.tie_word_embeddings && config.hidden_act == Activation::GeluTanh);
    // 13 tensors a layer, the embedding and the last norm.
    assert_eq!(checkpoint.tensors.len(), 18 * 13 + 2);
    let file = gguf::parse(&Bytes::map(&asset(GEMMA3)).unwrap()).unwrap();
    let stored = file.tensors.iter().find(|tensor| tensor.name == "blk.2.attn_q_norm.weight").unwrap();
    let stored: Vec<f32> = stored.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let norm = checkpoint.tensors.get("model.layers.2.self_attn.q_norm.weight").unwrap();
    assert_eq!(norm.dtype, DType::F32);
    for (ours, theirs) in norm.to_f32().unwrap().iter().zip(&stored) {
        assert_eq!(ours + 1.0, *theirs);
    }
}

/// Reading a file and writing it again through Hugging Face names gives the same tensors and vocabulary.
#[test]
fn real_files_survive_the_way_to_hugging_face_names_and_back() {
    for name in [SMOLLM2, GEMMA3] {
        let path = asset(name);
        let checkpoint = open(&path).unwrap();
        let infos: Vec<_> = checkpoint
            .tensors
            .iter()
            .map(|(name, t)| ounce_formats::save::Info { name: name.into(), dtype: t.dtype, shape: t.shape.clone() })
            .collect();
        let metadata = checkpoint.gguf.as_ref().unwrap();
        let export = gguf::export(&checkpoint.config, &checkpoint.generation, &infos, metadata).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy.gguf");
        export.write(&copy, &mut |info| Ok((&*checkpoint.tensors.get(&info.name).unwrap().bytes).into())).unwrap();
        let (first, second) =
            (gguf::parse(&Bytes::map(&path).unwrap()).unwrap(), gguf::parse(&Bytes::map(&copy).unwrap()).unwrap());
        assert_eq!(first.tensors.len(), second.tensors.len());
        for tensor in &first.tensors {
            let other = second.tensors.iter().find(|other| other.name == tensor.name).unwrap();
            assert_eq!((tensor.dtype, &tensor.shape), (other.dtype, &other.shape), "{name} {}", tensor.name);
            assert!(*tensor.bytes == *other.bytes, "{name} {}", tensor.name);
        }
        for (key, value) in first.metadata.iter() {
            // These two are made from the tensors, and the original's are its quantiser's choice of name.
            if !["general.file_type", "general.quantization_version"].contains(&key) {
                assert_eq!(second.metadata.get(key), Some(value), "{name} {key}");
            }
        }
        let reopened = open(&copy).unwrap();
        assert_eq!(reopened.config, checkpoint.config, "{name}");
    }
}

/// A cold start must not wait for its file: opening maps it and reads the header.
#[test]
fn opening_is_quick() {
    for name in [SMOLLM2, GEMMA3] {
        let path = asset(name);
        // The quickest of some: the machine may be busy for a while, the file is as long each time.
        let quickest = (0..8).map(|_| {
            let start = std::time::Instant::now();
            open(&path).unwrap();
            start.elapsed()
        });
        let elapsed = quickest.min().unwrap();
        println!("{name}: {elapsed:?}");
        assert!(elapsed.as_secs_f64() < 1.0, "{name} took {elapsed:?}");
    }
}
