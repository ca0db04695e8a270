//! The tokenizer of a Hugging Face directory as GGUF metadata: `tokenizer.json` with a BPE model, either of bytes (GPT-2,
//! Llama 3, Qwen) or in the manner of SentencePiece (Llama 2, Gemma), and its chat templates.

use std::{collections::HashMap, path::Path};

use serde_json::{Map, Value as Json};

use super::metadata::*;
use crate::{OpenError, checkpoint::read_text, tokenizer::pre_name};

/// `tokenizer.ggml.token_type` values.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Makes the `tokenizer.*` metadata of a model with `vocab_size` embeddings from its directory; ids without a token are
/// filled up as unused.
pub fn vocabulary_metadata(dir: &Path, vocab_size: usize) -> Result<Metadata, OpenError> {
    let path = dir.join("tokenizer.json");
    let tokenizer = read_object(&path)?;
    let config_path = dir.join("tokenizer_config.json");
    let config = if config_path.is_file() { read_object(&config_path)? } else { Map::new() };
    let mut metadata =
        convert(&tokenizer, &config, vocab_size).map_err(|problems| OpenError::problems(&path, problems))?;
    let template = dir.join("chat_template.jinja");
    if template.is_file() {
        metadata.set("tokenizer.chat_template", read_text(&template)?);
    }
    Ok(metadata)
}

fn read_object(path: &Path) -> Result<Map<String, Json>, OpenError> {
    let text = read_text(path)?;
    serde_json::from_str(&text).map_err(|error| OpenError::Json { path: path.into(), why: error.to_string() })
}

fn convert(
    tokenizer: &Map<String, Json>,
    config: &Map<String, Json>,
    vocab_size: usize,
) -> Result<Metadata, Vec<String>> {
    let empty = Map::new();
    let model = tokenizer.get("model").and_then(Json::as_object).unwrap_or(&empty);
    let kind = model.get("type").and_then(Json::as_str).unwrap_or("BPE");
    if kind != "BPE" {
        return Err(vec![format!("a tokenizer with a {kind} model cannot be written as gguf (BPE can)")]);
    }
    let merges = merges(model)?;
    let pieces = is_sentencepiece(tokenizer);
    let mut metadata = Metadata::new();
    let (tokens, types) = tokens(tokenizer, model, pieces, vocab_size)?;
    let ids: HashMap<&str, u32> = tokens.iter().zip(0..).map(|(token, id)| (token.as_str(), id)).collect();
    if pieces {
        metadata.set("tokenizer.ggml.model", "llama");
        metadata.set("tokenizer.ggml.pre", "default");
        metadata.set("tokenizer.ggml.add_space_prefix", adds_space(tokenizer));
    } else {
        metadata.set("tokenizer.ggml.model", "gpt2");
        metadata.set("tokenizer.ggml.pre", pre_tokenizer(tokenizer)?);
    }
    metadata.set("tokenizer.ggml.tokens", tokens.iter().collect::<Strings>());
    if pieces {
        metadata.set("tokenizer.ggml.scores", scores(&tokens, &merges));
    }
    metadata.set("tokenizer.ggml.token_type", types);
    if !pieces {
        let merges: Strings = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        metadata.set("tokenizer.ggml.merges", merges);
    }
    special_tokens(&mut metadata, tokenizer, config, &ids);
    templates(&mut metadata, config);
    Ok(metadata)
}

