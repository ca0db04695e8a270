//! Mutated files: whatever the bytes, readers answer with a value or an error. The mutations are deterministic, so a
//! failure names the iteration that makes it again. `OUNCE_FUZZ_ITERS` sets the number (default 20,000 for each kind).

use std::path::Path;

use ounce_formats::{
    Bytes, TensorData, Tensors, config,
    gguf::{self, Metadata, Strings, Tensor},
    peft, safetensors_file,
};
use ounce_spec::DType;

/// Marsaglia's xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Numbers at the edges of what lengths and offsets can be.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    31,
    33,
    0x7f,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    1 << 61,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX,
];

/// One to four changes: bytes set, bits flipped, lengths replaced, pieces cut, doubled, or taken from a dictionary.
fn mutate(seed: &[u8], dictionary: &[&str], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            1 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            2 | 3 => {
                let width = [1, 4, 8, 8][random.below(4)];
                let edge = EDGES[random.below(EDGES.len())].wrapping_add(random.below(3) as u64).to_le_bytes();
                if let Some(target) = bytes.get_mut(at..at + width) {
                    target.copy_from_slice(&edge[..width]);
                }
            }
            4 => bytes.truncate(at),
            5 => {
                let end = (at + random.below(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            6 => {
                let end = (at + random.below(64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => {
                let word = dictionary[random.below(dictionary.len())].as_bytes();
                let end = if random.below(2) == 0 { at } else { (at + word.len()).min(bytes.len()) };
                bytes.splice(at..end, word.iter().copied());
            }
        }
    }
    bytes
}

/// Runs `read` on mutations of `seeds` and counts how many were accepted. Fails if an input takes more than a second.
fn fuzz(name: &str, seeds: &[Vec<u8>], dictionary: &[&str], read: impl Fn(&[u8]) -> bool) {
    let iterations = std::env::var("OUNCE_FUZZ_ITERS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    for seed in seeds {
        assert!(read(seed), "{name}: a seed is refused");
    }
    let mut accepted = 0usize;
    for iteration in 0..iterations {
        // A fresh generator for each iteration: any of them can be made again by itself.
        let mut random = Random(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(iteration as u64 + 1) | 1);
        let input = mutate(&seeds[random.below(seeds.len())], dictionary, &mut random);
        let mut took = Vec::new();
        // The machine may be slow for a moment; an input that takes long takes long each time.
        while took.iter().all(|t: &std::time::Duration| t.as_secs() >= 1) {
            assert!(took.len() < 4, "{name}: iteration {iteration} takes {took:?}");
            let start = std::time::Instant::now();
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&input)));
            let Ok(fine) = result else { panic!("{name}: iteration {iteration} panics") };
            accepted += usize::from(fine && took.is_empty());
            took.push(start.elapsed());
        }
    }
    // A mutator that breaks everything at the first check would prove nothing, and so would one that breaks nothing.
    assert!(accepted > 0 && accepted < iterations, "{name}: {accepted} of {iterations} accepted");
}

/// A small model as GGUF, whole enough that `open` takes it.
fn tiny_gguf(architecture: &str) -> Vec<u8> {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", architecture);
    for (key, value) in [
        ("embedding_length", 32u32),
        ("block_count", 1),
        ("feed_forward_length", 64),
        ("context_length", 16),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("attention.sliding_window", 4),
    ] {
        metadata.set(format!("{architecture}.{key}"), value);
    }
    metadata.set("tokenizer.ggml.tokens", ["a", "b", "<|im_end|>", ""].iter().collect::<Strings>());
    metadata.set("tokenizer.ggml.token_type", vec![1, 1, 3, 1]);
    metadata.set("tokenizer.ggml.scores", vec![0.0f32; 4]);
    let tensor = |name: &str, dtype: DType, shape: &[usize]| {
        let size = dtype.bytes_of(shape.iter().product()).unwrap();
        let bytes = Bytes::build(size, |out| out.iter_mut().zip(0u8..).for_each(|(byte, i)| *byte = i & 0x3f));
        Tensor { name: name.into(), dtype, shape: shape.to_vec(), bytes }
    };
    let tensors = [
        tensor("token_embd.weight", DType::Q8_0, &[4, 32]),
        tensor("rope_freqs.weight", DType::F32, &[8]),
        tensor("blk.0.attn_q.weight", DType::Q4_0, &[32, 32]),
        tensor("blk.0.attn_k.weight", DType::F16, &[16, 32]),
        tensor("blk.0.attn_norm.weight", DType::F32, &[32]),
        tensor("output_norm.weight", DType::F32, &[32]),
    ];
    let mut tensors = tensors.to_vec();
    tensors[1] = Tensor { bytes: Bytes::from(&[1.0f32; 8][..]), ..tensors[1].clone() };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    gguf::write(&path, &metadata, &tensors).unwrap();
    std::fs::read(&path).unwrap()
}

const GGUF_WORDS: [&str; 14] = [
    "GGUF",
    "general.alignment",
    "general.architecture",
    "general.type",
    "llama.block_count",
    "llama.attention.head_count",
    "split.count",
    "gemma3",
    "gpt2",
    "tokenizer.ggml.eos_token_id",
    "rope_freqs.weight",
    "\u{ff}",
    "blk.0.attn_q.weight",
    "general.sampling.top_k",
];

#[test]
fn gguf_bytes() {
    let seeds = [tiny_gguf("llama"), tiny_gguf("gemma3"), tiny_gguf("qwen2")];
    fuzz("gguf", &seeds, &GGUF_WORDS, |bytes| {
        let Ok(file) = gguf::parse(&Bytes::copy_of(bytes)) else { return false };
        // What is accepted must be readable to its last byte.
        for tensor in &file.tensors {
            assert_eq!(Some(tensor.bytes.len()), tensor.dtype.bytes_of(tensor.shape.iter().product()));
        }
        let _ = gguf::write(Path::new("/nonexistent/x.gguf"), &file.metadata, &file.tensors);
        gguf::read_model(&file).is_ok()
    });
}

/// Llama's queries are moved by whole rows; a quantised vector in their place has none.
#[test]
fn queries_that_cannot_be_cut_into_rows_are_refused() {
    let mut file = gguf::parse(&Bytes::copy_of(&tiny_gguf("llama"))).unwrap();
    let query = file.tensors.iter_mut().find(|tensor| tensor.name == "blk.0.attn_q.weight").unwrap();
    (query.shape, query.bytes) = (vec![32], query.bytes.slice(0..18));
    let problems = gguf::read_model(&file).unwrap_err().join("\n");
    assert!(problems.contains("cannot be cut into rows"), "{problems}");
}

/// Every prefix of a valid file is refused, but for those that lack only the padding at the end.
#[test]
fn gguf_prefixes() {
    let whole = tiny_gguf("llama");
    for len in 0..whole.len() {
        assert!(gguf::parse(&Bytes::copy_of(&whole[..len])).is_err(), "{len} of {} bytes", whole.len());
    }
}

fn tiny_safetensors() -> Vec<u8> {
    let mut tensors = Tensors::new();
    tensors.insert("a.weight", TensorData::from_f32(vec![2, 3], &[1.0; 6]));
    tensors.insert("b", TensorData { dtype: DType::BF16, shape: vec![5], bytes: Bytes::copy_of(&[7; 10]) });
    tensors.insert("c", TensorData { dtype: DType::F16, shape: vec![], bytes: Bytes::copy_of(&[7; 2]) });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.safetensors");
    safetensors_file::write(&path, &tensors).unwrap();
    std::fs::read(&path).unwrap()
}

#[test]
fn safetensors_bytes() {
    let words = [
        "\"dtype\":",
        "F32",
        "BF16",
        "I64",
        "F4",
        "shape",
        "data_offsets",
        "[0,0]",
        "18446744073709551615",
        "__metadata__",
        "-1",
        "{",
        "[[[[",
    ];
    fuzz("safetensors", &[tiny_safetensors()], &words, |bytes| {
        let Ok(tensors) = safetensors_file::parse(&Bytes::copy_of(bytes), &|_| true) else { return false };
        for (_, tensor) in tensors.iter() {
            assert_eq!(Some(tensor.bytes.len()), tensor.dtype.bytes_of(tensor.elements()));
        }
        true
    });
}

#[test]
fn safetensors_prefixes_and_bombs() {
    let whole = tiny_safetensors();
    for len in 0..whole.len() {
        assert!(safetensors_file::parse(&Bytes::copy_of(&whole[..len]), &|_| true).is_err(), "{len} bytes");
    }
    for bomb in [u64::MAX, 1 << 63, 100_000_001, 1 << 20] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&bomb.to_le_bytes());
        assert!(safetensors_file::parse(&Bytes::copy_of(&bytes), &|_| true).is_err(), "{bomb}");
    }
}

