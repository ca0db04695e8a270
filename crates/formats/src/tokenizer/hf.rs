//! Tokenizers from the files of a Hugging Face directory: tokenizer.json, with tokenizer_config.json and
//! special_tokens_map.json where there are any.

use std::sync::Arc;

use serde_json::Value;
use tokenizers::{PostProcessor, Tokenizer as Object};

use super::decoder::DecodeRules;
use super::library::{Library, guarded};
use super::vocab::{Kind, MAX_ID, SpecialIds, Vocab, ends};
use super::words::Words;
use super::{Algorithm, Inner, Tokenizer, TokenizerError};

/// The largest tokenizer.json in use has 35 MB.
const MAX_TOKENIZER_BYTES: usize = 128 << 20;
/// tokenizer_config.json lists every added token once more.
const MAX_CONFIG_BYTES: usize = 16 << 20;

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";

impl Tokenizer {
    /// The tokenizer of a Hugging Face directory, from the bytes of its files.
    ///
    /// # Errors
    /// Files that are too large or malformed, an algorithm without a known way back to text, special tokens that are not
    /// in the vocabulary.
    pub fn from_hf(tokenizer: &[u8], config: Option<&[u8]>, map: Option<&[u8]>) -> Result<Self, TokenizerError> {
        let json = parse(TOKENIZER, tokenizer, MAX_TOKENIZER_BYTES)?;
        let config = config.map(|bytes| parse(CONFIG, bytes, MAX_CONFIG_BYTES)).transpose()?.unwrap_or_default();
        let map = map.map(|bytes| parse(MAP, bytes, MAX_CONFIG_BYTES)).transpose()?.unwrap_or_default();
        let rules =
            DecodeRules::parse(&json["decoder"]).map_err(|why| TokenizerError::Parse { file: TOKENIZER, why })?;
        drop(json);
        let malformed = |why| TokenizerError::Malformed { file: TOKENIZER, why };
        let object = guarded(|| Object::from_bytes(tokenizer)).map_err(malformed)?;
        let vocab = table(&object, &rules)?;
        let special = special_ids(&vocab, &config, &map)?;
        let (mut prefix, mut suffix) = guarded(|| frame(&object)).map_err(malformed)?;
        adjust(&mut prefix, special.bos, config["add_bos_token"].as_bool(), |prefix, bos| prefix.insert(0, bos));
        adjust(&mut suffix, special.eos, config["add_eos_token"].as_bool(), |suffix, eos| suffix.push(eos));
        let problems = prefix.iter().chain(&suffix).filter(|&&id| vocab.kind(id) == Kind::Absent);
        let problems = problems.map(|id| format!("post_processor adds token {id}, which does not exist")).collect();
        TokenizerError::unless_empty(problems)?;
        let strip_first_space = rules.strip_first_space;
        let words = guarded(|| Ok(Words::of(&object))).map_err(malformed)?;
        let algorithm = match words {
            Some(words) => Algorithm::Words(Box::new(words)),
            None => Algorithm::Library(Box::new(Library::new(object))),
        };
        let tokenizer = Tokenizer {
            inner: Arc::new(Inner { vocab, prefix, suffix, strip_first_space, algorithm }),
            special: Arc::new(special),
            control: Arc::default(),
        };
        tokenizer.probe(TOKENIZER)?;
        Ok(tokenizer)
    }

    /// Encodes a text that meets every part of a tokenizer and checks that what comes out exists: the library accepts
    /// files that it cannot work with.
    pub(super) fn probe(&self, file: &'static str) -> Result<(), TokenizerError> {
        const TEXT: &str = "Probe 12345, one  line\n\tnext: é 漢字 👍🏽 <|x|> don't\u{0}\u{fffd}";
        let malformed = |why: String| TokenizerError::Malformed { file, why };
        for special in [true, false] {
            let pieces = self.inner.pieces(TEXT, special).map_err(|e| malformed(e.to_string()))?;
            for (id, range) in pieces {
                if self.kind(id) == Kind::Absent {
                    return Err(malformed(format!("encoding gives token {id}, which does not exist")));
                }
                if TEXT.get(range.clone()).is_none() {
                    return Err(malformed(format!("encoding gives bytes {range:?} of a text of {} bytes", TEXT.len())));
                }
            }
        }
        Ok(())
    }
}

