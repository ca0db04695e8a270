//! Two hundred texts in many scripts, tokenised by us and by transformers from the same two GGUF files (tokens.json, made
//! by xtask/golden/make_tokens.py).

mod assets;

use ounce_formats::bytes::Bytes;
use ounce_formats::gguf;
use ounce_formats::tokenizer::{GgufVocab, Tokenizer};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn check(name: &str, file: &str, listed: &[(&str, &str)]) {
    let golden: Value = serde_json::from_str(include_str!("tokens.json")).unwrap();
    let file = gguf::parse(&Bytes::map(&assets::path(&format!("models/{file}"))).unwrap()).unwrap();
    let tokenizer = Tokenizer::from_gguf(&GgufVocab::from_metadata(&file.metadata).unwrap()).unwrap();
    let (mut wrong, mut different) = (Vec::new(), 0);
    let texts = golden["texts"].as_array().unwrap();
    assert_eq!(texts.len(), 200);
    for (text, want) in texts.iter().zip(golden[name].as_array().unwrap()) {
        let text = text.as_str().unwrap();
        for (special, want) in [(false, &want[0]), (true, &want[1])] {
            let ids = tokenizer.encode(text, special).unwrap();
            let written: Vec<String> = ids.iter().map(u32::to_string).collect();
            let hash: String = Sha256::digest(written.join(",")).iter().take(8).map(|b| format!("{b:02x}")).collect();
            if hash == want.as_str().unwrap() {
                continue;
            }
            if listed.iter().any(|(part, _)| text.contains(part)) {
                different += 1;
            } else {
                wrong.push(format!("{text:?} (special {special}): {ids:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{name}: {} of 400 wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(different > 0, !listed.is_empty(), "{name}: {different} listed");
}

#[test]
fn smollm2_tokenises_as_transformers_does() {
    check("smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", &[]);
}

#[test]
fn gemma3_tokenises_as_transformers_does() {
    check(
        "gemma3",
        "gemma-3-270m-q4_k_m.gguf",
        &[(
            "▁",
            "transformers looks for runs of spaces after it wrote them as `▁`, so a `▁` of the text counts as a space",
        )],
    );
}
