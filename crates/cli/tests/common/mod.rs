//! Runs the real binary in a clean environment, and makes a tiny model with a tokenizer and a template.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ounce_formats::{TensorData, Tensors, safetensors_file};

/// Sizes of [`Place::wide_model`].
pub const LAYERS: usize = 8;
pub const HIDDEN: usize = 256;
pub const FFN: usize = 1024;

/// Longest wait for what is to happen: only what never happens takes so long, on the busiest machine.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A directory for one test: home, cache and working directory of the program.
pub struct Place {
    pub dir: tempfile::TempDir,
}

/// What a run of the program did.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    pub fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ounce"));
        command.args(args).current_dir(self.dir.path()).env_clear().env("HOME", self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        finish(self.command(args))
    }

    pub fn run_with_input(&self, args: &[&str], input: &str) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        ran(child.wait_with_output().unwrap())
    }

    /// Runs what must succeed.
    pub fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "ounce {args:?}\n{}\n{}", ran.stdout, ran.stderr);
        ran
    }

    /// Runs and gives everything as one text, with this place's own path taken out.
    pub fn transcript(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        let text = format!(
            "$ ounce {}\n-- exit {}\n-- stdout\n{}-- stderr\n{}",
            args.join(" "),
            ran.code.map_or("by a signal".into(), |c| c.to_string()),
            ran.stdout,
            ran.stderr
        );
        text.replace(&self.dir.path().display().to_string(), "PLACE")
    }

    /// `tiny/`: the two-layer llama of the golden files, one token for each printable character, a short chat template.
    pub fn tiny_model(&self) -> String {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/llama");
        for file in ["config.json", "model.safetensors"] {
            self.write(&format!("tiny/{file}"), "");
            std::fs::copy(golden.join(file), self.path("tiny").join(file)).unwrap();
        }
        self.write("tiny/tokenizer.json", &tokenizer());
        self.write("tiny/tokenizer_config.json", r#"{"bos_token": "<s>", "eos_token": "</s>"}"#);
        let template = "{% for m in messages %}{{ m['role'][0] + ':' + m['content'] + eos_token }}{% endfor %}\
                        {% if add_generation_prompt %}a:{% endif %}";
        self.write("tiny/chat_template.jinja", template);
        self.path("tiny").display().to_string()
    }

    /// `wide/`: the tiny model with more and wider layers, 33 MB of weights that look random.
    pub fn wide_model(&self) {
        self.tiny_model();
        let text = std::fs::read_to_string(self.path("tiny/config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (key, value) in [
            ("num_hidden_layers", LAYERS),
            ("hidden_size", HIDDEN),
            ("intermediate_size", FFN),
            ("num_attention_heads", 4),
            ("num_key_value_heads", 2),
            ("head_dim", 64),
            ("max_position_embeddings", 512),
        ] {
            config[key] = value.into();
        }
        self.write("wide/config.json", &config.to_string());
        for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            std::fs::copy(self.path("tiny").join(name), self.path("wide").join(name)).unwrap();
        }
        let mut tensors = Tensors::new();
        let mut add = |name: &str, shape: &[usize]| {
            let n: usize = shape.iter().product();
            // Knuth's multiplicative hash of the position, uniform within 0.07; norms are ones.
            let value =
                |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32 * 0.14 - 0.07;
            let values: Vec<f32> = (0..n).map(|i| if shape.len() == 1 { 1.0 } else { value(i + n) }).collect();
            tensors.insert(name, TensorData::from_f32(shape.to_vec(), &values));
        };
        add("model.embed_tokens.weight", &[97, HIDDEN]);
        add("lm_head.weight", &[97, HIDDEN]);
        add("model.norm.weight", &[HIDDEN]);
        for layer in 0..LAYERS {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            add(&name("input_layernorm"), &[HIDDEN]);
            add(&name("post_attention_layernorm"), &[HIDDEN]);
            for (part, n, k) in [("q_proj", HIDDEN, HIDDEN), ("k_proj", 128, HIDDEN), ("v_proj", 128, HIDDEN)] {
                add(&name(&format!("self_attn.{part}")), &[n, k]);
            }
            add(&name("self_attn.o_proj"), &[HIDDEN, HIDDEN]);
            for (part, n, k) in [("gate_proj", FFN, HIDDEN), ("up_proj", FFN, HIDDEN), ("down_proj", HIDDEN, FFN)] {
                add(&name(&format!("mlp.{part}")), &[n, k]);
            }
        }
        safetensors_file::write(&self.path("wide/model.safetensors"), &tensors).unwrap();
    }

    /// Rows that ask for a letter twice.
    pub fn echo_rows(&self, name: &str, letters: &str) -> String {
        let rows: String = letters
            .chars()
            .map(|c| {
                format!(
                    "{{\"messages\":[{{\"role\":\"user\",\"content\":\"{c}\"}},{{\"role\":\"assistant\",\"content\":\"{c}{c}\"}}]}}\n"
                )
            })
            .collect();
        self.write(name, &rows).display().to_string()
    }
}

pub fn finish(mut command: Command) -> Ran {
    ran(command.output().unwrap())
}

fn ran(output: std::process::Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// 97 tokens: `<unk>`, `<s>`, `</s>`, then the printable ASCII characters from space to `}`.
fn tokenizer() -> String {
    let mut vocab = serde_json::Map::new();
    for (id, token) in ["<unk>", "<s>", "</s>"].into_iter().enumerate() {
        vocab.insert(token.into(), id.into());
    }
    for (id, c) in (b' '..=b'}').enumerate() {
        // Byte-level tokenizers write the space as Ġ.
        let token = if c == b' ' { 'Ġ' } else { c as char };
        vocab.insert(token.to_string(), (id + 3).into());
    }
    let added: Vec<_> = ["<unk>", "<s>", "</s>"]
        .into_iter()
        .enumerate()
        .map(|(id, content)| {
            serde_json::json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false})
        })
        .collect();
    serde_json::json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": []},
    })
    .to_string()
}
