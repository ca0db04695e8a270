//! [`Scan`]: one call whose arguments are JSON, read while it is written. A grammar has seen to it that it is one; it is only cut
//! here, not checked.

use super::Delta;
use super::deepseek;

#[derive(Debug, Default)]
pub struct Scan {
    state: State,
    frame: Frame,
    /// What cannot be told yet: the call up to its arguments.
    held: String,
}

/// What stands around the arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Frame {
    /// `{"name": …, "arguments": …}`
    #[default]
    Object,
    /// The name before them, as DeepSeek has it.
    Name,
}

#[derive(Debug, Default, PartialEq)]
enum State {
    /// Before the arguments.
    #[default]
    Head,
    /// Within them.
    Arguments {
        depth: usize,
        quoted: bool,
        escaped: bool,
    },
    /// After them, before the brace that ends the call.
    Tail,
    Done,
}

impl Scan {
    pub fn new(frame: Frame) -> Scan {
        Scan { frame, ..Scan::default() }
    }

    /// Takes more text. What belongs to the call goes to `out`; what comes after its end is given back.
    pub fn push<'a>(&mut self, text: &'a str, out: &mut Vec<Delta>) -> Option<&'a str> {
        let mut rest = text;
        if self.state == State::Head {
            let before = self.held.len();
            self.held += text;
            let (name, at) = match self.frame {
                Frame::Object => head(&self.held)?,
                Frame::Name => deepseek::head(&self.held)?,
            };
            out.push(Delta::Call(name));
            self.state = State::Arguments { depth: 0, quoted: false, escaped: false };
            // The arguments begin in what has just come: the head was not whole before.
            rest = &text[at.saturating_sub(before)..];
            self.held.clear();
        }
        if let State::Arguments { .. } = self.state {
            let end = self.arguments(rest);
            if end > 0 {
                out.push(Delta::Arguments(rest[..end].into()));
            }
            rest = &rest[end..];
        }
        if self.state == State::Tail && self.frame == Frame::Name {
            self.state = State::Done;
        }
        if self.state == State::Tail {
            let end = rest.find('}')?;
            self.state = State::Done;
            rest = &rest[end + 1..];
        }
        (self.state == State::Done).then_some(rest)
    }

    /// Up to where a text belongs to the arguments, an object.
    fn arguments(&mut self, text: &str) -> usize {
        let State::Arguments { mut depth, mut quoted, mut escaped } = self.state else { return 0 };
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b'{' | b'[' if !quoted => depth += 1,
                b'}' | b']' if !quoted => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        self.state = State::Tail;
                        return at + 1;
                    }
                }
                _ => {}
            }
        }
        self.state = State::Arguments { depth, quoted, escaped };
        text.len()
    }
}

/// The name of a call that begins with it, and where its arguments begin.
fn head(text: &str) -> Option<(String, usize)> {
    let rest = text.trim_start().strip_prefix('{')?.trim_start().strip_prefix("\"name\"")?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    // Names have no characters that JSON writes otherwise.
    let (name, rest) = rest.split_once('"')?;
    let (_, rest) = rest.split_once(':')?;
    let rest = rest.trim_start();
    (!rest.is_empty()).then(|| (name.to_owned(), text.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_the_same_however_it_is_cut() {
        let text = r#"{"name": "find", "arguments": {"a": "}\"{", "b": [1, {"c": {}}]}} and more"#;
        for size in 1..text.len() {
            let (mut scan, mut out, mut after) = (Scan::default(), Vec::new(), String::new());
            let mut ended = false;
            for piece in text.as_bytes().chunks(size).map(|piece| std::str::from_utf8(piece).unwrap()) {
                match ended {
                    true => after += piece,
                    false => {
                        if let Some(rest) = scan.push(piece, &mut out) {
                            ended = true;
                            after += rest;
                        }
                    }
                }
            }
            let arguments: String =
                out.iter().filter_map(|d| if let Delta::Arguments(a) = d { Some(a.as_str()) } else { None }).collect();
            assert_eq!(out[0], Delta::Call("find".into()), "{size}");
            assert_eq!(arguments, r#"{"a": "}\"{", "b": [1, {"c": {}}]}"#, "{size}");
            assert_eq!(after, " and more", "{size}");
        }
    }
}
