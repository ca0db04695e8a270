//! [`Parts`]: one call whose arguments stand one by one between tags of their own, read while it is written. A grammar has seen to
//! it that it is one; it is only cut here, not checked. Strings are told as they come, other values when they are whole.

use std::sync::Arc;

use serde_json::Value;

use super::Delta;
use super::values::Written;
use crate::tools::Function;

/// The tags of a call. A name or a key ends where the next tag begins, or at the end of a line.
#[derive(Debug, PartialEq, Eq)]
pub struct Tags {
    /// Before the name; nothing: the call begins with it.
    pub name: &'static str,
    /// Behind the name; nothing: the next tag or the end of the line.
    pub named: &'static str,
    pub key: &'static str,
    /// Between a key and its value, blanks aside.
    pub value: [&'static str; 2],
    pub valued: &'static str,
    /// After the last argument.
    pub end: &'static str,
    /// A value has lines of its own: a line break before and after it is not part of it.
    pub lines: bool,
}

/// Qwen3-Coder's.
pub const FUNCTIONS: Tags = Tags {
    name: "<function=",
    named: ">",
    key: "<parameter=",
    value: [">", ""],
    valued: "</parameter>",
    end: "</function>",
    lines: true,
};

/// GLM 4.5's.
pub const PAIRS: Tags = Tags {
    name: "",
    named: "",
    key: "<arg_key>",
    value: ["</arg_key>", "<arg_value>"],
    valued: "</arg_value>",
    // It ends with the call.
    end: "",
    lines: false,
};

impl Tags {
    /// A call as it is written, tags around it included.
    pub fn written(&self, name: &str, arguments: &Value) -> String {
        let line = if self.lines { "\n" } else { "" };
        let one = |(key, value): (&String, &Value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let [keyed, open] = self.value;
            let between = if open.is_empty() { "" } else { "\n" };
            format!("{}{key}{keyed}{between}{open}{line}{value}{line}{}\n", self.key, self.valued)
        };
        let all: String = arguments.as_object().into_iter().flatten().map(one).collect();
        let end = if self.end.is_empty() { String::new() } else { format!("{}\n", self.end) };
        let Self { name: before, named, .. } = self;
        format!("<tool_call>{line}{before}{name}{named}\n{all}{end}</tool_call>")
    }
}

#[derive(Debug)]
pub struct Parts {
    tags: &'static Tags,
    /// What closes the call.
    close: &'static str,
    functions: Arc<[Function]>,
    state: State,
    held: String,
    /// The function that is called, where it is known.
    function: Option<usize>,
    /// Arguments so far.
    count: usize,
}

#[derive(Debug)]
enum State {
    Name,
    Key,
    Value {
        written: Written,
        /// So much of a string has been told that its quotation mark has.
        begun: bool,
    },
}

impl Parts {
    /// Of a call that `close` closes, to one of these functions.
    pub fn new(tags: &'static Tags, close: &'static str, functions: Arc<[Function]>) -> Parts {
        Parts { tags, close, functions, state: State::Name, held: String::new(), function: None, count: 0 }
    }

    /// Takes more text. What belongs to the call goes to `out`; what comes after its end is given back.
    pub fn push(&mut self, text: &str, out: &mut Vec<Delta>) -> Option<String> {
        self.held += text;
        loop {
            match &self.state {
                State::Name => self.name(out)?,
                State::Key => {
                    let end = if self.tags.end.is_empty() { self.close } else { self.tags.end };
                    let (key, end) = (self.held.find(self.tags.key), self.held.find(end));
                    if let Some(end) = end.filter(|end| key.is_none_or(|key| *end < key)) {
                        out.push(Delta::Arguments(if self.count == 0 { "{}" } else { "}" }.into()));
                        return Some(self.held.split_off(end + self.tags.end.len()));
                    }
                    self.key(key?, out)?;
                }
                State::Value { .. } => self.value(out)?,
            }
        }
    }

    /// Nothing as long as the name is not whole.
    fn name(&mut self, out: &mut Vec<Delta>) -> Option<()> {
        let start = self.held.find(self.tags.name)? + self.tags.name.len();
        let blank = self.held[start..].len() - self.held[start..].trim_start().len();
        let rest = &self.held[start + blank..];
        let length = match self.tags.named {
            "" => rest.find(['\n', '<'])?,
            mark => rest.find(mark)?,
        };
        let name = rest[..length].trim_end().to_owned();
        self.held = rest[length + self.tags.named.len()..].to_owned();
        self.function = self.functions.iter().position(|function| function.name == name);
        out.push(Delta::Call(name));
        self.state = State::Key;
        Some(())
    }

    /// Nothing as long as the key that begins at `at`, and what stands before its value, are not whole.
    fn key(&mut self, at: usize, out: &mut Vec<Delta>) -> Option<()> {
        let [after, before] = self.tags.value;
        let rest = &self.held[at + self.tags.key.len()..];
        let length = rest.find(after)?;
        let key = rest[..length].trim().to_owned();
        let rest = &rest[length + after.len()..];
        let value = &rest[rest.find(before)? + before.len()..];
        // Whether a line break comes here, must be known.
        if self.tags.lines && value.is_empty() {
            return None;
        }
        let value = if self.tags.lines { value.strip_prefix('\n').unwrap_or(value) } else { value };
        let mark = if self.count == 0 { "{" } else { ", " };
        out.push(Delta::Arguments(format!("{mark}{}: ", Value::from(key.as_str()))));
        self.held = value.to_owned();
        self.state = State::Value { written: self.written(&key), begun: false };
        self.count += 1;
        Some(())
    }

    fn written(&self, key: &str) -> Written {
        let any = Value::Bool(true);
        let Some(function) = self.function.map(|at| &self.functions[at]) else { return Written::of(&any, &any, false) };
        let schema = function.parameters.get("properties").and_then(|properties| properties.get(key));
        Written::of(schema.unwrap_or(&any), &function.parameters, function.strict && schema.is_some())
    }

    /// Nothing as long as the value is not whole; of a string, what is certain is told before.
    fn value(&mut self, out: &mut Vec<Delta>) -> Option<()> {
        let State::Value { written, begun } = &mut self.state else { return Some(()) };
        let mut tell = |text: &str| out.push(Delta::Arguments(text.to_owned()));
        let Some(end) = self.held.find(self.tags.valued) else {
            let certain = self.held.len() - self.tags.held_back(&self.held);
            if *written == Written::Text && certain > 0 {
                tell(&format!("{}{}", if *begun { "" } else { "\"" }, escaped(&self.held[..certain])));
                *begun = true;
                self.held.drain(..certain);
            }
            return None;
        };
        let value = &self.held[..end];
        let value = if self.tags.lines { value.strip_suffix('\n').unwrap_or(value) } else { value };
        match begun {
            true => tell(&format!("{}\"", escaped(value))),
            false => tell(&written.json(value)),
        }
        self.held.drain(..end + self.tags.valued.len());
        self.state = State::Key;
        Some(())
    }
}

impl Tags {
    /// How many bytes at the end of a value may be the beginning of what ends it.
    fn held_back(&self, text: &str) -> usize {
        let ends = |rest: &str| {
            self.valued.starts_with(rest)
                || self.lines && rest.strip_prefix('\n').is_some_and(|rest| self.valued.starts_with(rest))
        };
        let most = text.len().saturating_sub(self.valued.len() + 1);
        (most..text.len()).find(|&at| text.is_char_boundary(at) && ends(&text[at..])).map_or(0, |at| text.len() - at)
    }
}

/// A text within a JSON string.
fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}
