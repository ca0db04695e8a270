//! Text to token ids and back, for the tokenizers of Hugging Face directories and of GGUF files. Loading knows the two
//! file formats; everything after it is the same for both. It knows nothing of models or chats.

mod added;
mod bpe;
mod decoder;
mod error;
mod export;
mod gguf;
mod hf;
mod library;
mod pre;
mod spm;
mod stream;
mod vocab;
mod words;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

pub use error::TokenizerError;
pub use export::hf_files;
pub(crate) use export::pre_name;
pub use gguf::GgufVocab;
pub use stream::DecodeStream;
pub use vocab::{Kind, SpecialIds};

use added::{Added, AddedTokens, Part};
pub(crate) use library::panic_text;

use library::Library;
use spm::{SPACE, Spm};
use vocab::Vocab;
use words::Words;

/// Longest text that is encoded in one call, in bytes; ranges inside are 32-bit and memory is about 50 times the text.
pub const MAX_TEXT_BYTES: usize = 256 << 20;

/// A model's tokenizer. Cloning shares everything.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
    special: Arc<SpecialIds>,
    /// How control tokens are written; made when first asked for.
    control: Arc<OnceLock<AddedTokens>>,
}

struct Inner {
    vocab: Vocab,
    /// What goes before and after a text as the model is configured.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    /// The first space of a text is not part of it.
    strip_first_space: bool,
    algorithm: Algorithm,
}

enum Algorithm {
    Library(Box<Library>),
    Words(Box<Words>),
    Spm {
        spm: Box<Spm>,
        added: AddedTokens,
        /// A space is put before the text, and before text that follows a special token.
        space_prefix: bool,
    },
}

type Pieces = Vec<(u32, Range<usize>)>;

impl Tokenizer {
    /// The ids of a text in which special tokens may be written out. `add_special` puts before and after it what the
    /// model is configured to have there (bos, eos, `[CLS]`, `[SEP]`).
    ///
    /// # Errors
    /// A text above [`MAX_TEXT_BYTES`], or one that the tokenizer's own rules fail on.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.framed(self.inner.pieces(text, true)?, add_special))
    }

    /// As [`Tokenizer::encode`], but what looks like a special token in the text is only text: for what users write.
    pub fn encode_plain(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.framed(self.inner.pieces(text, false)?, add_special))
    }

    /// The ids of a text in which special tokens may be written out, none added, and for each the bytes of the text it
    /// covers. Tokens that share a character have its whole range, so every range can be sliced.
    pub fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), TokenizerError> {
        Ok(self.inner.pieces(text, true)?.into_iter().unzip())
    }

    /// The ids of texts that follow one another, none added: no token reaches from one into the next, which is how a control
    /// token that a person wrote out is kept from becoming one. (Where tokenizer.json puts a space before every text, it
    /// puts one before each of these.)
    ///
    /// # Errors
    /// As for [`Tokenizer::encode`].
    pub fn encode_apart<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        for (i, text) in texts.into_iter().enumerate() {
            let pieces = match &self.inner.algorithm {
                Algorithm::Spm { spm, added, space_prefix } if text.len() <= MAX_TEXT_BYTES => {
                    spm_pieces(spm, added, *space_prefix, text, true, i == 0)
                }
                _ => self.inner.pieces(text, true)?,
            };
            ids.extend(pieces.into_iter().map(|(id, _)| id));
        }
        Ok(ids)
    }

    /// Where in a text a control token (or one that ends a turn) is written out, by start; of those that begin at one place
    /// the longest. Ranges may overlap. (A control token of one character is none that a model uses.)
    pub fn control_tokens_in<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
        let control = self.control.get_or_init(|| {
            let vocab = &self.inner.vocab;
            let steers = |id: &u32| vocab.kind(*id) == Kind::Control || self.special.ends.binary_search(id).is_ok();
            let text = |id: u32| vocab.text(id).filter(|text| text.chars().nth(1).is_some()).map(|text| (id, text));
            let tokens = (0..vocab.len() as u32).filter(steers).filter_map(text);
            AddedTokens::new(tokens.map(|(id, text)| Added { id, text: text.into(), special: true, rstrip: false }))
        });
        (0..text.len()).filter_map(|at| control.length_at(&text.as_bytes()[at..]).map(|length| at..at + length))
    }

    fn framed(&self, pieces: Pieces, add_special: bool) -> Vec<u32> {
        let (prefix, suffix) =
            if add_special { (&*self.inner.prefix, &*self.inner.suffix) } else { (&[][..], &[][..]) };
        let pieces = pieces.iter().map(|(id, _)| id);
        prefix.iter().chain(pieces).chain(suffix).copied().collect()
    }

    /// The text of `ids`, without special tokens if `skip_special`. Bytes that are not UTF-8 become U+FFFD; ids that do
    /// not exist add nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        self.inner.decode(ids, skip_special)
    }

    /// A decoder for ids that come one by one; special tokens are left out.
    pub fn stream(&self) -> DecodeStream {
        DecodeStream::new(self.inner.clone(), true)
    }

    /// As [`Tokenizer::stream`], with special tokens written out if `skip_special` is false.
    pub fn stream_with(&self, skip_special: bool) -> DecodeStream {
        DecodeStream::new(self.inner.clone(), skip_special)
    }

    /// The bytes that a token stands for inside a text; none if it does not exist.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.inner.vocab.bytes(id).to_vec()
    }

    /// A token as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.inner.vocab.text(id)
    }

    /// The id of a token as the vocabulary writes it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.vocab.id(token)
    }

    pub fn kind(&self, id: u32) -> Kind {
        self.inner.vocab.kind(id)
    }

    /// One more than the largest id. A model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab.len()
    }

    /// True for tokens that steer the model and are no text, the unknown token included.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.kind(id), Kind::Control | Kind::Unknown)
    }

    pub fn special(&self) -> &SpecialIds {
        &self.special
    }

    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    pub fn pad(&self) -> Option<u32> {
        self.special.pad
    }

    /// Every token that ends a turn or a text, ascending: generation stops at each of them.
    pub fn eos_ids(&self) -> &[u32] {
        &self.special.ends
    }

    /// True if [`Tokenizer::encode`] with `add_special` begins with bos: a rendered chat that already has it must then
    /// be encoded without.
    pub fn adds_bos(&self) -> bool {
        self.bos().is_some_and(|bos| self.inner.prefix.first() == Some(&bos))
    }

    /// The same tokenizer with more tokens that end a text, such as those of generation_config.json. Ids that do not exist
    /// are left out.
    pub fn with_eos_ids(mut self, ids: &[u32]) -> Self {
        let vocab = &self.inner.vocab;
        let ends = &mut Arc::make_mut(&mut self.special).ends;
        ends.extend(ids.iter().filter(|&&id| vocab.kind(id) != Kind::Absent));
        ends.sort_unstable();
        ends.dedup();
        self.control = Arc::default();
        self
    }
}

