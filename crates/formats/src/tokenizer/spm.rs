//! SentencePiece's BPE: characters are joined, best score first, as long as the joined text is a token; what is no token
//! becomes bytes. (Kudo and Richardson 2018, "SentencePiece"; merge order as in Sennrich et al. 2016 with scores for
//! ranks.) It knows nothing of files, special tokens or decoding.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

/// How SentencePiece writes a space.
pub(super) const SPACE: char = '▁';

/// A vocabulary ready for merging.
#[derive(Debug)]
pub(super) struct Spm {
    ids: HashMap<Box<str>, u32>,
    scores: Vec<f32>,
    byte_ids: [Option<u32>; 256],
    unk: Option<u32>,
    /// No token has a space after another character, so merging can stop at every word: the same result from short heaps.
    words_are_apart: bool,
}

/// One symbol of the text being merged: a range of it, and its neighbours.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    end: u32,
    previous: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

/// Two neighbouring symbols that make a token.
struct Pair {
    score: f32,
    left: u32,
    right: u32,
    bytes: u32,
}

impl Ord for Pair {
    /// The best score is greatest; of equal ones the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl Spm {
    /// `tokens` in id order with their `scores`; `byte_ids[b]` is the token for byte `b`.
    pub fn new(tokens: &[String], scores: Vec<f32>, byte_ids: [Option<u32>; 256], unk: Option<u32>) -> Self {
        let ids = tokens.iter().enumerate().map(|(id, text)| (text.as_str().into(), id as u32)).collect();
        let words_are_apart = !tokens.iter().any(|text| {
            let mut characters = text.chars().skip_while(|&c| c == SPACE);
            characters.any(|c| c == SPACE)
        });
        Spm { ids, scores, byte_ids, unk, words_are_apart }
    }

    /// Emits the tokens of `text`, in which spaces are written `▁`, with the bytes of it that each covers. A byte token
    /// covers its whole character.
    pub fn encode(&self, text: &str, mut emit: impl FnMut(u32, Range<usize>)) {
        let (mut symbols, mut pairs) = (Vec::new(), BinaryHeap::new());
        let mut from = 0;
        while from < text.len() {
            let to = if self.words_are_apart { word_end(text, from) } else { text.len() };
            self.merge(text, from..to, &mut symbols, &mut pairs);
            let mut at = 0;
            while at != NONE {
                let Symbol { start, end, next, .. } = symbols[at as usize];
                self.finish(text, start as usize..end as usize, &mut emit);
                at = next;
            }
            from = to;
        }
    }

    /// Joins the characters of `text[range]` into tokens: a list in `symbols`, whose first is the first character's.
    fn merge(&self, text: &str, range: Range<usize>, symbols: &mut Vec<Symbol>, pairs: &mut BinaryHeap<Pair>) {
        symbols.clear();
        for (i, c) in text[range.clone()].char_indices() {
            let (start, at) = ((range.start + i) as u32, symbols.len() as u32);
            symbols.push(Symbol {
                start,
                end: start + c.len_utf8() as u32,
                previous: at.wrapping_sub(1),
                next: at + 1,
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        for right in 1..symbols.len() as u32 {
            self.propose(text, symbols, pairs, right - 1, right);
        }
        while let Some(pair) = pairs.pop() {
            let (left, right) = (symbols[pair.left as usize], symbols[pair.right as usize]);
            // Either side has been joined to something else since: an empty symbol, or a longer one.
            if left.start == left.end || right.start == right.end || right.end - left.start != pair.bytes {
                continue;
            }
            symbols[pair.left as usize].end = right.end;
            symbols[pair.left as usize].next = right.next;
            symbols[pair.right as usize].end = right.start;
            if right.next != NONE {
                symbols[right.next as usize].previous = pair.left;
                self.propose(text, symbols, pairs, pair.left, right.next);
            }
            if left.previous != NONE {
                self.propose(text, symbols, pairs, left.previous, pair.left);
            }
        }
    }

    /// Queues two neighbours if together they are a token.
    fn propose(&self, text: &str, symbols: &[Symbol], pairs: &mut BinaryHeap<Pair>, left: u32, right: u32) {
        let (start, end) = (symbols[left as usize].start, symbols[right as usize].end);
        if let Some(&id) = self.ids.get(&text[start as usize..end as usize]) {
            pairs.push(Pair { score: self.scores[id as usize], left, right, bytes: end - start });
        }
    }

    /// Emits a finished symbol: its token, or else its bytes, or else the unknown token.
    fn finish(&self, text: &str, range: Range<usize>, emit: &mut impl FnMut(u32, Range<usize>)) {
        if let Some(&id) = self.ids.get(&text[range.clone()]) {
            return emit(id, range);
        }
        let bytes = &text.as_bytes()[range.clone()];
        if bytes.iter().all(|&b| self.byte_ids[b as usize].is_some()) {
            bytes.iter().filter_map(|&b| self.byte_ids[b as usize]).for_each(|id| emit(id, range.clone()));
        } else if let Some(unk) = self.unk {
            emit(unk, range);
        }
    }
}

/// Where the word that starts at `from` ends: before the next `▁` that follows another character.
fn word_end(text: &str, from: usize) -> usize {
    let mut inside = false;
    for (i, c) in text[from..].char_indices() {
        if c == SPACE && inside {
            return from + i;
        }
        inside |= c != SPACE;
    }
    text.len()
}
