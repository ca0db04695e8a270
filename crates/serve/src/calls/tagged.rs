//! Calls between tags, text before, between and after them. A grammar has seen to it that what stands between the tags is a call.

use std::sync::Arc;

use serde_json::Value;

use super::parts::{self, Parts};
use super::scan::{Frame, Scan};
use super::{Delta, bare};
use crate::tools::Function;

/// What shows where calls are.
#[derive(Debug, PartialEq, Eq)]
pub struct Tags {
    /// Around all calls; nothing is said with them.
    pub around: [&'static str; 2],
    pub open: &'static str,
    pub close: &'static str,
}

/// A call as it is written in JSON.
pub fn written(name: &str, arguments: &Value) -> String {
    format!("<tool_call>\n{}\n</tool_call>", bare::written(name, "arguments", arguments))
}

pub const TAGS: Tags = Tags { around: ["", ""], open: "<tool_call>", close: "</tool_call>" };

/// How a call is written between its tags.
#[derive(Debug)]
pub enum Inside {
    Json(Frame),
    /// To one of these functions.
    Parts(&'static parts::Tags, Arc<[Function]>),
}

#[derive(Debug)]
pub struct Tagged {
    tags: &'static Tags,
    inside: Inside,
    state: State,
    /// Blanks, and what may become a tag.
    held: String,
    /// There has been a call.
    called: bool,
}

#[derive(Debug)]
enum State {
    Text,
    Scan(Scan),
    Parts(Parts),
    /// Behind a call, before its closing tag.
    Close,
}

impl Tagged {
    pub fn new(tags: &'static Tags, inside: Inside) -> Tagged {
        Tagged { tags, inside, state: State::Text, held: String::new(), called: false }
    }

    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        let mut out = Vec::new();
        let mut text = text.to_owned();
        loop {
            match &mut self.state {
                State::Text => {
                    self.held += &text;
                    for around in self.tags.around.iter().filter(|around| !around.is_empty()) {
                        self.held = self.held.replace(around, "");
                    }
                    let Some(at) = self.held.find(self.tags.open) else {
                        self.say(&mut out);
                        return out;
                    };
                    text = self.held.split_off(at)[self.tags.open.len()..].to_owned();
                    // Blanks before a call are nothing that is said.
                    self.held.truncate(self.held.trim_end().len());
                    self.say(&mut out);
                    self.called = true;
                    self.state = match &self.inside {
                        Inside::Json(frame) => State::Scan(Scan::new(*frame)),
                        Inside::Parts(tags, functions) => {
                            State::Parts(Parts::new(tags, self.tags.close, functions.clone()))
                        }
                    };
                }
                State::Scan(scan) => {
                    let Some(rest) = scan.push(&text, &mut out) else { return out };
                    text = rest.to_owned();
                    self.state = State::Close;
                }
                State::Parts(parts) => {
                    let Some(rest) = parts.push(&text, &mut out) else { return out };
                    text = rest;
                    self.state = State::Close;
                }
                State::Close => {
                    self.held += &text;
                    let Some(at) = self.held.find(self.tags.close) else { return out };
                    text = std::mem::take(&mut self.held).split_off(at + self.tags.close.len());
                    self.state = State::Text;
                }
            }
        }
    }

    /// Says what is held but for blanks at its end and what may become a tag.
    fn say(&mut self, out: &mut Vec<Delta>) {
        let tags = [self.tags.open, self.tags.around[0], self.tags.around[1]];
        let begins = |rest: &str| tags.iter().any(|tag| tag.starts_with(rest));
        let tag = (0..self.held.len()).find(|&at| self.held.is_char_boundary(at) && begins(&self.held[at..]));
        let shown = self.held[..tag.unwrap_or(self.held.len())].trim_end().len();
        if shown == 0 {
            return;
        }
        let rest = self.held.split_off(shown);
        let text = std::mem::replace(&mut self.held, rest);
        // Blanks after a call are only there to part it from the next.
        let text = if self.called { text.trim_start() } else { &text };
        out.push(Delta::Text(text.into()));
        self.called = false;
    }

    pub fn finish(&mut self) -> Vec<Delta> {
        let rest = match &mut self.state {
            State::Text if self.called => self.held.trim_start().to_owned(),
            State::Text => std::mem::take(&mut self.held),
            // A call that was cut short has been told as far as it came.
            State::Scan(_) | State::Parts(_) | State::Close => String::new(),
        };
        if rest.is_empty() { Vec::new() } else { vec![Delta::Text(rest)] }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::super::renderings::joined;
    use super::*;

    fn read(reader: Tagged, text: &str, size: usize) -> (String, Vec<(String, String)>) {
        joined(Reader::Tagged(reader), text, size)
    }

    #[test]
    fn text_and_calls_are_parted_however_they_come() {
        let call = |name: &str, arguments: &str| (name.to_owned(), arguments.to_owned());
        for (text, said, calls) in [
            ("no call, a <tool_ but none\n", "no call, a <tool_ but none\n", vec![]),
            ("  é < 3 <t", "  é < 3 <t", vec![]),
            (
                "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": \"</tool_call>\"}}\n</tool_call>",
                "I look.",
                vec![call("f", "{\"x\": \"</tool_call>\"}")],
            ),
            (
                "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n<tool_call>{\"name\": \"g\", \"arguments\": \
                 {\"é\": 1}}</tool_call>\n",
                "",
                vec![call("f", "{}"), call("g", "{\"é\": 1}")],
            ),
            ("<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call> Done. ", "Done. ", vec![call("f", "{}")]),
            // Cut by a limit.
            ("<tool_call>{\"name\": \"f\", \"arguments\": {\"a", "", vec![call("f", "{\"a")]),
            ("<tool_call>{\"na", "", vec![]),
        ] {
            for size in 1..=text.chars().count() {
                let reader = Tagged::new(&TAGS, Inside::Json(Frame::Object));
                assert_eq!(read(reader, text, size), (said.to_owned(), calls.clone()), "{text:?} by {size}");
            }
        }
    }
}
