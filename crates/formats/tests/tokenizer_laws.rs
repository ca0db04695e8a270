//! What holds for every tokenizer and every text: round trips, streams that equal whole decoding, ranges that cover the
//! text.

mod assets;

use std::sync::LazyLock;

use ounce_formats::bytes::Bytes;
use ounce_formats::gguf;
use ounce_formats::tokenizer::{GgufVocab, Tokenizer};
use proptest::prelude::*;

fn load(name: &str) -> Tokenizer {
    let path = assets::path(&format!("vocabs/ggml-vocab-{name}.gguf"));
    let file = gguf::parse(&Bytes::map(&path).unwrap()).unwrap();
    Tokenizer::from_gguf(&GgufVocab::from_metadata(&file.metadata).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// One vocabulary of each algorithm that keeps all of a text.
static LOSSLESS: LazyLock<[(&str, Tokenizer); 4]> =
    LazyLock::new(|| ["gpt-2", "llama-bpe", "llama-spm", "gemma-4"].map(|name| (name, load(name))));

/// Text of many scripts; `▁` is left out because SentencePiece writes spaces with it.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[ -~]{0,20}",
        "[ \\n\\t\\r]{0,6}",
        "(?:Hello|world|don't|I'll|123|4567|  ){1,4}",
        "[àéüñßĳſŉŀǆ\u{300}-\u{306}]{0,8}",
        "[一-鿿ぁ-んァ-ン가-힣]{0,6}",
        "[\u{1f300}-\u{1f6ff}\u{200d}\u{fe0f}]{0,4}",
        "\\PC{0,10}",
        "[\u{0}-\u{1f}\u{7f}-\u{a0}\u{2000}-\u{200f}\u{feff}]{0,4}",
        "(?:<s>|</s>|<\\|im_end\\|>|<\\|endoftext\\|>|<0x41>|<bos>){0,2}",
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat().replace('▁', "_"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_gives_the_text_back(text in text()) {
        for (name, tokenizer) in LOSSLESS.iter() {
            let ids = tokenizer.encode_plain(&text, false).unwrap();
            prop_assert_eq!(&tokenizer.decode(&ids, false), &text, "{}: {:?}", name, ids);
        }
    }

    #[test]
    fn special_tokens_in_a_text_survive(text in text()) {
        for (name, tokenizer) in LOSSLESS.iter() {
            // SentencePiece puts a space after a special token that it takes away only from the start of a text.
            if *name == "llama-spm" {
                continue;
            }
            let ids = tokenizer.encode(&text, false).unwrap();
            prop_assert_eq!(&tokenizer.decode(&ids, false), &text, "{}: {:?}", name, ids);
        }
    }

    #[test]
    fn ranges_cover_the_text_in_order(text in text()) {
        for (name, tokenizer) in LOSSLESS.iter() {
            let (ids, ranges) = tokenizer.encode_with_offsets(&text).unwrap();
            prop_assert_eq!(&ids, &tokenizer.encode(&text, false).unwrap());
            let mut covered = 0;
            for range in &ranges {
                prop_assert!(text.get(range.clone()).is_some(), "{}: {:?} in {:?}", name, range, text);
                prop_assert!(range.start <= covered && range.end >= covered, "{}: {:?} after {}", name, range, covered);
                covered = range.end;
            }
            prop_assert_eq!(covered, text.len(), "{}", name);
        }
    }

    #[test]
    fn a_stream_says_what_whole_decoding_says(seeds in prop::collection::vec(any::<u32>(), 0..40), skip in any::<bool>()) {
        for (name, tokenizer) in LOSSLESS.iter() {
            // Half of the ids are low, where most vocabularies keep bytes and control tokens; some do not exist.
            let limit = tokenizer.vocab_size() as u32 + 2;
            let ids: Vec<u32> = seeds.iter().map(|s| if s % 2 == 0 { (s / 2) % 300 } else { s % limit }).collect();
            let mut stream = tokenizer.stream_with(skip);
            let mut text = String::new();
            for &id in &ids {
                let piece = stream.push(id);
                prop_assert!(piece.as_deref() != Some(""));
                text += piece.as_deref().unwrap_or_default();
            }
            text += stream.finish().as_deref().unwrap_or_default();
            prop_assert_eq!(&text, &tokenizer.decode(&ids, skip), "{}: {:?}", name, ids);
        }
    }
}

#[test]
fn vocabularies_without_vectors_load_and_round_trip() {
    const TEXT: &str = "Hello, world! 3,141 don't 漢字 é\n\tok";
    for name in ["aquila", "baichuan", "gpt-neox"] {
        let tokenizer = load(name);
        let ids = tokenizer.encode_plain(TEXT, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), TEXT, "{name}");
    }
    // Unigram on XLM-R's vocabulary: its character map makes white space spaces. The ids are known from XLM-R.
    let unigram = load("nomic-bert-moe");
    let ids = unigram.encode("Hello world", true).unwrap();
    assert_eq!(ids, [0, 35378, 8999, 2]);
    assert_eq!(unigram.decode(&ids, true), "Hello world");
}

#[test]
fn what_the_model_adds_is_added_once_and_where_it_belongs() {
    let spm = load("llama-spm");
    assert_eq!(spm.encode("Hi", true).unwrap(), [1, 6324]);
    assert_eq!(spm.encode("<s>Hi", false).unwrap(), [1, 6324]);
    assert_eq!(spm.decode(&[1, 6324], true), "Hi");
    assert!(spm.adds_bos());
    let bert = load("bert-bge");
    let ids = bert.encode("Hello, Wörld", true).unwrap();
    assert_eq!((ids[0], *ids.last().unwrap()), (101, 102));
    assert_eq!(bert.decode(&ids, true), "hello, world");
    let llama = load("llama-bpe");
    assert_eq!((llama.bos(), llama.eos()), (Some(128000), Some(128001)));
    let end = llama.id("<|eot_id|>").unwrap();
    assert!(llama.is_special(end) && llama.eos_ids().contains(&end) && llama.eos_ids().contains(&128001));
    assert!(!llama.encode_plain("<|eot_id|>", false).unwrap().contains(&end));
    assert_eq!(llama.with_eos_ids(&[5, 4_000_000]).eos_ids()[0], 5);
}
