//! Tokenizers from the `tokenizer.ggml.*` keys of a GGUF file: SentencePiece BPE (`llama`), byte-level BPE (`gpt2`), plain
//! BPE (`gemma4`), WordPiece (`bert`) and Unigram (`t5`).

use std::sync::Arc;

use tokenizers::Tokenizer as Object;

use super::added::{Added, AddedTokens};
use super::decoder::cleanup;
use super::library::{Library, guarded};
use super::pre::{self, Pre};
use super::spm::{SPACE, Spm};
use super::vocab::{Kind, MAX_ID, SpecialIds, Vocab, alphabet_bytes, ends, hex_byte};
use super::{Algorithm, Inner, Tokenizer, TokenizerError, bpe};
use crate::gguf::{Array, Metadata, Value};

/// What a GGUF file says about its tokenizer.
#[derive(Clone, Debug, Default)]
pub struct GgufVocab {
    /// `general.name`: one family's special tokens take the white space after them along, and only the name tells.
    pub name: Option<String>,
    /// `llama`, `gpt2`, `gemma4`, `bert` or `t5`.
    pub model: String,
    /// Which word rules a `gpt2` vocabulary goes with.
    pub pre: Option<String>,
    /// In id order.
    pub tokens: Vec<String>,
    /// As long as `tokens`.
    pub scores: Option<Vec<f32>>,
    /// As long as `tokens`; absent means that all are normal.
    pub token_type: Option<Vec<i32>>,
    /// `left right`, best first.
    pub merges: Option<Vec<String>>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub eom: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
    pub cls: Option<u32>,
    pub sep: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
    pub remove_extra_whitespaces: Option<bool>,
    /// SentencePiece's compiled character map.
    pub charsmap: Option<Vec<u8>>,
}

