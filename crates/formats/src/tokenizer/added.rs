//! Cutting special tokens that are written in a text out of it, for the algorithms that are our own. It knows nothing of
//! what happens to the text between them.

use std::collections::HashMap;

/// A part of a text: a token that was written out, or text to be cut further.
#[derive(Debug, PartialEq)]
pub(super) enum Part<'a> {
    Token { id: u32, start: usize, end: usize },
    Text { text: &'a str, start: usize },
}

/// A token that is looked for in texts.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub id: u32,
    pub text: String,
    /// Found only where the caller asks for special tokens.
    pub special: bool,
    /// Takes the white space after it with it.
    pub rstrip: bool,
}

/// The tokens to look for. At each place the longest one wins, and places are taken from left to right.
#[derive(Debug)]
pub(super) struct AddedTokens {
    tokens: HashMap<Box<[u8]>, Added>,
    /// For each first byte, the lengths of the tokens that begin with it, longest first: a text costs a few look-ups per
    /// candidate even where thousands of tokens begin with `<`.
    lengths: Vec<Vec<usize>>,
}

impl AddedTokens {
    pub fn new(tokens: impl IntoIterator<Item = Added>) -> Self {
        let mut lengths = vec![Vec::new(); 256];
        let mut by_text = HashMap::new();
        for token in tokens {
            let Some(&first) = token.text.as_bytes().first() else { continue };
            lengths[first as usize].push(token.text.len());
            by_text.insert(token.text.as_bytes().into(), token);
        }
        for lengths in &mut lengths {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
        }
        AddedTokens { tokens: by_text, lengths }
    }

    /// Cuts `text` into tokens and the text between them. Text parts are never empty.
    pub fn split<'a>(&self, text: &'a str, special: bool) -> Vec<Part<'a>> {
        let (mut parts, mut from, mut at) = (Vec::new(), 0, 0);
        while at < text.len() {
            let Some(token) = self.at(&text.as_bytes()[at..], special) else {
                at += 1;
                continue;
            };
            if from < at {
                parts.push(Part::Text { text: &text[from..at], start: from });
            }
            let mut end = at + token.text.len();
            if token.rstrip {
                end += text[end..].len() - text[end..].trim_start().len();
            }
            parts.push(Part::Token { id: token.id, start: at, end });
            (from, at) = (end, end);
        }
        if from < text.len() {
            parts.push(Part::Text { text: &text[from..], start: from });
        }
        parts
    }

    /// The length of the longest token that `bytes` begin with.
    pub fn length_at(&self, bytes: &[u8]) -> Option<usize> {
        self.at(bytes, true).map(|token| token.text.len())
    }

    /// The longest token that `bytes` begin with.
    fn at(&self, bytes: &[u8], special: bool) -> Option<&Added> {
        self.lengths[bytes[0] as usize]
            .iter()
            .filter_map(|&length| self.tokens.get(bytes.get(..length)?))
            .find(|token| special || !token.special)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_token_wins_and_specials_are_optional() {
        let added = |id, text: &str, special, rstrip| Added { id, text: text.into(), special, rstrip };
        let tokens = AddedTokens::new([
            added(1, "<a>", true, false),
            added(2, "<a><b>", false, false),
            added(3, "é", false, false),
            added(4, "<r>", true, true),
        ]);
        use Part::*;
        assert_eq!(
            tokens.split("x<a><b>é<a>", true),
            [
                Text { text: "x", start: 0 },
                Token { id: 2, start: 1, end: 7 },
                Token { id: 3, start: 7, end: 9 },
                Token { id: 1, start: 9, end: 12 }
            ]
        );
        assert_eq!(tokens.split("<a>", false), [Text { text: "<a>", start: 0 }]);
        assert_eq!(tokens.split("<r> \n y", true), [Token { id: 4, start: 0, end: 6 }, Text { text: "y", start: 6 }]);
        assert_eq!(tokens.split("", true), []);
    }
}
