//! Calls that are the whole answer: one JSON object, several, or a list of them. Where a grammar forces them they are read as
//! they come. Where the model is free, an answer that begins like JSON is held back to its end: only then it is known whether it
//! is a call or an answer in JSON.

use serde_json::Value;

use super::scan::Scan;
use super::{Delta, call_of};
use crate::tools::Function;

/// A call as it is written; `field` is that of the arguments.
pub fn written(name: &str, field: &str, arguments: &Value) -> String {
    format!("{{\"name\": {}, \"{field}\": {arguments}}}", Value::from(name))
}

#[derive(Debug)]
pub struct Bare {
    state: State,
}

#[derive(Debug)]
enum State {
    /// Forced: between calls, or within one.
    Certain(Option<Scan>),
    /// Free, and JSON so far (or blank).
    Perhaps { held: String, functions: Vec<Function> },
    /// Free, and some other text.
    Text,
}

impl Bare {
    /// Of an answer that is nothing but calls.
    pub fn certain() -> Bare {
        Bare { state: State::Certain(None) }
    }

    /// Of an answer that may be calls of these functions.
    pub fn perhaps(functions: Vec<Function>) -> Bare {
        Bare { state: State::Perhaps { held: String::new(), functions } }
    }

    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        let mut out = Vec::new();
        match &mut self.state {
            State::Text if text.is_empty() => {}
            State::Text => out.push(Delta::Text(text.into())),
            State::Perhaps { held, .. } => {
                *held += text;
                if !matches!(held.trim_start().bytes().next(), None | Some(b'{' | b'[')) {
                    out.push(Delta::Text(std::mem::take(held)));
                    self.state = State::Text;
                }
            }
            State::Certain(scan) => {
                let mut rest = text;
                loop {
                    match scan {
                        Some(open) => match open.push(rest, &mut out) {
                            Some(after) => (rest, *scan) = (after, None),
                            None => break,
                        },
                        // Brackets and commas of a list are nothing but that.
                        None => match rest.find('{') {
                            Some(at) => (rest, *scan) = (&rest[at..], Some(Scan::default())),
                            None => break,
                        },
                    }
                }
            }
        }
        out
    }

    pub fn finish(&mut self) -> Vec<Delta> {
        let text = match &mut self.state {
            State::Text | State::Certain(_) => return Vec::new(),
            State::Perhaps { held, functions } => match calls(held, functions) {
                Some(calls) => {
                    let deltas = |(name, arguments)| [Delta::Call(name), Delta::Arguments(arguments)];
                    return calls.into_iter().flat_map(deltas).collect();
                }
                None => std::mem::take(held),
            },
        };
        if text.is_empty() { Vec::new() } else { vec![Delta::Text(text)] }
    }
}

/// The calls that a text consists of; `None` if there is anything else in it.
fn calls(text: &str, functions: &[Function]) -> Option<Vec<(String, String)>> {
    let (mut calls, mut rest) = (Vec::new(), text);
    loop {
        // Llama parts several by semicolons.
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == ',');
        if rest.is_empty() {
            return Some(calls).filter(|calls| !calls.is_empty());
        }
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let value = values.next()?.ok()?;
        rest = &rest[values.byte_offset()..];
        match &value {
            Value::Array(list) => {
                for value in list {
                    calls.push(call_of(value, functions)?);
                }
            }
            one => calls.push(call_of(one, functions)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn functions() -> Vec<Function> {
        ["f", "g"].map(|name| Function { name: name.into(), parameters: json!({}), strict: false }).to_vec()
    }

    fn read(mut reader: Bare, text: &str) -> Vec<Delta> {
        let mut out: Vec<Delta> = text.split_inclusive(' ').flat_map(|piece| reader.push(piece)).collect();
        out.extend(reader.finish());
        out
    }

    #[test]
    fn what_is_json_but_no_call_is_text() {
        for text in
            ["hello { there", "{\"name\": \"h\", \"parameters\": {}}", "{\"a\": 1}", "[]", "{\"name\": \"f\"", "f()"]
        {
            let said: Vec<Delta> = read(Bare::perhaps(functions()), text);
            let joined: String =
                said.iter().map(|d| if let Delta::Text(t) = d { t.as_str() } else { panic!("{d:?}") }).collect();
            assert_eq!(joined, text);
        }
    }

    #[test]
    fn calls_are_found_in_each_of_their_forms() {
        let f = |arguments: &str| vec![Delta::Call("f".into()), Delta::Arguments(arguments.into())];
        for (text, expected) in [
            ("{\"name\": \"f\", \"parameters\": {\"a\": 1}}", f("{\"a\":1}")),
            (" {\"name\": \"f\", \"arguments\": \"{}\"}\n", f("{}")),
            ("{\"type\": \"function\", \"function\": {\"name\": \"f\"}}", f("{}")),
            (
                "[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {}}]",
                [f("{}"), vec![Delta::Call("g".into()), Delta::Arguments("{}".into())]].concat(),
            ),
            (
                "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"f\", \"parameters\": {}}",
                [f("{}"), f("{}")].concat(),
            ),
        ] {
            assert_eq!(read(Bare::perhaps(functions()), text), expected, "{text}");
        }
    }

    #[test]
    fn forced_calls_come_as_they_are_written() {
        let out = read(
            Bare::certain(),
            "[{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]",
        );
        let arguments = |text: &str| Delta::Arguments(text.into());
        let call = |name: &str| Delta::Call(name.into());
        assert_eq!(out, [call("f"), arguments("{\"a\": "), arguments("1}"), call("g"), arguments("{}")]);
    }
}
