//! The token vectors that llama.cpp ships for its vocabularies: every line must give exactly the listed ids.

mod assets;

use ounce_formats::bytes::Bytes;
use ounce_formats::gguf;
use ounce_formats::tokenizer::{GgufVocab, Tokenizer};

fn load(name: &str) -> Tokenizer {
    let path = assets::path(&format!("vocabs/ggml-vocab-{name}.gguf"));
    let file = gguf::parse(&Bytes::map(&path).unwrap()).unwrap();
    let vocab = GgufVocab::from_metadata(&file.metadata).unwrap();
    Tokenizer::from_gguf(&vocab).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The texts and ids of a vocabulary.
fn vectors(name: &str) -> Vec<(String, Vec<u32>)> {
    let read = |ending: &str| {
        std::fs::read_to_string(assets::path(&format!("vocabs/ggml-vocab-{name}.gguf.{ending}"))).unwrap()
    };
    let (inputs, outputs) = (read("inp"), read("out"));
    let mut inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
    let outputs: Vec<Vec<u32>> =
        outputs.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
    // In all files but one a separator follows the last text, too.
    if inputs.last() == Some(&"") {
        inputs.pop();
    }
    assert_eq!(inputs.len(), outputs.len(), "{name}: texts and lines of ids");
    inputs.into_iter().map(String::from).zip(outputs).collect()
}

fn check(name: &str) {
    let (tokenizer, vectors) = (load(name), vectors(name));
    assert!(vectors.len() >= 40, "{name}: only {} vectors", vectors.len());
    let mut wrong = String::new();
    for (text, want) in &vectors {
        let got = tokenizer.encode_plain(text, false).unwrap();
        if got != *want {
            wrong += &format!("  {text:?}\n    got  {got:?}\n    want {want:?}\n");
        }
    }
    assert!(wrong.is_empty(), "{name}:\n{wrong}");
}

macro_rules! vocabularies {
    ($($test:ident = $name:literal),* $(,)?) => {
        $(#[test]
        fn $test() {
            check($name);
        })*
    };
}

vocabularies! {
    bert_bge = "bert-bge",
    command_r = "command-r",
    deepseek_coder = "deepseek-coder",
    deepseek_llm = "deepseek-llm",
    falcon = "falcon",
    gemma_4 = "gemma-4",
    gpt_2 = "gpt-2",
    llama_bpe = "llama-bpe",
    llama_spm = "llama-spm",
    mpt = "mpt",
    phi_3 = "phi-3",
    qwen2 = "qwen2",
    qwen35 = "qwen35",
    refact = "refact",
    starcoder = "starcoder",
}
