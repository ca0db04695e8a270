//! What every tokenizer has whatever its algorithm: the text, the bytes and the kind of each token, and the special ids.
//! It knows neither file formats nor how text is cut.

use std::collections::HashMap;
use std::ops::Range;

/// Ids above this are refused: the largest vocabularies in use have about 2^18 tokens, and tables are indexed by id.
pub const MAX_ID: u32 = (1 << 22) - 1;

/// What a token is, as GGUF numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// No token has this id.
    Absent = 0,
    Normal = 1,
    Unknown = 2,
    /// Steers the model (`<s>`, `<|im_end|>`); never part of plain text.
    Control = 3,
    /// Cut out of the text before the algorithm runs, but ordinary text otherwise.
    UserDefined = 4,
    Unused = 5,
    /// One byte, written `<0xHH>`.
    Byte = 6,
}

impl Kind {
    pub(super) fn of_code(code: i32) -> Option<Self> {
        Some(match code {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => return None,
        })
    }
}

/// Tokens that a model's files name for a purpose. All ids exist in the vocabulary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecialIds {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
    /// Every token that ends a turn or a text, ascending; contains `eos`.
    pub ends: Vec<u32>,
}

/// The tokens by id. Texts and bytes lie end to end in one buffer each.
#[derive(Debug, Default)]
pub(super) struct Vocab {
    kinds: Vec<Kind>,
    text: String,
    text_ends: Vec<u32>,
    bytes: Vec<u8>,
    byte_ends: Vec<u32>,
    ids: HashMap<Box<str>, u32>,
}

impl Vocab {
    /// Appends the token with the next id: how it is written and which bytes it stands for.
    pub fn push(&mut self, kind: Kind, text: &str, bytes: &[u8]) {
        if kind != Kind::Absent {
            // Of two tokens with one text the later wins, as in the libraries that trained these vocabularies.
            self.ids.insert(text.into(), self.kinds.len() as u32);
        }
        self.kinds.push(kind);
        self.text.push_str(text);
        self.text_ends.push(self.text.len() as u32);
        self.bytes.extend_from_slice(bytes);
        self.byte_ends.push(self.bytes.len() as u32);
    }

    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    pub fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Absent)
    }

    pub fn text(&self, id: u32) -> Option<&str> {
        (self.kind(id) != Kind::Absent).then(|| &self.text[span(&self.text_ends, id)])
    }

    /// The bytes of a token; none for an id that does not exist.
    pub fn bytes(&self, id: u32) -> &[u8] {
        if (id as usize) < self.len() { &self.bytes[span(&self.byte_ends, id)] } else { &[] }
    }

    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }
}

fn span(ends: &[u32], id: u32) -> Range<usize> {
    let id = id as usize;
    let start = if id == 0 { 0 } else { ends[id - 1] };
    start as usize..ends[id] as usize
}

/// Names that end a turn or a text in the model families in use; a file rarely lists all of its own.
const END_NAMES: [&str; 17] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<eos>",
    "<|END_OF_TURN_TOKEN|>",
];

/// The ids of `named` and of every special token with a well-known name, ascending.
pub(super) fn ends(vocab: &Vocab, named: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let known = END_NAMES.iter().filter_map(|name| vocab.id(name)).filter(|&id| vocab.kind(id) == Kind::Control);
    let mut ids: Vec<u32> = named.into_iter().chain(known).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The byte that a token written `<0xHH>` stands for. Anything else, `<0x-1>` and `<0xZZ>` included, is `None`.
pub(super) fn hex_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// GPT-2's byte alphabet: the printable bytes stand for themselves and the other 68 are moved to U+0100 and above.
/// Returns the byte that a character stands for.
pub(super) fn alphabet_byte(c: char) -> Option<u8> {
    match c as u32 {
        c @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(c as u8),
        // Bytes 0x00–0x20, 0x7f–0xa0 and 0xad, in this order.
        c @ 0x100..=0x120 => Some((c - 0x100) as u8),
        c @ 0x121..=0x142 => Some((c - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// A token written in GPT-2's alphabet, as bytes; text that is not in the alphabet stands for itself.
pub(super) fn alphabet_bytes(text: &str) -> Vec<u8> {
    text.chars().map(alphabet_byte).collect::<Option<_>>().unwrap_or_else(|| text.as_bytes().to_vec())
}
