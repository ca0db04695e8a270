//! The tokenizer of a GGUF file as the files of a Hugging Face directory: `tokenizer.json` and `tokenizer_config.json`, for
//! byte-level BPE and SentencePiece BPE. It knows no models; what it writes, transformers and `hf` read.

use std::collections::HashMap;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value as Json, json};

use super::gguf::GgufVocab;
use super::spm::SPACE;
use super::vocab::Kind;
use super::{TokenizerError, bpe, pre, words};
use crate::gguf::Metadata;

/// The tokenizer files that go with a GGUF file's metadata, by name.
///
/// # Errors
/// Keys of the wrong type, and all that [`GgufVocab::hf_files`] refuses.
pub fn hf_files(metadata: &Metadata) -> Result<Vec<(String, Vec<u8>)>, TokenizerError> {
    GgufVocab::from_metadata(metadata)?.hf_files(templates(metadata)?)
}

impl GgufVocab {
    /// `tokenizer.json` and `tokenizer_config.json`, with `templates` as its `chat_template`. Of two tokens with one text the
    /// later is written, which is the one that encoding gives.
    ///
    /// # Errors
    /// A vocabulary that contradicts itself, word rules that are not known, or an algorithm other than `gpt2` and `llama`.
    pub fn hf_files(&self, templates: Option<Json>) -> Result<Vec<(String, Vec<u8>)>, TokenizerError> {
        let kinds = self.check()?;
        let parts = match self.model.as_str() {
            "gpt2" => byte_level(self)?,
            "llama" => sentencepiece(self),
            "gemma4" | "bert" | "t5" => return Err(TokenizerError::NotWritable { model: self.model.clone() }),
            _ => return Err(TokenizerError::UnknownModel { model: self.model.clone() }),
        };
        let file = File {
            version: "1.0",
            truncation: (),
            padding: (),
            added_tokens: added_tokens(self, &kinds),
            normalizer: parts.normalizer,
            pre_tokenizer: parts.pre_tokenizer,
            post_processor: frame(self, parts.adds_bos, parts.adds_eos).unwrap_or(parts.post_processor),
            decoder: parts.decoder,
            model: parts.model,
        };
        let config = config(self, parts.adds_bos, parts.adds_eos, templates);
        let wrong = |file: &'static str| move |e: serde_json::Error| TokenizerError::Parse { file, why: e.to_string() };
        let tokenizer = serde_json::to_vec_pretty(&file).map_err(wrong("tokenizer.json"))?;
        let config = serde_json::to_vec_pretty(&config).map_err(wrong("tokenizer_config.json"))?;
        Ok(vec![("tokenizer.json".into(), tokenizer), ("tokenizer_config.json".into(), config)])
    }
}

/// `tokenizer.json`, in the library's order.
#[derive(Serialize)]
struct File<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<Json>,
    normalizer: Json,
    pre_tokenizer: Json,
    post_processor: Json,
    decoder: Json,
    model: Bpe<'a>,
}

#[derive(Serialize)]
struct Bpe<'a> {
    r#type: &'static str,
    dropout: (),
    unk_token: Option<&'a str>,
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(serialize_with = "by_id")]
    vocab: &'a [String],
    merges: Vec<(String, String)>,
}

/// Tokens in id order as an object from text to id, each text once.
fn by_id<S: Serializer>(tokens: &&[String], serializer: S) -> Result<S::Ok, S::Error> {
    let ids = ids(tokens);
    serializer
        .collect_map(tokens.iter().enumerate().filter(|(id, text)| ids[text.as_str()] == *id).map(|(i, t)| (t, i)))
}

fn ids(tokens: &[String]) -> HashMap<&str, usize> {
    tokens.iter().enumerate().map(|(id, text)| (text.as_str(), id)).collect()
}

/// What the two algorithms differ in.
struct Parts<'a> {
    normalizer: Json,
    pre_tokenizer: Json,
    /// Where nothing is put around a text.
    post_processor: Json,
    decoder: Json,
    model: Bpe<'a>,
    adds_bos: bool,
    adds_eos: bool,
}

fn byte_level(vocab: &GgufVocab) -> Result<Parts<'_>, TokenizerError> {
    let pre = vocab.word_rules()?;
    let bytes =
        |trim: bool| json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": trim, "use_regex": true});
    let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let last = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let steps: Vec<Json> = pre.splits.iter().map(split).chain([last]).collect();
    Ok(Parts {
        normalizer: Json::Null,
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
        post_processor: bytes(false),
        decoder: bytes(true),
        model: Bpe { ignore_merges: pre.ignore_merges, ..model(vocab, bpe::merges(vocab)) },
        adds_bos: vocab.add_bos.unwrap_or(pre.add_bos),
        adds_eos: vocab.add_eos.unwrap_or(false),
    })
}

fn sentencepiece(vocab: &GgufVocab) -> Parts<'_> {
    let space_prefix = vocab.add_space_prefix.unwrap_or(true);
    let escape = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let normalizer = match space_prefix {
        true => json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, escape]}),
        false => escape,
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if space_prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unk = vocab.unk.and_then(|id| vocab.tokens.get(id as usize)).map(String::as_str);
    Parts {
        normalizer,
        pre_tokenizer: Json::Null,
        post_processor: Json::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: Bpe { unk_token: unk, byte_fallback: true, ..model(vocab, merges_of_scores(vocab)) },
        adds_bos: vocab.add_bos.unwrap_or(true),
        adds_eos: vocab.add_eos.unwrap_or(false),
    }
}

