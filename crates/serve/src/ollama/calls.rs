//! Calls of functions as Ollama has them: each is told whole, its arguments an object, and neither calls nor results have the ids
//! that OpenAI's have. It knows no dialect.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use crate::calls::{Delta, Reader};

/// Finds the calls in an answer that comes piece by piece.
pub struct Calls {
    reader: Reader,
    /// Name and arguments of the one that is being written.
    open: Option<(String, String)>,
}

/// What is new in an answer.
#[derive(Debug, PartialEq)]
pub enum Piece {
    Text(String),
    /// `{"function": {"name": …, "arguments": {…}}}`.
    Call(Value),
}

impl Calls {
    pub fn new(reader: Reader) -> Calls {
        Calls { reader, open: None }
    }

    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        let deltas = self.reader.push(text);
        self.take(deltas)
    }

    /// What was held back, at the end of the answer. Of a call that was cut short nothing can be told: the reason of the end says so.
    pub fn finish(&mut self) -> Vec<Piece> {
        let deltas = self.reader.finish();
        let mut pieces = self.take(deltas);
        pieces.extend(self.close());
        pieces
    }

    fn take(&mut self, deltas: Vec<Delta>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for delta in deltas {
            match delta {
                Delta::Text(text) => {
                    pieces.extend(self.close());
                    pieces.push(Piece::Text(text));
                }
                Delta::Call(name) => {
                    pieces.extend(self.close());
                    self.open = Some((name, String::new()));
                }
                Delta::Arguments(more) => self.open.iter_mut().for_each(|(_, arguments)| *arguments += &more),
            }
        }
        pieces
    }

    fn close(&mut self) -> Option<Piece> {
        let (name, arguments) = self.open.take()?;
        let arguments: Map<String, Value> = serde_json::from_str(&arguments).ok()?;
        Some(Piece::Call(json!({"function": {"name": name, "arguments": arguments}})))
    }
}

/// Gives calls and results in a conversation what templates look for: a type, ids that pair them in their order, and the name of the
/// function under the name that OpenAI has for it.
pub fn paired(messages: &mut [Value]) {
    // Calls that have no result yet.
    let (mut open, mut calls) = (VecDeque::new(), 0);
    for message in messages.iter_mut().filter_map(Value::as_object_mut) {
        for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(call) = call.as_object_mut() else { continue };
            call.entry("type").or_insert("function".into());
            // Nine digits, since Mistral's templates take no other.
            let id = call.entry("id").or_insert_with(|| format!("{calls:09}").into());
            calls += 1;
            open.push_back(id.clone());
        }
        if message.get("role").is_some_and(|role| role == "tool") {
            if let Some(name) = message.remove("tool_name") {
                message.entry("name").or_insert(name);
            }
            if let Some(id) = open.pop_front() {
                message.entry("tool_call_id").or_insert(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::tagged_reader;

    #[test]
    fn calls_are_told_whole_however_they_come() {
        let text = "I look.\n<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}}</tool_call>\n\
                    <tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>";
        let call = |name: &str, arguments: Value| json!({"function": {"name": name, "arguments": arguments}});
        for size in 1..=text.len() {
            let (mut calls, mut said, mut made) = (Calls::new(tagged_reader()), String::new(), Vec::new());
            let mut pieces: Vec<Piece> = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                pieces.extend(calls.push(std::str::from_utf8(piece).unwrap()));
            }
            pieces.extend(calls.finish());
            for piece in pieces {
                match piece {
                    Piece::Text(text) => said += &text,
                    Piece::Call(call) => made.push(call),
                }
            }
            assert_eq!(said, "I look.", "{size}");
            assert_eq!(made, [call("f", json!({"x": 1})), call("g", json!({}))], "{size}");
        }
        // Cut by a limit.
        let mut calls = Calls::new(tagged_reader());
        assert_eq!(calls.push("<tool_call>{\"name\": \"f\", \"arguments\": {\"x"), []);
        assert_eq!(calls.finish(), []);
    }

    #[test]
    fn calls_and_results_are_paired_in_their_order() {
        let call = |name: &str| json!({"function": {"name": name, "arguments": {}}});
        let mut messages = [
            json!({"role": "assistant", "content": "", "tool_calls": [call("f"), call("g")]}),
            json!({"role": "tool", "content": "1", "tool_name": "f"}),
            json!({"role": "tool", "content": "2", "name": "g", "tool_call_id": "mine"}),
            json!({"role": "tool", "content": "of no call"}),
        ];
        paired(&mut messages);
        let ids: Vec<&Value> = messages[0]["tool_calls"].as_array().unwrap().iter().map(|call| &call["id"]).collect();
        assert_eq!(ids, ["000000000", "000000001"]);
        assert_eq!(messages[0]["tool_calls"][1]["type"], "function");
        assert_eq!(messages[1], json!({"role": "tool", "content": "1", "name": "f", "tool_call_id": "000000000"}));
        assert_eq!((&messages[2]["tool_call_id"], &messages[2]["name"]), (&json!("mine"), &json!("g")));
        assert_eq!(messages[3].get("tool_call_id"), None);
    }
}
