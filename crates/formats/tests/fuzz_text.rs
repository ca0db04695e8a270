//! Mutated tokenizer.json files, GGUF vocabularies and chat templates: whatever the bytes, the answer is a value or a typed
//! error. The mutations are the same in every run; `OUNCE_FUZZ_ITERS` sets how many there are.

use ounce_formats::template::{CHATML, ChatTemplate, RenderOptions};
use ounce_formats::tokenizer::{GgufVocab, Tokenizer};
use serde_json::{Value, json};

fn iterations() -> u64 {
    std::env::var("OUNCE_FUZZ_ITERS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000)
}

/// SplitMix64 (Steele et al. 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// One to four small changes: bytes, words of the format, repeated and missing parts.
fn mutate(source: &[u8], words: &[&str], random: &mut Random) -> Vec<u8> {
    let mut bytes = source.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(12)).min(bytes.len());
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] = random.next() as u8,
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..end, random.pick(words).bytes())),
            3 => drop(bytes.splice(at..at, random.pick(words).bytes())),
            4 => {
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            _ => bytes.truncate(bytes.len() - random.below(bytes.len() / 8 + 1)),
        }
    }
    bytes
}

const TEXT: &str = "Hello  world, don't <s> 123 é 漢 \n\n👍";

fn use_tokenizer(tokenizer: &Tokenizer) {
    for ids in [tokenizer.encode(TEXT, true), tokenizer.encode_plain(TEXT, false)].into_iter().flatten() {
        let mut stream = tokenizer.stream();
        let mut text: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
        text += stream.finish().as_deref().unwrap_or_default();
        assert_eq!(text, tokenizer.decode(&ids, true));
    }
    if let Ok((ids, ranges)) = tokenizer.encode_with_offsets(TEXT) {
        assert_eq!(ids.len(), ranges.len());
    }
}

fn files() -> Vec<Value> {
    let added = json!([{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false, "special": true},
        {"id": 30, "content": "don", "single_word": true, "lstrip": true, "rstrip": false, "normalized": true, "special": false}]);
    let bpe = json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": 4, "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"},
        "added_tokens": added, "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "'s|\\p{N}| ?\\p{L}+|\\s+(?!\\S)"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"<s>": 0, "H": 1, "e": 2, "l": 3, "o": 4, "Ġ": 5, "w": 6, "r": 7, "d": 8, "ll": 9, "Ġw": 10, "He": 11, "Hell": 12, "Ã": 13, "©": 14}, "merges": [["l", "l"], ["Ġ", "w"], ["H", "e"], ["He", "ll"]]}
    });
    let word_piece = json!({"version": "1.0", "added_tokens": added, "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"<s>": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "hello": 4, "##lo": 5, "world": 6}}});
    let unigram = json!({"version": "1.0", "added_tokens": [], "normalizer": {"type": "Prepend", "prepend": "▁"}, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true},
        "post_processor": null, "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁", -1.0], ["Hello", -2.5], ["▁world", -3.0], ["l", -4.0], ["<0xC3>", -5.0]], "byte_fallback": false}});
    vec![bpe, word_piece, unigram]
}

#[test]
fn mutated_tokenizer_files_give_a_tokenizer_or_an_error() {
    let words = [
        "null",
        "true",
        "-1",
        "0",
        "4294967295",
        "18446744073709551616",
        "1e999",
        "\"\"",
        "[]",
        "{}",
        "\"type\"",
        "ByteLevel",
        "BPE",
        "Unigram",
        "WordPiece",
        "WordLevel",
        "Metaspace",
        "\"▁\"",
        "Sequence",
        "Precompiled",
        "Replace",
        "Regex",
        "(a+)+$",
        "(",
        "[^",
        "\\\\p{L}",
        "{1000000}",
        "Split",
        "Removed",
        "MergedWithNext",
        "Contiguous",
        "Strip",
        "ByteFallback",
        "Fuse",
        "\\ud800",
        "\\u0000",
        "max_length",
        "\"<s>\"",
        "99999999",
        "Digits",
    ];
    let files: Vec<Vec<u8>> = files().iter().map(|file| serde_json::to_vec(file).unwrap()).collect();
    for file in &files {
        use_tokenizer(&Tokenizer::from_hf(file, None, None).unwrap());
    }
    let (mut random, mut loaded) = (Random(1), 0);
    let config = br#"{"bos_token": "<s>", "add_bos_token": true, "eos_token": {"content": "<s>"}}"#;
    for _ in 0..iterations() {
        let file = mutate(&files[random.below(files.len())], &words, &mut random);
        let config = mutate(config, &["null", "\"", "{", "true", "bos_token"], &mut random);
        let config = (random.below(4) == 0).then_some(config.as_slice());
        if let Ok(tokenizer) = Tokenizer::from_hf(&file, config, None) {
            loaded += 1;
            use_tokenizer(&tokenizer);
        }
    }
    assert!(loaded > 0, "no mutated file loads: the mutations are too coarse to test anything");
}

