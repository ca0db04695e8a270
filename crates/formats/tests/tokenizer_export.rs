//! The tokenizer files that are written beside a converted GGUF file's weights: read back, they give the ids that the GGUF
//! file's own tokenizer gives, with and without special tokens, and the same text for them.

mod assets;

use ounce_formats::bytes::Bytes;
use ounce_formats::gguf::{self, Metadata, Strings};
use ounce_formats::tokenizer::{GgufVocab, Tokenizer, hf_files};
use serde_json::Value;

fn metadata(file: &str) -> Metadata {
    gguf::parse(&Bytes::map(&assets::path(file)).unwrap()).unwrap().metadata
}

fn read_back(files: &[(String, Vec<u8>)]) -> Tokenizer {
    let bytes = |name: &str| files.iter().find(|(file, _)| file == name).map(|(_, bytes)| bytes.as_slice()).unwrap();
    Tokenizer::from_hf(bytes("tokenizer.json"), Some(bytes("tokenizer_config.json")), None).unwrap()
}

/// Two hundred texts in many scripts, and some that are about special tokens and white space.
fn texts() -> Vec<String> {
    let golden: Value = serde_json::from_str(include_str!("tokens.json")).unwrap();
    let golden = golden["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned());
    let more = [
        "",
        " ",
        "  two  spaces ",
        "<s>[INST] hi [/INST] ok</s> <s>",
        "<|im_start|>user\nhi<|im_end|>\n",
        "<start_of_turn>user\nhi<end_of_turn>\n",
        "<|user|>  \n x <|end|>\n",
        "a<|endoftext|>b <unk> <0x41>",
        "\t\n\n\n   \u{a0}\u{3000}x\r\n",
        "▁under▁score ▁",
    ];
    let spaces = (1..=64).map(|n| " ".repeat(n) + "x");
    golden.chain(more.map(String::from)).chain(spaces).collect()
}

fn check(file: &str) {
    let metadata = metadata(file);
    let ours = Tokenizer::from_gguf(&GgufVocab::from_metadata(&metadata).unwrap()).unwrap();
    let files = hf_files(&metadata).unwrap();
    let read = read_back(&files);
    assert_eq!((read.bos(), read.eos(), read.pad()), (ours.bos(), ours.eos(), ours.pad()), "{file}");
    assert_eq!((read.adds_bos(), read.eos_ids()), (ours.adds_bos(), ours.eos_ids()), "{file}");
    let mut wrong = Vec::new();
    for text in texts() {
        for special in [true, false] {
            let (want, got) = (ours.encode(&text, special).unwrap(), read.encode(&text, special).unwrap());
            if want != got {
                wrong.push(format!("{text:?}\n    want {want:?}\n    got  {got:?}"));
            }
            assert_eq!(read.decode(&want, false), ours.decode(&want, false), "{file}: {text:?}");
        }
        if ours.encode_plain(&text, true).unwrap() != read.encode_plain(&text, true).unwrap() {
            wrong.push(format!("plain {text:?}"));
        }
    }
    assert!(wrong.is_empty(), "{file}: {} wrong\n{}", wrong.len(), wrong.join("\n"));

    // And once more round: the directory's tokenizer as GGUF metadata.
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in &files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let again = gguf::vocabulary_metadata(dir.path(), ours.vocab_size()).unwrap();
    let again = Tokenizer::from_gguf(&GgufVocab::from_metadata(&again).unwrap()).unwrap();
    for text in texts() {
        // SentencePiece's scores are made from merges there, and Phi-3's name is not in the directory.
        let differs = file.contains("phi-3") && (text.contains("<|") || text.contains("</s>"));
        assert!(differs || again.encode(&text, true).unwrap() == ours.encode(&text, true).unwrap(), "{file}: {text:?}");
    }
}

macro_rules! files {
    ($($test:ident = $file:literal),* $(,)?) => {
        $(#[test]
        fn $test() {
            check($file);
        })*
    };
}

files! {
    smollm2 = "models/SmolLM2-135M-Instruct.Q4_1.gguf",
    gemma3 = "models/gemma-3-270m-q4_k_m.gguf",
    command_r = "vocabs/ggml-vocab-command-r.gguf",
    deepseek_coder = "vocabs/ggml-vocab-deepseek-coder.gguf",
    deepseek_llm = "vocabs/ggml-vocab-deepseek-llm.gguf",
    falcon = "vocabs/ggml-vocab-falcon.gguf",
    gpt_2 = "vocabs/ggml-vocab-gpt-2.gguf",
    llama_bpe = "vocabs/ggml-vocab-llama-bpe.gguf",
    llama_spm = "vocabs/ggml-vocab-llama-spm.gguf",
    mpt = "vocabs/ggml-vocab-mpt.gguf",
    phi_3 = "vocabs/ggml-vocab-phi-3.gguf",
    qwen2 = "vocabs/ggml-vocab-qwen2.gguf",
    qwen35 = "vocabs/ggml-vocab-qwen35.gguf",
    refact = "vocabs/ggml-vocab-refact.gguf",
    starcoder = "vocabs/ggml-vocab-starcoder.gguf",
}

#[test]
fn other_kinds_are_refused_by_name() {
    for (file, kind) in [("bert-bge", "bert"), ("gemma-4", "gemma4")] {
        let error = hf_files(&metadata(&format!("vocabs/ggml-vocab-{file}.gguf"))).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("a tokenizer of the kind {kind} cannot be written as tokenizer.json (gpt2 and llama can)")
        );
    }
}