fn model(vocab: &GgufVocab, merges: Vec<(String, String)>) -> Bpe<'_> {
    Bpe {
        r#type: "BPE",
        dropout: (),
        unk_token: None,
        continuing_subword_prefix: (),
        end_of_word_suffix: (),
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: false,
        vocab: &vocab.tokens,
        merges,
    }
}

/// SentencePiece's scores as a list of merges: every way to make a token out of two, the best token's first. (Where two
/// tokens have one score, SentencePiece takes the leftmost in the text and a list cannot say that; trained vocabularies
/// have a score for each token.)
fn merges_of_scores(vocab: &GgufVocab) -> Vec<(String, String)> {
    let (ids, scores) = (ids(&vocab.tokens), vocab.scores.as_deref().unwrap_or_default());
    let mut found: Vec<(f32, usize, usize, &str, &str)> = Vec::new();
    // No trained token is nearly as long, and one of megabytes has too many ways to be made.
    const LONGEST_BYTES: usize = 1024;
    for text in vocab.tokens.iter().filter(|text| text.len() <= LONGEST_BYTES) {
        let score = scores[ids[text.as_str()]];
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                found.push((score, l, r, left, right));
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2))));
    found.dedup_by_key(|&mut (_, l, r, ..)| (l, r));
    found.into_iter().map(|(.., left, right)| (left.to_owned(), right.to_owned())).collect()
}

/// The tokens that are cut out of a text before the model sees it.
fn added_tokens(vocab: &GgufVocab, kinds: &[Kind]) -> Vec<Json> {
    let ids = ids(&vocab.tokens);
    super::gguf::added(vocab, kinds)
        .filter(|token| !token.text.is_empty() && ids[token.text.as_str()] == token.id as usize)
        .map(|token| {
            json!({"id": token.id, "content": token.text, "single_word": false, "lstrip": false,
                "rstrip": token.rstrip, "normalized": false, "special": token.special})
        })
        .collect()
}

/// The post-processor that puts bos before and eos after a text; `None` where neither is.
fn frame(vocab: &GgufVocab, adds_bos: bool, adds_eos: bool) -> Option<Json> {
    let token = |id: Option<u32>, adds: bool| id.filter(|_| adds).map(|id| (id, vocab.tokens[id as usize].as_str()));
    let (bos, eos) = (token(vocab.bos, adds_bos), token(vocab.eos, adds_eos));
    if bos.is_none() && eos.is_none() {
        return None;
    }
    let special = |token: Option<(u32, &str)>, sequence: u32| {
        token.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": sequence}}))
    };
    let part = |name: &str, sequence: u32| {
        let text = Some(json!({"Sequence": {"id": name, "type_id": sequence}}));
        [special(bos, sequence), text, special(eos, sequence)].into_iter().flatten().collect::<Vec<_>>()
    };
    let tokens: Map<String, Json> = [bos, eos]
        .into_iter()
        .flatten()
        .map(|(id, text)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
        .collect();
    let pair = [part("A", 0), part("B", 1)].concat();
    Some(json!({"type": "TemplateProcessing", "single": part("A", 0), "pair": pair, "special_tokens": tokens}))
}

/// `tokenizer_config.json`.
fn config(vocab: &GgufVocab, adds_bos: bool, adds_eos: bool, templates: Option<Json>) -> Json {
    let mut out = json!({"add_bos_token": adds_bos, "add_eos_token": adds_eos});
    for (role, id) in
        [("bos_token", vocab.bos), ("eos_token", vocab.eos), ("unk_token", vocab.unk), ("pad_token", vocab.pad)]
    {
        if let Some(id) = id {
            out[role] = json!(vocab.tokens[id as usize]);
        }
    }
    out["clean_up_tokenization_spaces"] = json!(false);
    out["tokenizer_class"] = json!("PreTrainedTokenizerFast");
    if let Some(templates) = templates {
        out["chat_template"] = templates;
    }
    out
}

/// The chat template, or all of them by name where there are several.
fn templates(metadata: &Metadata) -> Result<Option<Json>, TokenizerError> {
    const KEY: &str = "tokenizer.chat_template";
    let default = metadata.str(KEY)?;
    let mut named = Vec::new();
    if let Some(names) = metadata.strings("tokenizer.chat_templates")? {
        for name in (0..names.len()).filter_map(|i| names.get(i)) {
            if let Some(template) = metadata.str(&format!("{KEY}.{name}"))? {
                named.push(json!({"name": name, "template": template}));
            }
        }
    }
    Ok(match (default, named.is_empty()) {
        (default, true) => default.map(Json::from),
        (None, false) => Some(Json::Array(named)),
        (Some(default), false) => {
            named.insert(0, json!({"name": "default", "template": default}));
            Some(Json::Array(named))
        }
    })
}

/// The name that GGUF has for the way in which a byte-level `tokenizer.json` cuts text; `None` if it has none.
pub(crate) fn pre_name(tokenizer: &Map<String, Json>) -> Option<&'static str> {
    let patterns = words::patterns(tokenizer.get("pre_tokenizer")?)?;
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    let ignore_merges = tokenizer.get("model").is_some_and(|model| model["ignore_merges"] == true);
    pre::name(&patterns, ignore_merges)
}
