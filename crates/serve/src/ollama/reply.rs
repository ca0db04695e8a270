//! Answers as Ollama gives them: one object, or one a line as they come, the last with counts and durations in nanoseconds.
//! It knows no request.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::response::Response;
use ounce_engine::Request;
use ounce_formats::template::strftime;
use ounce_grammar::Grammar;
use serde_json::{Value, json};

use super::calls::{Calls, Piece};
use super::request::{Asked, Common};
use crate::answers::{Answers, Part};
use crate::app::App;
use crate::chat::held_to;
use crate::error::{ApiError, json_response};
use crate::sse::{self, Events};
use crate::tools::Tools;

#[derive(Clone, Copy)]
pub enum Shape {
    /// `message`.
    Chat,
    /// `response`.
    Generate,
}

pub struct Reply {
    app: Arc<App>,
    model: Arc<str>,
    /// What the request called it.
    name: String,
    shape: Shape,
    begun: Instant,
}

impl Reply {
    pub fn new(app: &Arc<App>, Asked { model, name }: Asked, shape: Shape, begun: Instant) -> Reply {
        Reply { app: app.clone(), model, name, shape, begun }
    }

    /// To a request without a prompt.
    pub fn loaded(&self) -> Response {
        let mut out = self.piece("");
        (out["done"], out["done_reason"]) = (true.into(), "load".into());
        json_response(&out)
    }

    pub async fn run(self, prompt: Vec<u32>, asked: Common, tools: Option<Tools>) -> Result<Response, ApiError> {
        let (app, prompt_tokens, stop) = (&self.app, prompt.len(), asked.params.stop.clone());
        let held = held_to(app, tools, asked.form).await?;
        let calls = Calls::new(held.reader());
        let constraint = held.grammar.as_ref().map(Grammar::constraint);
        let request = Request { constraint, ..Request::new(prompt, asked.params) };
        let ticket = app.submit(&self.model, 1, vec![request])?;
        let answers = Answers::new(ticket, &app.served.tokenizer, &stop, held.skips_special());
        match asked.stream {
            true => Ok(sse::lines(move |events| self.stream(answers, calls, prompt_tokens, events))),
            false => self.whole(answers, calls, prompt_tokens).await,
        }
    }

    async fn whole(self, mut answers: Answers, mut calls: Calls, prompt_tokens: usize) -> Result<Response, ApiError> {
        let (mut text, mut made, mut reason, mut first) = (String::new(), Vec::new(), "", None);
        while let Some(part) = answers.next().await? {
            first.get_or_insert_with(Instant::now);
            for piece in pieces(&mut calls, &part) {
                match piece {
                    Piece::Text(more) => text += &more,
                    Piece::Call(call) => made.push(call),
                }
            }
            reason = part.finish.unwrap_or(reason);
        }
        let mut out = self.last(&text, reason, prompt_tokens, answers.tokens, first);
        if !made.is_empty() {
            out["message"]["tool_calls"] = made.into();
        }
        Ok(json_response(&out))
    }

    async fn stream(self, mut answers: Answers, mut calls: Calls, prompt_tokens: usize, events: Events) {
        let (mut reason, mut first) = ("", None);
        loop {
            let part = match answers.next().await {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(error) => return events.line(&json!({"error": error.message})).await,
            };
            first.get_or_insert_with(Instant::now);
            reason = part.finish.unwrap_or(reason);
            for piece in pieces(&mut calls, &part) {
                match piece {
                    Piece::Text(text) => events.line(&self.piece(&text)).await,
                    Piece::Call(call) => {
                        let mut out = self.piece("");
                        out["message"]["tool_calls"] = json!([call]);
                        events.line(&out).await;
                    }
                }
            }
        }
        events.line(&self.last("", reason, prompt_tokens, answers.tokens, first)).await;
    }

    fn piece(&self, text: &str) -> Value {
        let mut out = json!({"model": self.name, "created_at": timestamp(SystemTime::now()), "done": false});
        match self.shape {
            Shape::Chat => out["message"] = json!({"role": "assistant", "content": text}),
            Shape::Generate => out["response"] = text.into(),
        }
        out
    }

    /// The end. The model is loaded already, and the time of the prompt includes that in the queue.
    fn last(&self, text: &str, reason: &str, prompt: usize, tokens: usize, first: Option<Instant>) -> Value {
        let (mut out, now) = (self.piece(text), Instant::now());
        let first = first.unwrap_or(now);
        (out["done"], out["done_reason"]) = (true.into(), reason.into());
        out["total_duration"] = nanoseconds(now - self.begun).into();
        out["load_duration"] = 0.into();
        (out["prompt_eval_count"], out["eval_count"]) = (prompt.into(), tokens.into());
        out["prompt_eval_duration"] = nanoseconds(first - self.begun).into();
        out["eval_duration"] = nanoseconds(now - first).into();
        out
    }
}

/// What a part of the answer says.
fn pieces(calls: &mut Calls, part: &Part) -> Vec<Piece> {
    let mut pieces = calls.push(&part.text);
    if part.finish.is_some() {
        pieces.extend(calls.finish());
    }
    pieces
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// RFC 3339, UTC.
pub fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    format!("{}.{:09}Z", strftime("%FT%T", seconds), since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_nanoseconds() {
        let time = UNIX_EPOCH + Duration::new(1_709_210_096, 7_000);
        assert_eq!(timestamp(time), "2024-02-29T12:34:56.000007000Z");
    }
}