const LLAMA: &str = r#"{"model_type":"llama","hidden_size":64,"intermediate_size":128,"num_hidden_layers":2,
 "num_attention_heads":4,"num_key_value_heads":2,"vocab_size":100,"max_position_embeddings":64,"rms_norm_eps":1e-5,
 "rope_theta":10000.0,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
 "original_max_position_embeddings":32},"tie_word_embeddings":true,"eos_token_id":[1,2],"hidden_act":"silu"}"#;
const GEMMA: &str = r#"{"model_type":"gemma3","text_config":{"hidden_size":64,"num_hidden_layers":6,"sliding_window":8,
 "rope_parameters":{"full_attention":{"rope_type":"linear","factor":8.0,"rope_theta":1e6},
 "sliding_attention":{"rope_type":"default","rope_theta":1e4}}}}"#;
const QWEN: &str = r#"{"model_type":"qwen2","hidden_size":64,"intermediate_size":128,"num_hidden_layers":4,
 "num_attention_heads":4,"vocab_size":100,"use_sliding_window":true,"max_window_layers":2,
 "layer_types":["full_attention","full_attention","sliding_attention","sliding_attention"]}"#;
const GPT2: &str = r#"{"model_type":"gpt2","n_embd":64,"n_layer":2,"n_head":4,"n_inner":null,"vocab_size":100}"#;

