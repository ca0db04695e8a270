//! The algorithms of GGUF vocabularies out of the library's parts: byte-level BPE by the name of its word rules, BPE on plain text with byte
//! fallback (Gemma 4), WordPiece (BERT) and Unigram (T5). It knows nothing of special ids or decoding.

use tokenizers::models::bpe::{BPE, Merges, Vocab as BpeVocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, Precompiled, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, ModelWrapper, NormalizerWrapper, Result, SplitDelimiterBehavior::Isolated, Tokenizer};

use super::gguf::GgufVocab;
use super::pre::Pre;
use super::vocab::Kind;
use super::words::Words;

/// Byte-level BPE.
pub(super) fn byte_level(vocab: &GgufVocab, kinds: &[Kind], pre: &Pre) -> Result<Words> {
    let model =
        BPE::builder().vocab_and_merges(ids(&vocab.tokens), merges(vocab)).ignore_merges(pre.ignore_merges).build()?;
    Words::new(pre.splits, model, super::gguf::added(vocab, kinds))
}

/// BPE on characters with `▁` for spaces; a character that is no token becomes its bytes.
pub(super) fn plain(vocab: &GgufVocab, kinds: &[Kind]) -> Result<Tokenizer> {
    let unk = vocab.unk.and_then(|id| vocab.tokens.get(id as usize));
    let mut model =
        BPE::builder().vocab_and_merges(ids(&vocab.tokens), merges(vocab)).byte_fallback(true).fuse_unk(true);
    if let Some(unk) = unk {
        model = model.unk_token(unk.clone());
    }
    let mut tokenizer = Tokenizer::new(ModelWrapper::from(model.build()?));
    tokenizer.with_normalizer(Some(Replace::new(" ", "▁")?))?;
    // Words never join across a line break; the pieces keep the merging short.
    tokenizer.with_pre_tokenizer(Some(Split::new(SplitPattern::Regex("[^\n]+|\n+".into()), Isolated, false)?));
    add_tokens(&mut tokenizer, &vocab.tokens, kinds)?;
    Ok(tokenizer)
}

/// WordPiece as in BERT. GGUF marks the pieces that begin a word (`▁`), BERT's own files those that do not (`##`).
pub(super) fn word_piece(vocab: &GgufVocab, kinds: &[Kind]) -> Result<Tokenizer> {
    let texts: Vec<String> = vocab.tokens.iter().zip(kinds).map(|(text, &kind)| hashed(text, kind)).collect();
    let unk = vocab.unk.and_then(|id| texts.get(id as usize)).cloned().unwrap_or_else(|| "[UNK]".into());
    let vocab_ids: BpeVocab = ids(&texts);
    let model = WordPiece::builder().vocab(vocab_ids).unk_token(unk).continuing_subword_prefix("##".into()).build()?;
    let mut tokenizer = Tokenizer::new(ModelWrapper::from(model));
    tokenizer.with_normalizer(Some(BertNormalizer::new(true, true, None, true)))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    add_tokens(&mut tokenizer, &texts, kinds)?;
    Ok(tokenizer)
}

/// A WordPiece token in BERT's writing.
pub(super) fn hashed(text: &str, kind: Kind) -> String {
    match (text.strip_prefix('▁'), kind) {
        (Some(word), Kind::Normal) => word.into(),
        (None, Kind::Normal) => format!("##{text}"),
        _ => text.into(),
    }
}

/// Unigram as in T5 and XLM-R, with the file's own character map.
pub(super) fn unigram(vocab: &GgufVocab, kinds: &[Kind]) -> Result<Tokenizer> {
    let scores = vocab.scores.as_deref().unwrap_or_default();
    let scored = vocab.tokens.iter().cloned().zip(scores.iter().map(|&s| f64::from(s))).collect();
    let byte_fallback = kinds.contains(&Kind::Byte);
    let model = Unigram::from(scored, vocab.unk.map(|id| id as usize), byte_fallback)?;
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if let Some(map) = vocab.charsmap.as_deref().filter(|map| !map.is_empty()) {
        steps.push(Precompiled::from(map)?.into());
    }
    if vocab.remove_extra_whitespaces == Some(true) {
        let runs = tokenizers::normalizers::replace::ReplacePattern::Regex(" {2,}".into());
        steps.push(tokenizers::normalizers::Strip::new(true, true).into());
        steps.push(Replace::new(runs, " ")?.into());
    }
    let mut tokenizer = Tokenizer::new(ModelWrapper::from(model));
    tokenizer.with_normalizer(Some(Normalizers::new(steps)))?;
    let scheme = if vocab.add_space_prefix == Some(false) { PrependScheme::Never } else { PrependScheme::Always };
    tokenizer.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, true)));
    add_tokens(&mut tokenizer, &vocab.tokens, kinds)?;
    Ok(tokenizer)
}

fn ids(tokens: &[String]) -> BpeVocab {
    tokens.iter().enumerate().map(|(id, text)| (text.clone(), id as u32)).collect()
}

/// The merge rules, best first. A rule whose parts or result are no tokens can never apply and is left out.
pub(super) fn merges(vocab: &GgufVocab) -> Merges {
    let known: std::collections::HashSet<&str> = vocab.tokens.iter().map(String::as_str).collect();
    let rules = vocab.merges.iter().flatten();
    let pair = |rule: &String| {
        // A part may itself be a space: the separator is the first space after the first character.
        let first = rule.chars().next()?.len_utf8();
        let at = first + rule[first..].find(' ')?;
        let (left, right) = (&rule[..at], &rule[at + 1..]);
        let applies =
            known.contains(left) && known.contains(right) && known.contains(format!("{left}{right}").as_str());
        applies.then(|| (left.to_string(), right.to_string()))
    };
    rules.filter_map(pair).collect()
}

/// Registers the tokens that are cut out of a text before the model sees it.
fn add_tokens(tokenizer: &mut Tokenizer, texts: &[String], kinds: &[Kind]) -> Result<()> {
    let of = |wanted: fn(Kind) -> bool, special: bool| {
        let chosen = texts.iter().zip(kinds).filter(move |(text, kind)| wanted(**kind) && !text.is_empty());
        chosen.map(move |(text, _)| AddedToken::from(text.as_str(), special).normalized(false)).collect::<Vec<_>>()
    };
    tokenizer.add_special_tokens(of(|kind| matches!(kind, Kind::Control | Kind::Unknown), true))?;
    tokenizer.add_tokens(of(|kind| kind == Kind::UserDefined, false))?;
    Ok(())
}
