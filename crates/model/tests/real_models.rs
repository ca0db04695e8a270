//! Whole models against transformers in f32, on twenty texts each: tokens, logits, and greedy continuations of 64 tokens. The
//! reference is made by `cargo xtask assets --python` (`xtask/golden/make_reference.py` says what it holds).

use std::path::{Path, PathBuf};

use ounce_formats::tokenizer::{GgufVocab, Tokenizer};
use ounce_model::{Kv, Model, Part};
use ounce_tensor::kernels::{CacheType, Cpu};
use ounce_tensor::{BLOCK, Device};
use safetensors::SafeTensors;

const TEXTS: usize = 20;
const NEW: usize = 64;
/// Largest difference of a logit, over the largest logit.
const TOLERANCE: f64 = 1e-4;

fn assets() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets");
    std::env::var_os("OUNCE_ASSETS").filter(|v| !v.is_empty()).map_or(workspace, PathBuf::from)
}

struct Reference(Vec<u8>, serde_json::Value);

impl Reference {
    fn read(name: &str) -> Reference {
        let folder = assets().join("reference");
        let path = folder.join(name).with_extension("safetensors");
        let hint = "run cargo xtask assets --python";
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; {hint}", path.display()));
        let texts = std::fs::read(path.with_extension("json")).unwrap_or_else(|e| panic!("{name}.json: {e}; {hint}"));
        Reference(bytes, serde_json::from_slice(&texts).expect("texts as JSON"))
    }

    fn text(&self, i: usize) -> &str {
        self.1["texts"][i].as_str().expect("a text")
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let file = SafeTensors::deserialize(&self.0).expect("safetensors");
        let data = file.tensor(name).expect(name).data().to_vec();
        data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")) as u32).collect()
    }

    fn floats(&self, name: &str) -> (usize, Vec<f32>) {
        let file = SafeTensors::deserialize(&self.0).expect("safetensors");
        let tensor = file.tensor(name).expect(name);
        let values =
            tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
        (tensor.shape()[0], values)
    }
}

fn argmax(row: &[f32]) -> u32 {
    let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    best.expect("logits").0 as u32
}

/// Every text: logits of its last positions, then the greedy continuation token by token through the cache.
fn check(model_path: &str, name: &str) {
    let reference = Reference::read(name);
    let device = Device::cpu(Cpu::new(0));
    let checkpoint = ounce_formats::open(&assets().join(model_path)).unwrap_or_else(|e| panic!("{e}"));
    let model = Model::load(&device, &checkpoint, 1024).unwrap_or_else(|e| panic!("{e}"));
    let tokenizer = checkpoint.gguf.as_ref().map(|metadata| {
        let vocab = GgufVocab::from_metadata(metadata).unwrap_or_else(|e| panic!("{e}"));
        Tokenizer::from_gguf(&vocab).unwrap_or_else(|e| panic!("{e}"))
    });
    let mut wrong = Vec::new();
    let mut worst = 0.0f64;
    for i in 0..TEXTS {
        let ids = reference.ids(&format!("ids.{i}"));
        if let Some(tokenizer) = &tokenizer {
            let got = tokenizer.encode(reference.text(i), true).unwrap_or_else(|e| panic!("{e}"));
            if got != ids {
                wrong.push(format!("text {i}: tokens {got:?}, transformers {ids:?}"));
            }
        }
        let blocks: Vec<u32> = (0..(ids.len() + NEW).div_ceil(BLOCK) as u32).collect();
        let mut kv = Kv::new(&device, &model.config, CacheType::F32, blocks.len());
        let (rows, want) = reference.floats(&format!("logits.{i}"));
        let wanted: Vec<u32> = (ids.len() - rows..ids.len()).map(|t| t as u32).collect();
        let batch = kv.begin(&[Part { tokens: &ids, past: 0, blocks: &blocks }]);
        let logits = model.infer(&device, &batch, &mut kv, &wanted, false).unwrap();
        let scale = want.iter().fold(0.0f64, |m, &v| m.max(v.abs() as f64));
        let far =
            logits.f32().iter().zip(&want).map(|(a, b)| (*a as f64 - *b as f64).abs()).fold(0.0, f64::max) / scale;
        worst = worst.max(far);
        if far.is_nan() || far > TOLERANCE {
            wrong.push(format!("text {i}: logits differ by {far:.1e}"));
        }

        let greedy = reference.ids(&format!("greedy.{i}"));
        let (_, margins) = reference.floats(&format!("margin.{i}"));
        let v = model.config.vocab_size;
        let mut next = argmax(&logits.f32()[(rows - 1) * v..]);
        for (n, &want) in greedy.iter().enumerate() {
            if next != want {
                wrong.push(format!("text {i}: token {n} is {next}, transformers {want} (margin {:.1e})", margins[n]));
                break;
            }
            let batch = kv.begin(&[Part { tokens: &[next], past: ids.len() + n, blocks: &blocks }]);
            next = argmax(model.infer(&device, &batch, &mut kv, &[0], false).unwrap().f32());
        }
    }
    assert!(wrong.is_empty(), "{model_path}:\n{}", wrong.join("\n"));
    println!("{model_path}: {TEXTS} texts, logits within {worst:.1e}");
}

#[test]
fn smollm2_from_its_4_bit_file_equals_transformers() {
    check("models/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2");
}

#[test]
fn smollm2_as_a_hugging_face_directory_equals_transformers() {
    check("reference/smollm2-hf", "smollm2");
}

#[test]
fn gemma_3_from_its_4_bit_file_equals_transformers() {
    check("models/gemma-3-270m-q4_k_m.gguf", "gemma3");
}