#[test]
fn config_json() {
    let seeds = [LLAMA, GEMMA, QWEN, GPT2].map(|text| text.as_bytes().to_vec());
    let words = [
        "null",
        "-1",
        "0",
        "1e308",
        "18446744073709551616",
        "[]",
        "{}",
        "\"qwen3\"",
        "\"mistral\"",
        "4294967296",
        "[[",
        "\"\\ud800\"",
    ];
    fuzz("config.json", &seeds, &words, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let _ = config::parse_generation(text);
        let Ok(config) = config::parse(text) else { return false };
        // Whatever is accepted can be written and read again.
        let written = config::to_json(&config, DType::BF16).expect("an accepted configuration can be written");
        config::parse(&written).unwrap_or_else(|problems| panic!("{problems:?}\n{text}\n{written}"));
        true
    });
}

#[test]
fn adapter_config_and_index() {
    let adapter = peft::AdapterConfig::lora("base", 8, 16.0, vec!["q_proj".into()]);
    let text = serde_json::to_string(&adapter).unwrap();
    let other =
        r#"{"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":"all-linear","rank_pattern":{"a.q_proj":2}}"#;
    let words = ["null", "true", "-1", "1e999", "[]", "{}", "\"DORA\"", "18446744073709551615", "\"all\"", "[["];
    fuzz("adapter_config.json", &[text.into_bytes(), other.into()], &words, |bytes| {
        std::str::from_utf8(bytes).is_ok_and(|text| peft::parse_config(text).is_ok())
    });
}

/// Both files of an adapter at once, the configuration before the weights.
#[test]
fn adapter_files() {
    const SEAM: &[u8] = b"\n\0\n";
    let seed = |config: &str| {
        let mut tensors = Tensors::new();
        for (module, rank) in [("a.q_proj", 2), ("b.v_proj", 4)] {
            for (side, shape) in [(peft::Side::A, vec![rank, 3]), (peft::Side::B, vec![5, rank])] {
                let values = vec![0.5; shape.iter().product()];
                tensors.insert(peft::key(module, side), TensorData::from_f32(shape, &values));
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("adapter_model.safetensors");
        safetensors_file::write(&path, &tensors).unwrap();
        [config.as_bytes(), SEAM, &std::fs::read(&path).unwrap()].concat()
    };
    let seeds = [
        seed(r#"{"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":["v_proj"],"rank_pattern":{"a.q_proj":2}}"#),
        seed(
            r#"{"peft_type":"LORA","r":2,"lora_alpha":1.5,"target_modules":"all-linear","rank_pattern":{"v_proj":4}}"#,
        ),
    ];
    let words =
        ["lora_A", "lora_B", "base_model.model.", ".weight", "[2,3]", "[4,0]", "F32", "r\":0", "rank_pattern", "-1"];
    fuzz("adapter", &seeds, &words, |bytes| {
        let Some(seam) = bytes.windows(SEAM.len()).position(|part| part == SEAM) else { return false };
        let Ok(text) = std::str::from_utf8(&bytes[..seam]) else { return false };
        let weights = Bytes::copy_of(&bytes[seam + SEAM.len()..]);
        let (Ok(config), Ok(tensors)) = (peft::parse_config(text), safetensors_file::parse(&weights, &|_| true)) else {
            return false;
        };
        if !peft::tensor_problems(&config, &tensors).is_empty() {
            return false;
        }
        // What is accepted has a scale for every module, and is written with the same meaning.
        for module in tensors.names().filter_map(|name| Some(peft::split_key(name)?.0)) {
            assert!(config.scaling_of(module).is_finite(), "{module} {config:?}");
        }
        let again = peft::parse_config(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
        true
    });
}

#[test]
fn shard_index() {
    let index = br#"{"metadata":{"total_size":8},"weight_map":{"a":"model-00001-of-00001.safetensors","b":"x"}}"#;
    fuzz("index", &[index.to_vec()], &["../", "/etc/passwd", "C:\\", "\\u0000", ""], |bytes| {
        let Ok(map) =
            std::str::from_utf8(bytes).map_err(|_| ()).and_then(|t| safetensors_file::parse_index(t).map_err(|_| ()))
        else {
            return false;
        };
        assert!(map.values().all(|file| !file.contains(['/', '\\', '\0']) && file != ".."), "{map:?}");
        true
    });
}