/// Tokens by id and their types.
fn tokens(
    tokenizer: &Map<String, Json>,
    model: &Map<String, Json>,
    pieces: bool,
    vocab_size: usize,
) -> Result<(Vec<String>, Vec<i32>), Vec<String>> {
    let mut problems = Vec::new();
    let mut slots: Vec<Option<(String, i32)>> = vec![None; vocab_size.min(super::MAX_ARRAY as usize)];
    let mut put = |id: Option<u64>, token: &str, kind: i32| match id.and_then(|id| slots.get_mut(id as usize)) {
        Some(slot) => *slot = Some((token.to_owned(), kind)),
        None => problems.push(format!("token {token:?} has the id {id:?}, the model has {vocab_size} embeddings")),
    };
    let unknown = model.get("unk_token").and_then(Json::as_str);
    for (token, id) in model.get("vocab").and_then(Json::as_object).into_iter().flatten() {
        let kind = match token.as_str() {
            token if pieces && Some(token) == unknown => UNKNOWN,
            token if pieces && is_byte_token(token) => BYTE,
            _ => NORMAL,
        };
        put(id.as_u64(), token, kind);
    }
    for added in tokenizer.get("added_tokens").and_then(Json::as_array).into_iter().flatten() {
        let token = added.get("content").and_then(Json::as_str).unwrap_or_default();
        let special = added.get("special").and_then(Json::as_bool).unwrap_or(false);
        let id = added.get("id").and_then(Json::as_u64);
        match special {
            true if pieces && Some(token) == unknown => {}
            true => put(id, token, CONTROL),
            // llama.cpp looks for these in the text as it stands.
            false => put(id, &token.replace('\u{2581}', " "), USER_DEFINED),
        }
    }
    if !problems.is_empty() {
        const SHOWN: usize = 8;
        let more = problems.len().saturating_sub(SHOWN);
        problems.truncate(SHOWN);
        if more > 0 {
            problems.push(format!("and {more} more tokens beyond the embeddings"));
        }
        return Err(problems);
    }
    let fill = |(id, slot): (usize, Option<(String, i32)>)| slot.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED));
    Ok(slots.into_iter().enumerate().map(fill).unzip())
}

/// `<0x0A>`: a byte of SentencePiece's fallback.
fn is_byte_token(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.chars().all(|c| c.is_ascii_hexdigit()))
}

/// Merges in either spelling: `"a b"` or `["a", "b"]`.
fn merges(model: &Map<String, Json>) -> Result<Vec<(String, String)>, Vec<String>> {
    let pair = |merge: &Json| -> Option<(String, String)> {
        match merge {
            Json::String(text) => text.split_once(' ').map(|(left, right)| (left.into(), right.into())),
            Json::Array(pair) => match &pair[..] {
                [left, right] => Some((left.as_str()?.into(), right.as_str()?.into())),
                _ => None,
            },
            _ => None,
        }
    };
    let list = model.get("merges").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|merge| pair(merge).ok_or_else(|| vec![format!("{merge} is not a merge of two tokens")])).collect()
}

/// SentencePiece's scores from the order of merges: the earlier a token is made, the higher. (A SentencePiece BPE
/// model's own scores are the negative ranks.)
fn scores(tokens: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    // Below all merges: tokens that none makes.
    let last = merges.len();
    tokens.iter().map(|token| -(ranks.get(token).copied().unwrap_or(last) as f32)).collect()
}

/// Whether text is cut as SentencePiece does, with `▁` for spaces and bytes only as a fallback.
fn is_sentencepiece(tokenizer: &Map<String, Json>) -> bool {
    let fallback = tokenizer.get("model").and_then(|model| model.get("byte_fallback")).and_then(Json::as_bool);
    fallback.unwrap_or(false) && !has_type(tokenizer.get("pre_tokenizer"), "ByteLevel")
}

/// Whether a step of this type is in a part of the tokenizer, however deep.
fn has_type(part: Option<&Json>, wanted: &str) -> bool {
    steps(part).iter().any(|step| step.get("type").and_then(Json::as_str) == Some(wanted))
}

/// The steps of a part of the tokenizer: itself, or those of a `Sequence`.
fn steps(part: Option<&Json>) -> Vec<&Map<String, Json>> {
    let Some(step) = part.and_then(Json::as_object) else { return vec![] };
    let inner = ["pretokenizers", "normalizers", "processors", "decoders"]
        .iter()
        .find_map(|key| step.get(*key).and_then(Json::as_array));
    match inner {
        Some(inner) => inner.iter().filter_map(Json::as_object).collect(),
        None => vec![step],
    }
}

