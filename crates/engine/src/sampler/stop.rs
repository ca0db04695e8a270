//! Finds stop texts in a stream of text pieces and holds back what may become one. Knows no tokens.

/// Watches for stop texts across the borders of pieces.
///
/// The answer ends at the stop text that is complete first; of two that are complete at the same byte, at the longer
/// one. What has been emitted never contains any part of it, and does not depend on how the text was cut into pieces.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// Text not emitted yet: the longest tail of the stream that is the beginning of a stop text.
    held: String,
    stopped: bool,
}

/// What may be shown after a piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emitted {
    pub text: String,
    /// Index of the stop text that ended the answer.
    pub stop: Option<usize>,
}

impl StopMatcher {
    /// Empty stop texts are ignored: they would end every answer before it begins.
    pub fn new(stops: &[String]) -> StopMatcher {
        StopMatcher { stops: stops.to_vec(), held: String::new(), stopped: false }
    }

    /// Takes the next piece of text. After a stop text was found everything further is dropped.
    pub fn push(&mut self, piece: &str) -> Emitted {
        if self.stopped {
            return Emitted::default();
        }
        // A stop text can only be complete inside the new piece, so only those ends are looked at.
        let old = self.held.len();
        self.held.push_str(piece);
        if let Some((start, stop)) = self.first_complete(old) {
            self.stopped = true;
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return Emitted { text, stop: Some(stop) };
        }
        let keep = self.possible_beginning();
        let text = self.held[..keep].to_owned();
        self.held.drain(..keep);
        Emitted { text, stop: None }
    }

    /// The stream has ended without a stop text: what was held back is part of the answer.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// (start, index) of the stop text that ends first, at a byte after `old`.
    fn first_complete(&self, old: usize) -> Option<(usize, usize)> {
        let mut best: Option<(usize, usize, usize)> = None;
        for (index, stop) in self.stops.iter().enumerate().filter(|(_, s)| !s.is_empty()) {
            let mut from = (old + 1).saturating_sub(stop.len());
            while !self.held.is_char_boundary(from) {
                from += 1;
            }
            if let Some(at) = self.held[from..].find(stop.as_str()) {
                let start = from + at;
                let found = (start + stop.len(), start, index);
                if best.is_none_or(|b| found < b) {
                    best = Some(found);
                }
            }
        }
        best.map(|(_, start, index)| (start, index))
    }

    /// Byte from which the held text is the beginning of some stop text.
    fn possible_beginning(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        (from..self.held.len())
            .find(|&at| self.held.is_char_boundary(at) && self.stops.iter().any(|s| s.starts_with(&self.held[at..])))
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::philox2x64;
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut matcher = StopMatcher::new(&stops);
        let mut text = String::new();
        for piece in pieces {
            let emitted = matcher.push(piece);
            text.push_str(&emitted.text);
            if emitted.stop.is_some() {
                assert_eq!(matcher.push("more"), Emitted::default());
                return (text, emitted.stop);
            }
        }
        text.push_str(&matcher.finish());
        (text, None)
    }

    #[test]
    fn a_stop_text_is_found_across_pieces() {
        assert_eq!(run(&["\n\nUser:"], &["hello\n", "\nUs", "er: x"]), ("hello".into(), Some(0)));
        assert_eq!(run(&["END"], &["a E", "N", "x END"]), ("a ENx ".into(), Some(0)));
        assert_eq!(run(&["END"], &["an EN"]), ("an EN".into(), None));
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), None));
        assert_eq!(run(&["", "b"], &["ab"]), ("a".into(), Some(1)));
    }

    #[test]
    fn the_first_complete_stop_text_wins() {
        assert_eq!(run(&["abcd", "bc"], &["xabcd"]), ("xa".into(), Some(1)));
        assert_eq!(run(&["cd", "abcd"], &["xabcd"]), ("x".into(), Some(1)));
    }

    #[test]
    fn characters_of_several_bytes_are_kept_whole() {
        assert_eq!(run(&["éà"], &["caf", "é", "à la"]), ("caf".into(), Some(0)));
        assert_eq!(run(&["日本"], &["日", "日", "x"]), ("日日x".into(), None));
    }

    /// For random texts over a small alphabet and random cuts: the same answer as looking at the whole text, and
    /// nothing is emitted before it is certain.
    #[test]
    fn the_answer_does_not_depend_on_the_cuts() {
        let alphabet = ["a", "b", "é"];
        let mut counter = 0u64;
        let mut draw = |n: usize| {
            counter += 1;
            (philox2x64([counter, 1], 42)[0] % n as u64) as usize
        };
        for _ in 0..3000 {
            let word = |draw: &mut dyn FnMut(usize) -> usize, n: usize| -> String {
                (0..n).map(|_| alphabet[draw(3)]).collect()
            };
            let stops: Vec<String> = (0..1 + draw(3))
                .map(|_| {
                    let n = 1 + draw(4);
                    word(&mut draw, n)
                })
                .collect();
            let n = draw(24);
            let text = word(&mut draw, n);
            // By definition: the end that comes first, then the longest.
            let expected = (0..=text.len()).filter(|&end| text.is_char_boundary(end)).find_map(|end| {
                stops.iter().filter(|s| text[..end].ends_with(s.as_str())).map(String::len).max().map(|n| end - n)
            });
            let mut pieces = Vec::new();
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let chars = 1 + draw(4);
                let cut = rest.char_indices().nth(chars).map_or(rest.len(), |(at, _)| at);
                pieces.push(&rest[..cut]);
                rest = &rest[cut..];
            }
            let refs: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (answer, stop) = run(&refs, &pieces);
            assert_eq!(stop.is_some(), expected.is_some(), "{stops:?} {pieces:?}");
            assert_eq!(answer, text[..expected.unwrap_or(text.len())], "{stops:?} {pieces:?}");
        }
    }
}