/// Llama's three kinds of token, both ends added, several templates; and one text on two ids, of which the later counts.
#[test]
fn what_is_around_a_vocabulary_is_written_too() {
    let mut metadata = Metadata::new();
    metadata.set("tokenizer.ggml.model", "llama");
    let tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "<0xC3>", "<0xA9>", "▁", "a", "b", "▁a", "<think>", "b"];
    metadata.set("tokenizer.ggml.tokens", tokens.iter().collect::<Strings>());
    metadata.set("tokenizer.ggml.token_type", vec![2, 3, 3, 6, 6, 6, 1, 1, 1, 1, 4, 1]);
    metadata.set("tokenizer.ggml.scores", vec![0.0f32, 0.0, 0.0, 0.0, 0.0, 0.0, -3.0, -4.0, -5.0, -1.0, 0.0, -5.0]);
    for (role, id) in [("bos", 1u32), ("eos", 2), ("unknown", 0), ("padding", 2)] {
        metadata.set(format!("tokenizer.ggml.{role}_token_id"), id);
    }
    metadata.set("tokenizer.ggml.add_eos_token", true);
    metadata.set("tokenizer.chat_template", "one");
    metadata.set("tokenizer.chat_template.tools", "two");
    metadata.set("tokenizer.chat_templates", ["tools"].iter().collect::<Strings>());
    let files = hf_files(&metadata).unwrap();
    let config: Value = serde_json::from_slice(&files[1].1).unwrap();
    let want = serde_json::json!({"add_bos_token": true, "add_eos_token": true, "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "pad_token": "</s>", "clean_up_tokenization_spaces": false,
        "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": [{"name": "default", "template": "one"},
        {"name": "tools", "template": "two"}]});
    assert_eq!(config, want);
    let read = read_back(&files);
    assert_eq!(read.encode("a b\né<think>z", true).unwrap(), [1, 9, 6, 11, 3, 4, 5, 10, 6, 0, 2]);
    assert_eq!(read.encode("a</s>", false).unwrap(), [9, 2]);
    let ours = Tokenizer::from_gguf(&GgufVocab::from_metadata(&metadata).unwrap()).unwrap();
    assert_eq!(ours.encode("a b\né<think>z", true).unwrap(), read.encode("a b\né<think>z", true).unwrap());
}