#[test]
fn mutated_vocabularies_give_a_tokenizer_or_an_error() {
    let mut random = Random(2);
    let (mut loaded, mut refused, mut written) = (0, 0, 0);
    for _ in 0..iterations() {
        let texts = [
            "<unk>", "<s>", "</s>", "<0x41>", "<0xC3>", "<0x-1>", "<0xZZ>", "▁", "l", "o", "lo", "▁lo", "é", "", "##a",
            "Ġ", "Ċ", "\n", "▁▁",
        ];
        let count = random.below(24);
        let mut vocab = GgufVocab {
            model: random.pick(&["llama", "gpt2", "gemma4", "bert", "t5", "rwkv"]).into(),
            pre: Some(random.pick(&["default", "llama-bpe", "qwen2", "tekken", "superbpe", "none"]).into()),
            tokens: (0..count).map(|_| random.pick(&texts).to_string()).collect(),
            ..Default::default()
        };
        let length = if random.below(8) == 0 { random.below(30) } else { count };
        let scores = [0.0, -1.0, 1e38, f32::NEG_INFINITY, f32::NAN, -0.0];
        let nan = random.below(6) == 0;
        vocab.scores = (random.below(8) > 0).then(|| {
            (0..length).map(|_| scores[random.below(6)]).map(|s| if nan || !s.is_nan() { s } else { 0.5 }).collect()
        });
        let codes = [1, 1, 1, 1, 2, 3, 4, 5, 6, 0, -1, i32::MAX];
        let wild = random.below(4) == 0;
        vocab.token_type = (random.below(3) > 0)
            .then(|| (0..length).map(|_| codes[random.below(if wild { 12 } else { 8 })]).collect());
        let rules = ["l o", "▁ lo", "l", "", " ", "  ", "é", "o o", "lo lo"];
        vocab.merges =
            (random.below(6) > 0).then(|| (0..random.below(8)).map(|_| random.pick(&rules).to_string()).collect());
        let mut id = || (random.below(3) == 0).then(|| random.below(26) as u32);
        (vocab.bos, vocab.eos, vocab.unk, vocab.pad, vocab.cls) = (id(), id(), id(), id(), id());
        vocab.add_bos = (random.below(2) == 0).then_some(true);
        vocab.charsmap = (random.below(4) == 0).then(|| (0..random.below(40)).map(|_| random.next() as u8).collect());
        match Tokenizer::from_gguf(&vocab) {
            Ok(tokenizer) => {
                loaded += 1;
                use_tokenizer(&tokenizer);
                assert!(tokenizer.control_tokens_in(TEXT).all(|range| TEXT.get(range).is_some()));
                // Expressions are compiled anew each time, which is most of the work: an eighth of them is written and read.
                let files = (loaded % 8 == 0).then(|| vocab.hf_files(Some("{{ messages }}".into())).ok()).flatten();
                for (name, bytes) in files.into_iter().flatten() {
                    assert!(serde_json::from_slice::<Value>(&bytes).is_ok(), "{name}");
                    if let Ok(tokenizer) = Tokenizer::from_hf(&bytes, None, None) {
                        written += 1;
                        use_tokenizer(&tokenizer);
                    }
                }
            }
            Err(_) => refused += 1,
        }
    }
    assert!(loaded * 20 > refused && refused > 0, "{loaded} loaded, {refused} refused");
    assert!(written * 32 > loaded, "{written} of {loaded} loaded vocabularies were written and read back");
}

#[test]
fn mutated_templates_give_a_text_or_an_error() {
    let sources = [
        CHATML,
        "{%- set ns = namespace(n=0) -%}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m['content'] | trim }} [/INST]{% elif m.role == 'assistant' %}{% generation %} {{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ raise_exception('no ' ~ m.role) }}{% endif %}{% set ns.n = ns.n + 1 %}{% endfor %}",
        "{{ bos_token }}{% macro f(x, y=2) -%}{{ x|tojson(indent=4) }}{%- endmacro %}{% for t in tools or [] %}{{ f(t) }}{% endfor %}{{ messages[-1].content.split('a')[0].strip().upper() }}{{ strftime_now('%d %b %Y') }}{% if messages is defined and messages|length > 1 %}{{ messages[1:]|map(attribute='role')|list|join(', ') }}{% endif %}",
    ];
    let words = [
        "{%",
        "%}",
        "{{",
        "}}",
        "{#",
        "-%}",
        "{%-",
        "for",
        "endfor",
        "if",
        "endif",
        "else",
        "set",
        "macro",
        "call",
        "generation",
        "endgeneration",
        "range(9999)",
        "loop.cycle()",
        "recursive",
        "not ",
        "**",
        "~",
        "|tojson",
        "|length",
        "[::0]",
        "[-1]",
        "['x']",
        "(",
        ")",
        "{",
        "none",
        "messages",
        "'",
        "\"",
        "999999999999999999999",
        "import",
        "%c",
        "|format(",
        "|batch(0)",
        "|slice(0)",
        "|round(99)",
        "|indent(-1)",
        "|int(base=1)",
        "1/0",
        "1%0",
        "1//0",
        "é",
        "\u{0}",
        "\\u",
        ".__class__",
    ];
    let messages = json!([{"role": "user", "content": "a <b> é"}, {"role": "assistant", "content": "ok"}]);
    let options =
        RenderOptions { tools: Some(json!([{"name": "f", "x": [1, 2.5, null]}])), now: Some(0), ..Default::default() };
    let (mut random, mut rendered) = (Random(3), 0);
    for _ in 0..iterations() {
        let source = mutate(random.pick(&sources).as_bytes(), &words, &mut random);
        let Ok(template) = ChatTemplate::new(&String::from_utf8_lossy(&source), Some("<s>"), Some("</s>")) else {
            continue;
        };
        rendered += usize::from(template.render(&messages, &options).is_ok());
        if let Ok((text, spans)) = template.render_with_answer_spans(&messages, &options) {
            assert!(spans.iter().all(|span| text.get(span.clone()).is_some()));
        }
    }
    assert!(rendered > 0, "no mutated template renders: the mutations are too coarse to test anything");
}
