//! Hugging Face directories and adapters: written and read again, in every layout, and refused when broken.

use std::{borrow::Cow, fs, path::Path};

use ounce_formats::vfs::Disk;
use ounce_formats::{
    Bytes, Kind, TensorData, Tensors, config,
    gguf::{self, Array, Metadata, Strings, Value},
    hf, open, peft, safetensors_file,
    save::Info,
};
use ounce_spec::{
    DType, ModelConfig,
    model::{GenerationConfig, LayerType, RopeScaling},
};

fn tiny(model_type: &str) -> String {
    let json = match model_type {
        "gpt2" => r#"{"n_embd":8,"n_layer":1,"n_head":2,"vocab_size":6,"n_positions":16}"#.to_owned(),
        _ => r#"{"hidden_size":8,"intermediate_size":12,"num_hidden_layers":2,"num_attention_heads":2,
            "num_key_value_heads":1,"head_dim":4,"vocab_size":6,"max_position_embeddings":16,"sliding_window":4}"#
            .to_owned(),
    };
    format!("{{\"model_type\":\"{model_type}\",{}", &json[1..])
}

/// Some tensors of a family, each with values of its own.
fn tensors(config: &ModelConfig) -> Tensors {
    let shapes: Vec<(&str, Vec<usize>)> = match config.model_type.as_str() {
        "gpt2" => vec![
            ("transformer.wte.weight", vec![6, 8]),
            ("transformer.wpe.weight", vec![16, 8]),
            ("transformer.h.0.attn.c_attn.weight", vec![24, 8]),
            ("transformer.h.0.attn.c_attn.bias", vec![24]),
            ("transformer.h.0.mlp.c_proj.weight", vec![8, 32]),
        ],
        _ => vec![
            ("model.embed_tokens.weight", vec![6, 8]),
            ("model.layers.0.self_attn.q_proj.weight", vec![8, 8]),
            ("model.layers.1.self_attn.k_proj.weight", vec![4, 8]),
            ("model.layers.1.self_attn.o_proj.weight", vec![8, 8]),
            ("model.layers.1.input_layernorm.weight", vec![8]),
            ("model.norm.weight", vec![8]),
        ],
    };
    let make = |(i, (name, shape)): (usize, (&str, Vec<usize>))| {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|j| (100 * i + j) as f32 / 64.0).collect();
        (name.to_owned(), TensorData::from_f32(shape, &values))
    };
    shapes.into_iter().enumerate().map(make).collect()
}

fn infos(tensors: &Tensors) -> Vec<Info> {
    tensors.iter().map(|(name, t)| Info { name: name.into(), dtype: t.dtype, shape: t.shape.clone() }).collect()
}

fn assert_same(a: &Tensors, b: &Tensors, what: &str) {
    assert_eq!(a.names().collect::<Vec<_>>(), b.names().collect::<Vec<_>>(), "{what}");
    for (name, tensor) in a.iter() {
        let other = b.get(name).unwrap();
        assert_eq!((tensor.dtype, &tensor.shape), (other.dtype, &other.shape), "{what} {name}");
        assert_eq!(tensor.to_f32(), other.to_f32(), "{what} {name}");
    }
}

