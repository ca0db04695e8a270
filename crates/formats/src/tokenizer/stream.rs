//! Ids to text, whole or as they come. It knows only the bytes of each token.

use std::sync::Arc;

use super::{Inner, vocab::Kind};

impl Inner {
    /// Appends what `id` adds to the text to `out`. `at_start` is true until a byte has been written.
    fn write(&self, id: u32, skip_special: bool, at_start: &mut bool, out: &mut Vec<u8>) {
        if skip_special && matches!(self.vocab.kind(id), Kind::Control | Kind::Unknown) {
            return;
        }
        let mut bytes = self.vocab.bytes(id);
        if std::mem::replace(at_start, *at_start && bytes.is_empty()) && self.strip_first_space {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        out.extend_from_slice(bytes);
    }

    /// The text of `ids`. Bytes that are not UTF-8 become U+FFFD; ids that do not exist add nothing.
    pub(super) fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let (mut bytes, mut at_start) = (Vec::with_capacity(ids.len() * 4), true);
        for &id in ids {
            self.write(id, skip_special, &mut at_start, &mut bytes);
        }
        String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
    }
}

/// Text from ids that arrive one by one. All that it returns, joined, is what `Tokenizer::decode` gives for the same ids.
#[derive(Clone)]
pub struct DecodeStream {
    inner: Arc<Inner>,
    skip_special: bool,
    at_start: bool,
    /// Bytes that may be the beginning of a character: at most three between calls.
    pending: Vec<u8>,
}

impl DecodeStream {
    pub(super) fn new(inner: Arc<Inner>, skip_special: bool) -> Self {
        DecodeStream { inner, skip_special, at_start: true, pending: Vec::new() }
    }

    /// The text that became complete with `id`, if any did. Never ends inside a character.
    pub fn push(&mut self, id: u32) -> Option<String> {
        self.inner.write(id, self.skip_special, &mut self.at_start, &mut self.pending);
        let text = take_complete(&mut self.pending);
        (!text.is_empty()).then_some(text)
    }

    /// What is left when no more ids come: U+FFFD for a character that was never finished.
    pub fn finish(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.pending);
        (!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned())
    }
}

/// Takes everything but the beginning of an unfinished character from the front of `bytes`.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    // Only at the very end can bytes be the beginning of a character; anywhere else they are wrong for good.
    let tail = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    let unfinished = std::str::from_utf8(tail).is_err_and(|e| e.error_len().is_none());
    let kept = bytes.len() - if unfinished { tail.len() } else { 0 };
    let text = String::from_utf8_lossy(&bytes[..kept]).into_owned();
    bytes.drain(..kept);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_unfinished_tail_is_held_back() {
        let check = |bytes: &[u8], text: &str, rest: &[u8]| {
            let mut buffer = bytes.to_vec();
            assert_eq!((take_complete(&mut buffer).as_str(), buffer.as_slice()), (text, rest), "{bytes:x?}");
        };
        check(b"", "", b"");
        check("é".as_bytes(), "é", b"");
        check(b"a\xc3", "a", b"\xc3");
        check(b"a\xf0\x9f\x98", "a", b"\xf0\x9f\x98");
        check(b"\xff\xfea", "\u{fffd}\u{fffd}a", b"");
        check(b"\xe2\x82\xe2\x82", "\u{fffd}", b"\xe2\x82");
        check(b"\xc3a", "\u{fffd}a", b"");
    }
}
