//! A chat answer in the wire form, whole and as a stream: text, calls, log probabilities, usage. It knows neither requests nor how
//! calls are written by a model.

use std::sync::Arc;

use axum::response::Response;
use serde_json::{Value, json};

use crate::answers::{Answers, Part};
use crate::app::{App, random};
use crate::calls::{Delta, Reader};
use crate::choices::{chat_logprob, usage};
use crate::error::{ApiError, json_response};
use crate::sse::Events;

/// What all parts of an answer have in common.
pub struct Reply {
    pub app: Arc<App>,
    pub id: String,
    pub created: u64,
    /// What the request called the model.
    pub model: Arc<str>,
    pub prompt_tokens: usize,
    pub logprobs: bool,
    pub include_usage: bool,
}

/// One of the answers to a prompt, as far as it has come.
pub struct Choice {
    reader: Reader,
    content: String,
    calls: Vec<Call>,
    logprobs: Vec<Value>,
    finish: &'static str,
}

struct Call {
    id: String,
    name: String,
    arguments: String,
}

impl Choice {
    pub fn new(reader: Reader) -> Choice {
        Choice { reader, content: String::new(), calls: Vec::new(), logprobs: Vec::new(), finish: "" }
    }

    /// Takes a part of the answer; what is new, as the deltas of a stream.
    fn take(&mut self, part: &Part) -> Vec<Value> {
        let mut deltas = self.reader.push(&part.text);
        if let Some(finish) = part.finish {
            deltas.extend(self.reader.finish());
            self.finish = finish;
        }
        let deltas = deltas.into_iter().map(|delta| self.add(delta)).collect();
        if self.finish == "stop" && !self.calls.is_empty() {
            self.finish = "tool_calls";
        }
        deltas
    }

    fn add(&mut self, delta: Delta) -> Value {
        match delta {
            Delta::Text(text) => {
                self.content += &text;
                json!({"content": text})
            }
            Delta::Call(name) => {
                // Nine letters and digits, since Mistral's templates take no other; nobody wants to know more of them.
                let id = format!("{:09}", random() % 1_000_000_000);
                let function = json!({"name": name, "arguments": ""});
                let index = self.calls.len();
                let delta = json!({"index": index, "id": id, "type": "function", "function": function});
                self.calls.push(Call { id, name, arguments: String::new() });
                json!({"tool_calls": [delta]})
            }
            Delta::Arguments(text) => {
                let index = self.calls.len().saturating_sub(1);
                self.calls[index].arguments += &text;
                json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
            }
        }
    }

    fn message(&self) -> Value {
        // Who only calls says nothing.
        let content = if self.content.is_empty() && !self.calls.is_empty() { None } else { Some(&self.content) };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !self.calls.is_empty() {
            let calls = self.calls.iter().map(|call| {
                let function = json!({"name": call.name, "arguments": call.arguments});
                json!({"id": call.id, "type": "function", "function": function})
            });
            message["tool_calls"] = calls.collect();
        }
        message
    }
}

impl Reply {
    pub async fn whole(self, mut answers: Answers, mut choices: Vec<Choice>) -> Result<Response, ApiError> {
        while let Some(part) = answers.next().await? {
            let choice = &mut choices[part.index];
            choice.take(&part);
            choice.logprobs.extend(self.logprobs_of(&part));
        }
        let choices: Vec<Value> = choices
            .into_iter()
            .enumerate()
            .map(|(index, choice)| {
                json!({
                    "index": index,
                    "message": choice.message(),
                    "logprobs": self.logprobs.then(|| json!({"content": choice.logprobs})),
                    "finish_reason": choice.finish,
                })
            })
            .collect();
        let mut out = self.head("chat.completion");
        out["choices"] = choices.into();
        out["usage"] = usage(self.prompt_tokens, answers.tokens, answers.cached);
        Ok(json_response(&out))
    }

    pub async fn stream(self, mut answers: Answers, mut choices: Vec<Choice>, events: Events) {
        for index in 0..choices.len() {
            events.send(&self.chunk(index, json!({"role": "assistant", "content": ""}), Value::Null, None)).await;
        }
        loop {
            let part = match answers.next().await {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(error) => return events.send(&error.json()).await,
            };
            let choice = &mut choices[part.index];
            let mut deltas = choice.take(&part);
            let scored = self.logprobs_of(&part);
            if deltas.is_empty() && scored.is_some() {
                deltas.push(json!({"content": ""}));
            }
            let mut logprobs = scored.map_or(Value::Null, |scored| json!({"content": [scored]}));
            for delta in deltas {
                events.send(&self.chunk(part.index, delta, logprobs.take(), None)).await;
            }
            if part.finish.is_some() {
                events.send(&self.chunk(part.index, json!({}), Value::Null, Some(choice.finish))).await;
            }
        }
        if self.include_usage {
            let mut out = self.head("chat.completion.chunk");
            out["choices"] = json!([]);
            out["usage"] = usage(self.prompt_tokens, answers.tokens, answers.cached);
            events.send(&out).await;
        }
        events.done().await;
    }

    fn logprobs_of(&self, part: &Part) -> Option<Value> {
        let scored = part.token.as_ref().filter(|_| self.logprobs)?;
        Some(chat_logprob(&self.app.served.tokenizer, scored))
    }

    fn chunk(&self, index: usize, delta: Value, logprobs: Value, finish: Option<&str>) -> Value {
        let mut out = self.head("chat.completion.chunk");
        out["choices"] = json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]);
        out
    }

    fn head(&self, object: &str) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": &*self.model})
    }
}