#[test]
fn every_family_goes_to_a_directory_and_to_gguf_and_back() {
    for model_type in config::MODEL_TYPES {
        let mut config = config::parse(&tiny(model_type)).unwrap();
        config.tie_word_embeddings = true;
        let tensors = tensors(&config);
        let dir = tempfile::tempdir().unwrap();
        hf::write_tensors(dir.path(), &config, &tensors, &hf::Companions::default()).unwrap();
        let read = open(dir.path()).unwrap();
        assert_eq!(read.kind, Kind::HuggingFace);
        assert_eq!(read.config, config, "{model_type}");
        assert_same(&read.tensors, &tensors, model_type);

        let file = dir.path().join("model.gguf");
        let mut base = Metadata::new();
        base.set("tokenizer.ggml.model", "gpt2");
        base.set("split.count", 3u32);
        let plan = |config: &ModelConfig| gguf::export(config, &GenerationConfig::default(), &infos(&tensors), &base);
        if model_type == "gemma3_text" {
            // Gemma's default scale is that of heads of 256; these have 4, and GGUF cannot say so.
            assert!(plan(&config).unwrap_err().join("\n").contains("scaled by 0.0625 and not 0.5"));
            config.attention_scale = 0.5;
        }
        let export = plan(&config).unwrap();
        assert_eq!(export.losses.len(), usize::from(model_type == "mistral"), "{:?}", export.losses);
        export.write(&file, &mut |info| Ok((&*tensors.get(&info.name).unwrap().bytes).into())).unwrap();
        let read = open(&file).unwrap();
        assert_same(&read.tensors, &tensors, model_type);
        let metadata = read.gguf.unwrap();
        assert_eq!(metadata.str("tokenizer.ggml.model"), Ok(Some("gpt2")));
        assert!(!metadata.contains("split.count"));
        let (ours, theirs) = (&config, &read.config);
        assert_eq!((ours.hidden_size, ours.head_dim), (theirs.hidden_size, theirs.head_dim), "{model_type}");
        assert_eq!((&ours.rope, &ours.rope_local), (&theirs.rope, &theirs.rope_local), "{model_type}");
        // GGUF has no windows for Llama's architecture, which Mistral shares.
        if model_type != "mistral" {
            assert_eq!(ours.layer_types, theirs.layer_types, "{model_type}");
        }
    }
}

/// gpt2's files hold `[n_in, n_out]`, our memory and GGUF `[n_out, n_in]`.
#[test]
fn gpt2_weights_are_turned_on_the_way_in_and_out() {
    let config = config::parse(&tiny("gpt2")).unwrap();
    let tensors = tensors(&config);
    let dir = tempfile::tempdir().unwrap();
    hf::write_tensors(dir.path(), &config, &tensors, &hf::Companions::default()).unwrap();
    let stored = safetensors_file::read(&dir.path().join("model.safetensors"), &|_| true).unwrap();
    let name = "transformer.h.0.attn.c_attn.weight";
    let (ours, theirs) = (tensors.get(name).unwrap(), stored.get(name).unwrap());
    assert_eq!((&ours.shape[..], &theirs.shape[..]), (&[24, 8][..], &[8, 24][..]));
    let (ours, theirs) = (ours.to_f32().unwrap(), theirs.to_f32().unwrap());
    assert!((0..24).all(|out| (0..8).all(|input| ours[out * 8 + input] == theirs[input * 24 + out])));
    assert_eq!(stored.get("transformer.wte.weight").unwrap().shape, [6, 8]);
}

#[test]
fn names_of_older_and_larger_classes_are_brought_to_one_form() {
    let cases = [
        ("gpt2", "h.0.ln_1.weight", Some("transformer.h.0.ln_1.weight")),
        ("gpt2", "wte.weight", Some("transformer.wte.weight")),
        ("gpt2", "h.0.attn.bias", None),
        ("llama", "layers.0.mlp.up_proj.weight", Some("model.layers.0.mlp.up_proj.weight")),
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq", None),
        ("gemma3_text", "language_model.model.norm.weight", Some("model.norm.weight")),
        ("gemma3_text", "model.language_model.norm.weight", Some("model.norm.weight")),
        ("gemma3_text", "vision_tower.x.weight", None),
        ("gemma3_text", "lm_head.weight", Some("lm_head.weight")),
    ];
    for (model_type, stored, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), tiny(model_type)).unwrap();
        let mut tensors = Tensors::new();
        tensors.insert(stored, TensorData::from_f32(vec![2], &[1.0, 2.0]));
        safetensors_file::write(&dir.path().join("model.safetensors"), &tensors).unwrap();
        let read = open(dir.path()).unwrap();
        assert_eq!(read.tensors.names().collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>(), "{stored}");
    }
}

