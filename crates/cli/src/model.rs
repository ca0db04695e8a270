//! Opening what verbs are given as a model: a path or a hub name → checkpoint, tokenizer and chat template.

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use ounce_formats::hub::{self, HubError};
use ounce_formats::meter::PATIENCE;
use ounce_formats::template::{CHATML, ChatTemplate};
use ounce_formats::tokenizer::{GgufVocab, Tokenizer};
use ounce_formats::{Checkpoint, gguf};
use ounce_tensor::{Progress, Watch};
use serde_json::Value;

use crate::codes;
use crate::env::Env;
use crate::error::{CliError, Result};

/// The path of a model: as it is, or its snapshot in the hub's cache.
pub fn locate(name: &str, env: &Env) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.extension().is_some_and(|e| e == "gguf") && !path.exists() {
        // A mistyped file is no name on the hub.
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(CliError::read(path, &missing)
            .help("give a model directory, a .gguf file or a hub name such as Qwen/Qwen3-0.6B"));
    }
    hub::resolve(name, &env.hub_cache, None).map_err(|e| {
        let out = CliError::of(&codes::HUB_NAME, &e);
        match e {
            HubError::NotCached { name, .. } => out.help(format!("ounce pull {name}")),
            HubError::Name { .. } => {
                out.help("give a model directory, a .gguf file or a hub name such as Qwen/Qwen3-0.6B")
            }
            HubError::NoRevision { name, .. } => out.help(format!("ounce pull {name}")),
            _ => out,
        }
    })
}

/// Opens a model's configuration and weights; weights stay in their mapped files.
pub fn open(name: &str, env: &Env) -> Result<Checkpoint> {
    let path = locate(name, env)?;
    patiently(&path, ounce_formats::open)?
        .map_err(|e| CliError::of(&codes::MODEL, &e).help("supported are Hugging Face directories and GGUF files"))
}

/// What `read` makes of the files at a path. A thread of its own does it, which nobody joins: a disk that hangs is given up.
fn patiently<T: Send + 'static>(path: &Path, read: impl FnOnce(&Path) -> T + Send + 'static) -> Result<T> {
    let failed = |e: &dyn std::error::Error| {
        CliError::of(&codes::READ, e).help("see to the disk, and run the same command again")
    };
    let (owned, call) = (path.to_owned(), format!("files of {}", path.display()));
    let (answer, answers) = channel();
    // Who does not wait any more needs no answer.
    let work = move || drop(answer.send(read(&owned)));
    std::thread::Builder::new().name("files".into()).spawn(work).map_err(|e| failed(&e))?;
    let progress = || Progress { answered: 0, oldest: Some(call.clone()), patience: PATIENCE };
    let opened = Watch::new("the model", &progress).receive(&answers).map_err(|e| failed(&e))?;
    // The hook has told what happened.
    opened.ok_or_else(|| CliError::new(&codes::INTERNAL, format!("{} could not be read", path.display())))
}

/// What a model reads and writes text with.
#[derive(Clone)]
pub struct Text {
    pub tokenizer: Tokenizer,
    pub template: Option<ChatTemplate>,
}

impl Text {
    /// The tokenizer and chat template that come with a model.
    pub fn of(checkpoint: &Checkpoint) -> Result<Text> {
        let text = match &checkpoint.gguf {
            Some(metadata) => from_gguf(metadata)?,
            None => patiently(&checkpoint.path, from_directory)??,
        };
        let tokenizer = text.tokenizer.with_eos_ids(&checkpoint.config.eos_token_id);
        Ok(Text { tokenizer, template: text.template })
    }

    /// The template, or ChatML for a model without one, with whether it is the model's own.
    pub fn template_or_chatml(&self) -> Result<(ChatTemplate, bool)> {
        match &self.template {
            Some(template) => Ok((template.clone(), true)),
            None => Ok((compile(&self.tokenizer, CHATML)?, false)),
        }
    }
}

fn from_gguf(metadata: &gguf::Metadata) -> Result<Text> {
    let bad = |e: &dyn std::error::Error| CliError::of(&codes::TOKENIZER, e);
    let vocab = GgufVocab::from_metadata(metadata).map_err(|e| bad(&e))?;
    let tokenizer = Tokenizer::from_gguf(&vocab).map_err(|e| bad(&e))?;
    let source = metadata.str("tokenizer.chat_template").map_err(|e| bad(&e))?;
    let template = source.map(|s| compile(&tokenizer, s)).transpose()?;
    Ok(Text { tokenizer, template })
}

fn from_directory(dir: &Path) -> Result<Text> {
    let read = |name: &str| match std::fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(CliError::read(&dir.join(name), &e)),
    };
    let Some(tokenizer) = read("tokenizer.json")? else {
        return Err(CliError::new(&codes::TOKENIZER, format!("{} has no tokenizer.json", dir.display())).help(
            "save the tokenizer with transformers' PreTrainedTokenizerFast.save_pretrained, or use a GGUF file",
        ));
    };
    let config = read("tokenizer_config.json")?;
    let map = read("special_tokens_map.json")?;
    let tokenizer = Tokenizer::from_hf(&tokenizer, config.as_deref(), map.as_deref()).map_err(|e| {
        CliError::of(&codes::TOKENIZER, &e)
            .at(dir.display().to_string(), "")
            .help("download the model again: ounce pull")
    })?;
    // chat_template.jinja wins over the field of tokenizer_config.json.
    let source = match read("chat_template.jinja")? {
        Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        None => config.as_deref().and_then(template_field),
    };
    let template = source.map(|s| compile(&tokenizer, &s)).transpose()?;
    Ok(Text { tokenizer, template })
}

/// `chat_template` of tokenizer_config.json: a text, or a list of named ones of which `default` is taken.
fn template_field(config: &[u8]) -> Option<String> {
    let config: Value = serde_json::from_slice(config).ok()?;
    match &config["chat_template"] {
        Value::String(source) => Some(source.clone()),
        Value::Array(list) => {
            let default = list.iter().find(|t| t["name"] == "default").or_else(|| list.first())?;
            default["template"].as_str().map(str::to_owned)
        }
        _ => None,
    }
}

fn compile(tokenizer: &Tokenizer, source: &str) -> Result<ChatTemplate> {
    let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
    ChatTemplate::new(source, token(tokenizer.bos()), token(tokenizer.eos())).map_err(|e| {
        CliError::of(&codes::TOKENIZER, &e).help("put a working chat_template.jinja into the model's directory")
    })
}
