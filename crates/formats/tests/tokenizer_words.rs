//! Our own way through byte-level BPE against the library's, on tokenizer.json files that differ only in what decides
//! between the two.

use ounce_formats::tokenizer::Tokenizer;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A byte-level tokenizer with a few merges. With `way_round` it has an added token with a condition that never holds,
/// which our own way does not take.
fn file(pre: Value, way_round: bool) -> Tokenizer {
    let printable = (0x21..=0x7eu32).chain(0xa1..=0xac).chain(0xae..=0xff);
    let alphabet = printable.chain(0x100..=0x143).map(|c| char::from_u32(c).unwrap().to_string());
    let merges = [
        ["l", "l"],
        ["h", "e"],
        ["he", "ll"],
        ["hell", "o"],
        ["Ġ", "w"],
        ["Ġ", "Ġ"],
        ["Ċ", "Ċ"],
        ["1", "2"],
        ["Ã", "©"],
        ["'", "s"],
    ];
    let tokens = alphabet.chain(merges.iter().map(|merge| merge.concat()));
    let vocab: serde_json::Map<String, Value> = tokens.enumerate().map(|(id, token)| (token, id.into())).collect();
    let count = vocab.len();
    let added = |id: usize, content: &str, special: bool, lstrip: bool| {
        json!({"id": id, "content": content, "single_word": false,
        "lstrip": lstrip, "rstrip": false, "normalized": false, "special": special})
    };
    let mut tokens = vec![added(count, "<s>", true, false), added(count + 1, "<user>", false, false)];
    if way_round {
        tokens.push(added(count + 2, "\u{10fffe}", true, true));
    }
    let json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": tokens, "normalizer": null,
        "pre_tokenizer": pre, "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges}});
    Tokenizer::from_hf(&serde_json::to_vec(&json).unwrap(), None, None).unwrap()
}

fn pre_tokenizers() -> [Value; 4] {
    let bytes =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let sequence = |steps: Value| json!({"type": "Sequence", "pretokenizers": steps});
    [
        bytes(true),
        sequence(json!([{"type": "Digits", "individual_digits": true}, bytes(true)])),
        sequence(json!([split("\\p{N}{1,3}"), split("[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\s+(?!\\S)|\\s+"), bytes(false)])),
        sequence(json!([{"type": "Digits", "individual_digits": false}, bytes(false)])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_ways_give_the_same_ids(text in "(?:hello|world|  | |\\n\\n|12|3|é|漢|👍|'s|<s>|<user>|\\PC){0,24}") {
        for pre in pre_tokenizers() {
            let (own, library) = (file(pre.clone(), false), file(pre, true));
            prop_assert_eq!(own.encode(&text, false).unwrap(), library.encode(&text, false).unwrap(), "{:?}", text);
            prop_assert_eq!(own.encode_plain(&text, false).unwrap(), library.encode_plain(&text, false).unwrap(), "{:?}", text);
            let ranges = own.encode_with_offsets(&text).unwrap().1;
            prop_assert_eq!(ranges, library.encode_with_offsets(&text).unwrap().1, "{:?}", text);
        }
    }
}