#[test]
fn sharded_models_are_read_and_their_faults_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("config.json"), tiny("llama")).unwrap();
    let one = |name: &str, value: f32| -> Tensors {
        [(name.to_owned(), TensorData::from_f32(vec![1], &[value]))].into_iter().collect()
    };
    safetensors_file::write(&path("a.safetensors"), &one("model.norm.weight", 1.0)).unwrap();
    safetensors_file::write(&path("b.safetensors"), &one("lm_head.weight", 2.0)).unwrap();
    let index =
        |map: &str| fs::write(path("model.safetensors.index.json"), format!("{{\"weight_map\":{map}}}")).unwrap();
    let message = |dir: &Path| open(dir).unwrap_err().to_string();

    index(r#"{"model.norm.weight":"a.safetensors","lm_head.weight":"b.safetensors"}"#);
    let read = open(dir.path()).unwrap();
    assert_eq!(read.tensors.get("lm_head.weight").unwrap().to_f32().unwrap(), [2.0]);
    assert_eq!(read.tensors.len(), 2);

    index(r#"{"model.norm.weight":"a.safetensors","lm_head.weight":"c.safetensors","x":"d.safetensors"}"#);
    let text = message(dir.path());
    assert!(text.contains("c.safetensors is listed") && text.contains("d.safetensors is listed"), "{text}");
    index(r#"{"model.norm.weight":"b.safetensors","lm_head.weight":"b.safetensors"}"#);
    assert!(message(dir.path()).contains("model.norm.weight is listed for b.safetensors but is not in it"));
    for name in ["../a.safetensors", "/a.safetensors", "C:\\\\a", "x/y", "..", ""] {
        index(&format!(r#"{{"model.norm.weight":"{name}"}}"#));
        assert!(message(dir.path()).contains("is not a plain file name"), "{name}");
    }
    fs::remove_file(path("model.safetensors.index.json")).unwrap();
    fs::write(path("pytorch_model.bin"), b"x").unwrap();
    assert!(message(dir.path()).contains("pickled"));
}

#[test]
fn large_models_are_written_in_several_files() {
    let config = config::parse(&tiny("llama")).unwrap();
    let tensors = tensors(&config);
    let dir = tempfile::tempdir().unwrap();
    let mut bytes_of = |info: &Info| Ok(Cow::Borrowed(&*tensors.get(&info.name).unwrap().bytes));
    let companions = hf::Companions { files: vec![("tokenizer.json".into(), b"{}".to_vec())], ..Default::default() };
    hf::write_sharded(&Disk, dir.path(), &config, &infos(&tensors), &mut bytes_of, &companions, 300).unwrap();
    let index = fs::read_to_string(dir.path().join("model.safetensors.index.json")).unwrap();
    let map = safetensors_file::parse_index(&index).unwrap();
    assert_eq!(map.len(), tensors.len());
    assert!(index.contains(&format!("\"total_size\": {}", tensors.total_bytes())), "{index}");
    assert!(map.values().any(|file| file.starts_with("model-00003-of-0000")), "{map:?}");
    assert_same(&open(dir.path()).unwrap().tensors, &tensors, "sharded");
    assert_eq!(fs::read(dir.path().join("tokenizer.json")).unwrap(), b"{}");
    // Writing fewer files over it must not leave an index or a file that the next reader would take.
    hf::write_tensors(dir.path(), &config, &tensors, &companions).unwrap();
    assert!(!dir.path().join("model.safetensors.index.json").exists());
    assert_same(&open(dir.path()).unwrap().tensors, &tensors, "single again");
}

#[test]
fn a_source_keeps_its_configuration_and_companions() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let text = tiny("llama").replacen('{', r#"{"torch_dtype":"bfloat16","my_field":[1],"#, 1);
    fs::write(source.path().join("config.json"), &text).unwrap();
    fs::write(source.path().join("tokenizer.json"), b"{\"a\":1}").unwrap();
    fs::write(source.path().join("secret.txt"), b"x").unwrap();
    let config = config::parse(&text).unwrap();
    let companions = hf::Companions { source: Some(source.path().into()), keep_config: true, ..Default::default() };
    hf::write_tensors(out.path(), &config, &tensors(&config), &companions).unwrap();
    let written = fs::read_to_string(out.path().join("config.json")).unwrap();
    assert!(written.contains("my_field") && written.contains("\"torch_dtype\": \"float32\""), "{written}");
    assert!(out.path().join("tokenizer.json").is_file() && !out.path().join("secret.txt").exists());
}

#[test]
fn all_faults_of_a_configuration_are_reported() {
    let broken = r#"{"model_type":"llama","hidden_size":0,"num_attention_heads":3,"vocab_size":"x","hidden_act":"mish",
        "rope_scaling":{"rope_type":"longrope"},"quantization_config":{"quant_method":"gptq"}}"#;
    let problems = config::parse(broken).unwrap_err().join("\n");
    for part in [
        "hidden_size is 0",
        "intermediate_size is missing",
        "num_hidden_layers is missing",
        "vocab_size is \"x\"",
        "\"mish\"",
        "\"longrope\"",
        "\"gptq\"",
    ] {
        assert!(problems.contains(part), "{part} in\n{problems}");
    }
    let other = config::parse(r#"{"model_type":"mamba"}"#).unwrap_err().join("\n");
    assert!(other.contains("mamba") && other.contains("qwen3"), "{other}");
}

#[test]
fn both_spellings_of_rope_and_the_defaults_of_families_are_read() {
    let parse =
        |model_type: &str, more: &str| config::parse(&tiny(model_type).replacen('{', &format!("{{{more}"), 1)).unwrap();
    let old = parse("llama", r#""rope_theta":5e5,"rope_scaling":{"type":"linear","factor":2},"#);
    let new = parse("llama", r#""rope_parameters":{"rope_theta":5e5,"rope_type":"linear","factor":2},"#);
    assert_eq!(old, new);
    assert_eq!((old.rope.theta, old.rope.scaling), (5e5, RopeScaling::Linear { factor: 2.0 }));
    let gemma = parse(
        "gemma3_text",
        r#""rope_parameters":{"full_attention":{"rope_type":"linear","factor":8,"rope_theta":2e6},
        "sliding_attention":{"rope_type":"default","rope_theta":500}},"#,
    );
    assert_eq!(gemma.rope_local.as_ref().map(|rope| rope.theta), Some(500.0));
    assert_eq!(gemma.rope.scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!(gemma.attention_scale, 1.0 / 16.0);
    let qwen = parse("qwen2", "");
    assert!(qwen.qkv_bias && !qwen.o_bias && qwen.sliding_window.is_none());
    let windows = parse("qwen2", r#""use_sliding_window":true,"max_window_layers":1,"#);
    assert_eq!(windows.layer_types, [LayerType::FullAttention, LayerType::SlidingAttention]);
    assert_eq!(parse("mistral", "").layer_types, [LayerType::SlidingAttention; 2]);
    let tiny_v2 = tiny("mistral").replace("\"sliding_window\":4", "\"sliding_window\":null");
    assert_eq!(config::parse(&tiny_v2).unwrap().sliding_window, None);
}

#[test]
fn llama3_scaling_becomes_divisors_and_comes_back() {
    let scaling = r#"{"rope_scaling":{"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
        "original_max_position_embeddings":8192},"rope_theta":500000.0,"#;
    let text = tiny("llama").replace("\"head_dim\":4", "\"head_dim\":64").replacen('{', scaling, 1);
    let config = config::parse(&text).unwrap();
    let embed: Tensors =
        [("model.embed_tokens.weight".to_owned(), TensorData::from_f32(vec![6, 8], &[0.5; 48]))].into_iter().collect();
    let export = gguf::export(&config, &GenerationConfig::default(), &infos(&embed), &Metadata::new()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.gguf");
    export.write(&file, &mut |info| Ok((&*embed.get(&info.name).unwrap().bytes).into())).unwrap();
    // A directory with one gguf file is that file.
    let read = open(dir.path()).unwrap().config;
    assert!(
        matches!(&read.rope.scaling, RopeScaling::Factors { factors } if factors.len() == 32 && factors[31] == 32.0)
    );
    let again = config::parse(&config::to_json(&read, DType::F32).unwrap()).unwrap();
    assert_eq!(again.rope, config.rope);
}

fn adapter() -> (peft::AdapterConfig, Tensors) {
    let mut config = peft::AdapterConfig::lora("org/base", 2, 4.0, vec!["q_proj".into(), "down_proj".into()]);
    config.rank_pattern.0.push(("layers.1.mlp.down_proj".into(), 3));
    config.alpha_pattern.0.push(("down_proj".into(), 6.0));
    let mut tensors = Tensors::new();
    for (module, rank) in [("model.layers.0.self_attn.q_proj", 2), ("model.layers.1.mlp.down_proj", 3)] {
        tensors.insert(peft::key(module, peft::Side::A), TensorData::from_f32(vec![rank, 8], &vec![0.5; rank * 8]));
        tensors.insert(peft::key(module, peft::Side::B), TensorData::from_f32(vec![4, rank], &vec![0.25; rank * 4]));
    }
    (config, tensors)
}

#[test]
fn adapters_are_written_and_read_again() {
    let (config, tensors) = adapter();
    let dir = tempfile::tempdir().unwrap();
    peft::write_adapter(&Disk, dir.path(), &config, &tensors, "Tuned for a test.").unwrap();
    let (read, weights) = peft::read_adapter(dir.path()).unwrap();
    assert_eq!(read, config);
    assert_same(&weights, &tensors, "adapter");
    assert_eq!(read.scaling_of("model.layers.0.self_attn.q_proj"), 2.0);
    assert_eq!(read.scaling_of("model.layers.1.mlp.down_proj"), 2.0);
    assert_eq!(read.rank_of("model.layers.11.mlp.down_proj"), 2, "layer 11 is not layer 1");
    // vLLM and PEFT declare alpha an integer.
    let text = fs::read_to_string(dir.path().join("adapter_config.json")).unwrap();
    assert!(text.contains("\"lora_alpha\": 4,"), "{text}");
    let readme = fs::read_to_string(dir.path().join("README.md")).unwrap();
    assert!(readme.starts_with("---\nbase_model: \"org/base\"\nlibrary_name: peft\n"), "{readme}");
    assert!(readme.contains("---\n\nTuned for a test.\n"));
    assert!(open(dir.path()).unwrap_err().to_string().contains("adapter"));
}

/// As in PEFT and vLLM: the first key that fits, in the order of the file, with `^` for the beginning of the whole name.
#[test]
fn the_first_pattern_that_fits_decides() {
    let text = r#"{"peft_type":"LORA","r":8,"lora_alpha":2.5,"target_modules":["q_proj"],
        "rank_pattern":{"q_proj":4,"layers.0.self_attn.q_proj":2,"^self_attn.k_proj":1},"alpha_pattern":null}"#;
    let config = peft::parse_config(text).unwrap();
    assert_eq!(config.rank_of("model.layers.0.self_attn.q_proj"), 4);
    assert_eq!(config.rank_of("model.layers.0.self_attn.k_proj"), 8);
    assert_eq!((config.rank_of("self_attn.k_proj"), config.alpha_of("q_proj")), (1, 2.5));
    let written = serde_json::to_value(&config).unwrap();
    assert_eq!(written["lora_alpha"], 2.5);
    let keys: Vec<&String> = written["rank_pattern"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["q_proj", "layers.0.self_attn.q_proj", "^self_attn.k_proj"]);
}

#[test]
fn what_an_adapter_cannot_be_is_said_at_once() {
    let text = r#"{"peft_type":"LORA","r":0,"lora_alpha":8,"use_dora":true,"bias":"all","modules_to_save":["lm_head"],
        "trainable_token_indices":[1],"target_modules":"all-linear","unknown_field":{"a":1}}"#;
    let problems = peft::parse_config(text).unwrap_err().join("\n");
    for part in ["r is 0", "use_dora", "bias \"all\"", "modules_to_save", "trainable_token_indices"] {
        assert!(problems.contains(part), "{part} in\n{problems}");
    }
    assert!(!problems.contains("unknown_field"));
    let (config, mut tensors) = adapter();
    tensors.take(&peft::key("model.layers.0.self_attn.q_proj", peft::Side::B));
    tensors.insert("base_model.model.lm_head.weight", TensorData::from_f32(vec![1], &[0.0]));
    let a = peft::key("model.layers.1.mlp.down_proj", peft::Side::A);
    tensors.insert(a.clone(), TensorData::from_f32(vec![5, 1], &[0.0; 5]));
    let dir = tempfile::tempdir().unwrap();
    let text = peft::write_adapter(&Disk, dir.path(), &config, &tensors, "").unwrap_err().to_string();
    for part in ["3 problems", "q_proj.lora_B.weight: missing", "lm_head.weight is not a LoRA tensor", "[5, 1]"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of a refused write");
}

#[test]
fn a_tokenizer_becomes_gguf_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = r#"{"added_tokens":[{"id":3,"content":"<|end|>","special":true},{"id":4,"content":"tag","special":false}],
        "pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":false}]},
        "model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"<|end|>":3},"merges":["a b"]}}"#;
    fs::write(dir.path().join("tokenizer.json"), tokenizer).unwrap();
    let config = r#"{"eos_token":{"content":"<|end|>"},"bos_token":"<|end|>","chat_template":"old"}"#;
    fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    fs::write(dir.path().join("chat_template.jinja"), "new").unwrap();
    let metadata = gguf::vocabulary_metadata(dir.path(), 6).unwrap();
    assert_eq!(metadata.str("tokenizer.ggml.pre"), Ok(Some("smollm")));
    let strings = |texts: &[&str]| texts.iter().collect::<Strings>();
    assert_eq!(
        metadata.strings("tokenizer.ggml.tokens"),
        Ok(Some(&strings(&["a", "b", "ab", "<|end|>", "tag", "[PAD5]"])))
    );
    assert_eq!(metadata.get("tokenizer.ggml.token_type"), Some(&Value::Array(Array::I32(vec![1, 1, 1, 3, 4, 5]))));
    assert_eq!(metadata.strings("tokenizer.ggml.merges"), Ok(Some(&strings(&["a b"]))));
    assert_eq!(metadata.u32("tokenizer.ggml.eos_token_id"), Ok(Some(3)));
    assert_eq!(metadata.bool("tokenizer.ggml.add_bos_token"), Ok(Some(false)));
    assert_eq!(metadata.str("tokenizer.chat_template"), Ok(Some("new")));
    let error = gguf::vocabulary_metadata(dir.path(), 3).unwrap_err().to_string();
    assert!(error.contains("the model has 3 embeddings"), "{error}");
}

#[test]
fn a_failing_source_leaves_no_file() {
    let config = config::parse(&tiny("llama")).unwrap();
    let tensors = tensors(&config);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.gguf");
    let export = gguf::export(&config, &GenerationConfig::default(), &infos(&tensors), &Metadata::new()).unwrap();
    let mut count = 0;
    let error = export.write(&file, &mut |info| {
        count += 1;
        if count == 3 { Err("no such luck".into()) } else { Ok((&*tensors.get(&info.name).unwrap().bytes).into()) }
    });
    assert!(error.unwrap_err().to_string().contains("no such luck"));
    let short = export.write(&file, &mut |_| Ok(Cow::Owned(Bytes::copy_of(&[1, 2, 3]).to_vec())));
    assert!(short.unwrap_err().to_string().contains("3 bytes"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