impl Inner {
    /// The tokens of a text, none added.
    fn pieces(&self, text: &str, special: bool) -> Result<Pieces, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong { bytes: text.len(), limit: MAX_TEXT_BYTES });
        }
        match &self.algorithm {
            Algorithm::Library(library) => library.encode(text, special),
            Algorithm::Words(words) => words.encode(&self.vocab, text, special),
            Algorithm::Spm { spm, added, space_prefix } => {
                Ok(spm_pieces(spm, added, *space_prefix, text, special, true))
            }
        }
    }
}

/// `at_start`: the text follows no other, so it is put a space before where that is done.
fn spm_pieces(spm: &Spm, added: &AddedTokens, space_prefix: bool, text: &str, special: bool, at_start: bool) -> Pieces {
    let mut pieces = Vec::with_capacity(text.len() / 4 + 1);
    let mut after_special = at_start;
    for part in added.split(text, special) {
        match part {
            Part::Token { id, start, end } => {
                pieces.push((id, start..end));
                after_special = true;
            }
            Part::Text { text, start } => {
                let prefix = if space_prefix && after_special { 1 } else { 0 };
                let escaped: String = std::iter::repeat_n(' ', prefix)
                    .chain(text.chars())
                    .map(|c| if c == ' ' { SPACE } else { c })
                    .collect();
                let mut walk = Unescape { text: text.as_bytes(), prefix, escaped: 0, original: 0 };
                // The tokens of one character's bytes come with the same range.
                let mut last = (0..0, 0..0);
                spm.encode(&escaped, |id, range| {
                    if range != last.0 {
                        let original = start + walk.to(range.start)..start + walk.to(range.end);
                        last = (range, original);
                    }
                    pieces.push((id, last.1.clone()));
                });
                after_special = false;
            }
        }
    }
    pieces
}

/// Walks a text beside its escaped form, in which each space has the three bytes of `▁` and `prefix` spaces come first.
struct Unescape<'a> {
    text: &'a [u8],
    prefix: usize,
    escaped: usize,
    original: usize,
}

impl Unescape<'_> {
    /// The place in the text of a character boundary of the escaped form; boundaries are asked for in order.
    fn to(&mut self, escaped: usize) -> usize {
        while self.escaped < escaped {
            if self.prefix > 0 {
                self.prefix -= 1;
                self.escaped += SPACE.len_utf8();
                continue;
            }
            self.escaped += if self.text[self.original] == b' ' { SPACE.len_utf8() } else { 1 };
            self.original += 1;
        }
        self.original
    }
}