impl GgufVocab {
    /// Takes the tokenizer's keys out of a file's metadata.
    ///
    /// # Errors
    /// Keys of the wrong type, no vocabulary, tokens that are not UTF-8.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let id = |name: &str| metadata.u32(&key(name));
        let flag = |name: &str| metadata.bool(&key(name));
        let texts = |name: &str| -> Result<Option<Vec<String>>, TokenizerError> {
            let Some(strings) = metadata.strings(&key(name))? else { return Ok(None) };
            let texts: Option<Vec<String>> = (0..strings.len()).map(|i| strings.get(i).map(String::from)).collect();
            let bad = || (0..strings.len()).filter(|&i| strings.get(i).is_none());
            let problem =
                || format!("{}: {} entries are not utf-8, the first is {:?}", key(name), bad().count(), bad().next());
            texts.map(Some).ok_or_else(|| TokenizerError::Problems { problems: vec![problem()] })
        };
        let absent = |name: &str| TokenizerError::Problems { problems: vec![format!("{} is absent", key(name))] };
        Ok(GgufVocab {
            name: metadata.str("general.name")?.map(String::from),
            model: metadata.str(&key("model"))?.ok_or_else(|| absent("model"))?.into(),
            pre: metadata.str(&key("pre"))?.map(String::from),
            tokens: texts("tokens")?.ok_or_else(|| absent("tokens"))?,
            scores: metadata.f32s(&key("scores"))?.map(<[f32]>::to_vec),
            token_type: metadata.i32s(&key("token_type"))?,
            merges: texts("merges")?,
            bos: id("bos_token_id")?,
            eos: id("eos_token_id")?,
            eot: id("eot_token_id")?,
            eom: id("eom_token_id")?,
            unk: id("unknown_token_id")?,
            pad: id("padding_token_id")?,
            cls: id("cls_token_id")?,
            // The format's own spelling.
            sep: id("seperator_token_id")?,
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
            remove_extra_whitespaces: flag("remove_extra_whitespaces")?,
            charsmap: match metadata.get(&key("precompiled_charsmap")) {
                Some(Value::Array(Array::U8(bytes))) => Some(bytes.clone()),
                Some(Value::Array(Array::I8(bytes))) => Some(bytes.iter().map(|&b| b as u8).collect()),
                _ => None,
            },
        })
    }

    /// What each token is, or all that is wrong with the vocabulary.
    pub(super) fn check(&self) -> Result<Vec<Kind>, TokenizerError> {
        let (count, mut problems) = (self.tokens.len(), Vec::new());
        if count == 0 || count > MAX_ID as usize {
            problems.push(format!("the vocabulary has {count} tokens, allowed are 1 to {MAX_ID}"));
        }
        let mut same_length = |name: &str, length: Option<usize>| {
            if let Some(length) = length.filter(|&length| length != count) {
                problems.push(format!("tokenizer.ggml.{name} has {length} entries for {count} tokens"));
            }
        };
        same_length("scores", self.scores.as_ref().map(Vec::len));
        same_length("token_type", self.token_type.as_ref().map(Vec::len));
        let ids = [
            ("bos", self.bos),
            ("eos", self.eos),
            ("eot", self.eot),
            ("eom", self.eom),
            ("unknown", self.unk),
            ("padding", self.pad),
            ("cls", self.cls),
            ("seperator", self.sep),
        ];
        for (name, id) in ids {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                problems.push(format!("tokenizer.ggml.{name}_token_id is {id}, the vocabulary has {count} tokens"));
            }
        }
        let scored = matches!(self.model.as_str(), "llama" | "t5");
        if scored && self.scores.is_none() {
            problems.push(format!("tokenizer.ggml.scores is absent, a {} vocabulary needs it", self.model));
        }
        if matches!(self.model.as_str(), "gpt2" | "gemma4") && self.merges.is_none() {
            problems.push(format!("tokenizer.ggml.merges is absent, a {} vocabulary needs it", self.model));
        }
        if scored && self.scores.iter().flatten().any(|score| score.is_nan()) {
            problems.push("tokenizer.ggml.scores has entries that are not numbers".into());
        }
        let mut kinds = vec![Kind::Normal; count];
        for (id, &code) in self.token_type.iter().flatten().enumerate().take(count) {
            match Kind::of_code(code) {
                Some(kind) => kinds[id] = kind,
                None => problems.push(format!("tokenizer.ggml.token_type[{id}] is {code}, allowed are 1 to 6")),
            }
        }
        for (id, (text, kind)) in self.tokens.iter().zip(&kinds).enumerate() {
            if *kind == Kind::Byte && hex_byte(text).is_none() {
                problems.push(format!("token {id} is a byte token but is written {text:?}, not <0xHH>"));
            }
        }
        // A broken file can have a problem in each of a million tokens.
        let more = problems.len().saturating_sub(20);
        problems.truncate(20);
        if more > 0 {
            problems.push(format!("and {more} more"));
        }
        TokenizerError::unless_empty(problems)?;
        Ok(kinds)
    }

    /// How a `gpt2` vocabulary cuts text into words.
    pub(super) fn word_rules(&self) -> Result<Pre, TokenizerError> {
        let name = self.pre.as_deref().unwrap_or("default");
        pre::find(name).ok_or_else(|| TokenizerError::UnknownPre { pre: name.into(), known: pre::names() })
    }
}

/// What a kind of vocabulary has where the file does not say.
struct Defaults {
    add_bos: bool,
    add_eos: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    strip_first_space: bool,
}