fn parse(file: &'static str, bytes: &[u8], limit: usize) -> Result<Value, TokenizerError> {
    if bytes.len() > limit {
        return Err(TokenizerError::TooLarge { file, bytes: bytes.len(), limit });
    }
    serde_json::from_slice(bytes).map_err(|e| TokenizerError::Parse { file, why: e.to_string() })
}

/// All tokens by id.
fn table(object: &Object, rules: &DecodeRules) -> Result<Vocab, TokenizerError> {
    let added = object.get_added_tokens_decoder();
    let mut tokens: Vec<(u32, String)> = object.get_vocab(true).into_iter().map(|(text, id)| (id, text)).collect();
    tokens.sort_unstable();
    let problem = |problem: String| Err(TokenizerError::Problems { problems: vec![problem] });
    match tokens.last() {
        None => return problem("the vocabulary is empty".into()),
        Some((id, text)) if *id > MAX_ID => {
            return problem(format!("token {text:?} has id {id}, the largest allowed is {MAX_ID}"));
        }
        Some(_) => {}
    }
    let mut vocab = Vocab::default();
    for (id, text) in tokens {
        if (id as usize) < vocab.len() {
            return problem(format!("id {id} belongs to {:?} and to {text:?}", vocab.text(id).unwrap_or_default()));
        }
        while vocab.len() < id as usize {
            vocab.push(Kind::Absent, "", &[]);
        }
        match added.get(&id) {
            Some(token) if token.special => vocab.push(Kind::Control, &text, text.as_bytes()),
            Some(_) => vocab.push(Kind::UserDefined, &text, text.as_bytes()),
            None => vocab.push(Kind::Normal, &text, &rules.bytes(&text)),
        }
    }
    Ok(vocab)
}

/// The special tokens that the two side files name, tokenizer_config.json first.
fn special_ids(vocab: &Vocab, config: &Value, map: &Value) -> Result<SpecialIds, TokenizerError> {
    let mut problems = Vec::new();
    let mut id = |key: &str| {
        // A token is written as its text or as an object with its text in "content".
        let text = |file: &Value| file[key].as_str().or(file[key]["content"].as_str()).map(String::from);
        let text = text(config).or_else(|| text(map))?;
        let id = vocab.id(&text);
        if id.is_none() {
            problems.push(format!("{key} is {text:?}, which is not in the vocabulary"));
        }
        id
    };
    let (bos, eos, unk, pad) = (id("bos_token"), id("eos_token"), id("unk_token"), id("pad_token"));
    TokenizerError::unless_empty(problems)?;
    Ok(SpecialIds { bos, eos, unk, pad, ends: ends(vocab, eos) })
}

/// What the post-processor puts before and after a text.
fn frame(object: &Object) -> tokenizers::Result<(Vec<u32>, Vec<u32>)> {
    let Some(processor) = object.get_post_processor() else { return Ok(Default::default()) };
    // A text of one token that no vocabulary has shows where the text goes.
    let mark = tokenizers::Encoding::from_tokens(vec![tokenizers::Token::new(u32::MAX, "mark".into(), (0, 4))], 0);
    let framed = processor.process(mark, None, true)?;
    let ids = framed.get_ids();
    let seam = ids.iter().position(|&id| id == u32::MAX).ok_or("post_processor leaves the text out")?;
    Ok((ids[..seam].to_vec(), ids[seam + 1..].to_vec()))
}

/// Makes an end of the frame say what tokenizer_config.json says, where it says anything.
fn adjust(ids: &mut Vec<u32>, token: Option<u32>, wanted: Option<bool>, add: impl FnOnce(&mut Vec<u32>, u32)) {
    let Some(token) = token else { return };
    match (wanted, ids.contains(&token)) {
        (Some(true), false) => add(ids, token),
        (Some(false), true) => ids.retain(|&id| id != token),
        _ => {}
    }
}