/// Whether a space is put in front of a text, as Llama 2 does and Gemma does not.
fn adds_space(tokenizer: &Map<String, Json>) -> bool {
    let scheme = steps(tokenizer.get("pre_tokenizer"))
        .into_iter()
        .find(|step| step.get("type").and_then(Json::as_str) == Some("Metaspace"))
        .map(|step| step.get("prepend_scheme").and_then(Json::as_str).unwrap_or("always") != "never");
    scheme.unwrap_or_else(|| has_type(tokenizer.get("normalizer"), "Prepend"))
}

/// GGUF's name for the way text is cut before merging; it knows no patterns, only names.
fn pre_tokenizer(tokenizer: &Map<String, Json>) -> Result<&'static str, Vec<String>> {
    pre_name(tokenizer).ok_or_else(|| {
        let steps = steps(tokenizer.get("pre_tokenizer"));
        let text = |step: &&Map<String, Json>| Some(step.get("pattern")?.get("Regex")?.as_str()?.to_owned());
        let kind = |step: &&Map<String, Json>| step.get("type").and_then(Json::as_str).map(str::to_owned);
        let shown: Vec<String> = steps.iter().filter_map(|step| text(step).or_else(|| kind(step))).collect();
        vec![format!("gguf has no name for the pre-tokenizer {}", shown.join(" + "))]
    })
}

/// The ids of tokens with a role, and whether they are added to a text.
fn special_tokens(
    metadata: &mut Metadata,
    tokenizer: &Map<String, Json>,
    config: &Map<String, Json>,
    ids: &HashMap<&str, u32>,
) {
    let text = |role: &str| match config.get(role)? {
        Json::String(text) => Some(text.as_str()),
        other => other.get("content").and_then(Json::as_str),
    };
    for (role, key) in [
        ("bos_token", "bos_token_id"),
        ("eos_token", "eos_token_id"),
        ("unk_token", "unknown_token_id"),
        ("pad_token", "padding_token_id"),
    ] {
        if let Some(id) = text(role).and_then(|text| ids.get(text)) {
            metadata.set(format!("tokenizer.ggml.{key}"), *id);
        }
    }
    // Where the configuration is silent, the template of the post-processor says what is added.
    let template =
        steps(tokenizer.get("post_processor")).into_iter().find_map(|step| step.get("single").and_then(Json::as_array));
    for (role, key, part) in [
        ("bos_token", "add_bos_token", template.and_then(|parts| parts.first())),
        ("eos_token", "add_eos_token", template.and_then(|parts| parts.last())),
    ] {
        let adds = special(part).is_some_and(|token| Some(token) == text(role));
        let adds = config.get(key).and_then(Json::as_bool).unwrap_or(adds);
        metadata.set(format!("tokenizer.ggml.{key}"), adds);
    }
}

/// The special token that a part of a post-processor's template stands for.
fn special(part: Option<&Json>) -> Option<&str> {
    part?.get("SpecialToken")?.get("id")?.as_str()
}

/// Chat templates: one, or several by name.
fn templates(metadata: &mut Metadata, config: &Map<String, Json>) {
    match config.get("chat_template") {
        Some(Json::String(template)) => metadata.set("tokenizer.chat_template", template.as_str()),
        Some(Json::Array(named)) => {
            let mut names = Vec::new();
            for entry in named {
                let field = |key: &str| entry.get(key).and_then(Json::as_str);
                match (field("name"), field("template")) {
                    (Some("default"), Some(template)) => metadata.set("tokenizer.chat_template", template),
                    (Some(name), Some(template)) => {
                        metadata.set(format!("tokenizer.chat_template.{name}"), template);
                        names.push(name);
                    }
                    _ => {}
                }
            }
            if !names.is_empty() {
                metadata.set("tokenizer.chat_templates", names.into_iter().collect::<Strings>());
            }
        }
        _ => {}
    }
}