impl Tokenizer {
    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    /// An algorithm or word rule that is not known, or a vocabulary that contradicts itself (all contradictions listed).
    pub fn from_gguf(vocab: &GgufVocab) -> Result<Self, TokenizerError> {
        let kinds = vocab.check()?;
        let library = |build: &dyn Fn() -> tokenizers::Result<Object>| -> Result<Algorithm, TokenizerError> {
            let object = guarded(build).map_err(|why| TokenizerError::Malformed { file: "the vocabulary", why })?;
            Ok(Algorithm::Library(Box::new(Library::new(object))))
        };
        let (bos, eos) = (vocab.bos, vocab.eos);
        let space_prefix = vocab.add_space_prefix.unwrap_or(true);
        let (algorithm, defaults) = match vocab.model.as_str() {
            "llama" => {
                let defaults = Defaults { add_bos: true, add_eos: false, bos, eos, strip_first_space: space_prefix };
                (spm(vocab, &kinds, space_prefix), defaults)
            }
            "gpt2" => {
                let pre = vocab.word_rules()?;
                let defaults = Defaults { add_bos: pre.add_bos, add_eos: false, bos, eos, strip_first_space: false };
                let words = guarded(|| bpe::byte_level(vocab, &kinds, &pre))
                    .map_err(|why| TokenizerError::Malformed { file: "the vocabulary", why })?;
                (Algorithm::Words(Box::new(words)), defaults)
            }
            "gemma4" => {
                let defaults = Defaults { add_bos: true, add_eos: false, bos, eos, strip_first_space: false };
                (library(&|| bpe::plain(vocab, &kinds))?, defaults)
            }
            "bert" => {
                let (bos, eos) = (vocab.cls.or(bos), vocab.sep.or(eos));
                let defaults = Defaults { add_bos: true, add_eos: true, bos, eos, strip_first_space: true };
                (library(&|| bpe::word_piece(vocab, &kinds))?, defaults)
            }
            "t5" => {
                let defaults = Defaults { add_bos: false, add_eos: true, bos, eos, strip_first_space: space_prefix };
                (library(&|| bpe::unigram(vocab, &kinds))?, defaults)
            }
            other => return Err(TokenizerError::UnknownModel { model: other.into() }),
        };
        let mut table = Vocab::default();
        for (text, &kind) in vocab.tokens.iter().zip(&kinds) {
            table.push(kind, text, &bytes_of(text, kind, &vocab.model));
        }
        let frame = |add: Option<bool>, default: bool, id: Option<u32>| id.filter(|_| add.unwrap_or(default));
        let prefix = frame(vocab.add_bos, defaults.add_bos, defaults.bos).into_iter().collect();
        let suffix = frame(vocab.add_eos, defaults.add_eos, defaults.eos).into_iter().collect();
        let ends = ends(&table, [vocab.eos, vocab.eot, vocab.eom].into_iter().flatten());
        let special = SpecialIds { bos: defaults.bos, eos: defaults.eos, unk: vocab.unk, pad: vocab.pad, ends };
        let strip_first_space = defaults.strip_first_space;
        let tokenizer = Tokenizer {
            inner: Arc::new(Inner { vocab: table, prefix, suffix, strip_first_space, algorithm }),
            special: Arc::new(special),
            control: Arc::default(),
        };
        tokenizer.probe("the vocabulary")?;
        Ok(tokenizer)
    }
}

fn spm(vocab: &GgufVocab, kinds: &[Kind], space_prefix: bool) -> Algorithm {
    let mut byte_ids = [None; 256];
    for (id, text) in vocab.tokens.iter().enumerate().filter(|&(id, _)| kinds[id] == Kind::Byte) {
        if let Some(byte) = hex_byte(text) {
            byte_ids[byte as usize] = Some(id as u32);
        }
    }
    let added = added(vocab, kinds);
    let scores = vocab.scores.clone().unwrap_or_default();
    let spm = Box::new(Spm::new(&vocab.tokens, scores, byte_ids, vocab.unk));
    Algorithm::Spm { spm, added: AddedTokens::new(added), space_prefix }
}

/// The tokens that are cut out of a text before the algorithm sees it.
pub(super) fn added<'a>(vocab: &'a GgufVocab, kinds: &'a [Kind]) -> impl Iterator<Item = Added> + 'a {
    // Phi-3's special tokens take the white space after them with them; its GGUF files do not say so, the name does.
    let name = vocab.name.as_deref().unwrap_or_default().to_lowercase();
    let strips = vocab.model == "llama" && (name.contains("phi-3") || name.contains("phi3"));
    vocab.tokens.iter().zip(kinds).enumerate().filter_map(move |(id, (text, &kind))| {
        let special = match kind {
            Kind::Control | Kind::Unknown => true,
            Kind::UserDefined => false,
            _ => return None,
        };
        let rstrip = strips && !matches!(text.as_str(), "<unk>" | "<s>" | "<|endoftext|>");
        Some(Added { id: id as u32, text: text.clone(), special, rstrip })
    })
}

/// The bytes that a token stands for.
fn bytes_of(text: &str, kind: Kind, model: &str) -> Vec<u8> {
    match (kind, model) {
        (Kind::Byte, _) => hex_byte(text).into_iter().collect(),
        (Kind::Control | Kind::Unknown, _) => text.into(),
        (_, "gpt2") if kind == Kind::UserDefined => text.into(),
        (_, "gpt2") => alphabet_bytes(text),
        (_, "bert") => cleanup(text.replace(SPACE, " ")).into_bytes(),
        (_, _) => text.replace(SPACE, " ").into_bytes(),
    }
}
