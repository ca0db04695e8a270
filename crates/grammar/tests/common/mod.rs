//! A vocabulary of bytes and a few longer tokens, dice, and an answer drawn from random logits under a constraint.

// Each test binary uses a part of this.
#![allow(dead_code)]

use ounce_engine::sampler::{Dice, Sampler, SamplingParams};
use ounce_engine::{Constraint, Unmet, allows};
use ounce_formats::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

pub const END: u32 = 2;
/// Tokens besides those of one byte, as byte-level tokenizers write them: Ġ is a space, Ċ a line break.
const LONGER: [&str; 22] = [
    "{\"",
    "\":",
    "\":Ġ",
    "Ġ\"",
    "\",",
    "\",Ġ\"",
    "\"}",
    "},",
    "}}",
    "],",
    "[]",
    "{}",
    "true",
    "null",
    "fals",
    "12",
    "00",
    "-1",
    "name",
    "ĊĠĠ",
    "<tool_call>",
    "é",
];

/// `<unk>`, `<s>`, `</s>`, then every byte, then [`LONGER`].
pub fn tokenizer() -> Tokenizer {
    let specials = ["<unk>", "<s>", "</s>"];
    let bytes = (0..=255u8).map(|b| alphabet(b).to_string());
    let words = specials.into_iter().map(String::from).chain(bytes).chain(LONGER.map(String::from));
    let vocab: Map<String, Value> = words.enumerate().map(|(id, word)| (word, id.into())).collect();
    let added = |(id, content)| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    };
    let added: Vec<Value> = specials.into_iter().enumerate().map(added).collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let file = json!({"version": "1.0", "added_tokens": added, "pre_tokenizer": bytes, "decoder": bytes,
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": []}});
    Tokenizer::from_hf(file.to_string().as_bytes(), None, None).unwrap().with_eos_ids(&[END])
}

/// GPT-2's alphabet of bytes: printable ones stand for themselves, the others from U+0100 on.
fn alphabet(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match printable(byte) {
        true => byte as char,
        false => char::from_u32(0x100 + (0..byte).filter(|&b| !printable(b)).count() as u32).unwrap(),
    }
}

/// How an answer ended.
#[derive(Debug, PartialEq)]
pub enum Ended {
    Whole,
    Cut,
    Unmet(Unmet),
}

/// Draws up to `most` tokens: any token at random, those that close something a little likelier. Every token is taken from
/// a sampler under the constraint, as the engine does.
pub fn draw(tokenizer: &Tokenizer, mut constraint: Box<dyn Constraint>, seed: u64, most: usize) -> (String, Ended) {
    let params = SamplingParams { temperature: 2.0, seed, ..SamplingParams::default() };
    let (mut sampler, mut dice, mut ids) = (Sampler::new(&params, &[]), Dice::new(seed), Vec::new());
    let closes: Vec<bool> = (0..tokenizer.vocab_size() as u32)
        .map(|id| id == END || tokenizer.token_bytes(id).iter().any(|b| b"\"}]".contains(b)))
        .collect();
    let ended = loop {
        if ids.len() == most {
            break Ended::Cut;
        }
        let logits: Vec<f32> =
            closes.iter().map(|&c| (dice.fraction() * 8.0) as f32 + if c { 6.0 } else { 0.0 }).collect();
        let allowed = match constraint.allowed() {
            Ok(allowed) => allowed,
            Err(unmet) => break Ended::Unmet(unmet),
        };
        let token = sampler.sample_among(&logits, Some(allowed)).token;
        assert!(allows(allowed, token), "{token} was not allowed");
        if token == END {
            assert!(constraint.may_stop());
            break Ended::Whole;
        }
        ids.push(token);
        if let Err(unmet) = constraint.accept(token) {
            break Ended::Unmet(unmet);
        }
        if constraint.is_complete() {
            break Ended::Whole;
        }
    };
    (tokenizer.decode(&ids, false), ended)
}

/// A constraint that is asked at every step what it foresees, and held to it that it allows that.
pub struct Asked {
    pub constraint: Box<dyn Constraint>,
    /// Tokens that were foreseen since the last one that was not, and how many of those came.
    foreseen: Vec<u32>,
    pub held: usize,
}

impl Asked {
    pub fn new(constraint: Box<dyn Constraint>) -> Asked {
        Asked { constraint, foreseen: Vec::new(), held: 0 }
    }
}

impl Constraint for Asked {
    fn allowed(&mut self) -> Result<&[u32], Unmet> {
        self.foreseen = self.constraint.foresee(12);
        assert!(self.foreseen.len() <= 12);
        let mut fork = self.constraint.fork();
        for (at, &token) in self.foreseen.iter().enumerate() {
            assert!(allows(fork.allowed().unwrap(), token), "token {at} of {:?}", self.foreseen);
            fork.accept(token).unwrap();
        }
        self.constraint.allowed()
    }

    fn accept(&mut self, token: u32) -> Result<(), Unmet> {
        self.held += usize::from(self.foreseen.first() == Some(&token));
        self.constraint.accept(token)
    }

    fn may_stop(&mut self) -> bool {
        self.constraint.may_stop()
    }

    fn is_complete(&self) -> bool {
        self.constraint.is_complete()
    }

    fn foresee(&mut self, most: usize) -> Vec<u32> {
        self.constraint.foresee(most)
    }

    fn fork(&self) -> Box<dyn Constraint> {
        self.constraint.fork()
    }
}
