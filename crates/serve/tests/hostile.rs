//! Requests made to break something: a seeded stream of them, straight into the router. Whatever comes, the answer is one of
//! the API's, never a 5xx.

mod common;

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{Request, header::HOST};
use common::{Dice, pick};
use ounce_serve::{App, router};
use serde_json::{Value, json};
use tower::ServiceExt;

const PATHS: [&str; 4] = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"];
const FIELDS: [&str; 38] = [
    "model",
    "messages",
    "prompt",
    "tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "n",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "echo",
    "suffix",
    "best_of",
    "tools",
    "tool_choice",
    "response_format",
    "chat_template_kwargs",
    "add_generation_prompt",
    "add_special_tokens",
    "stop_token_ids",
    "ignore_eos",
    "user",
    "reasoning_effort",
    "min_tokens",
    "prompt_logprobs",
    "documents",
    "chat_template",
];

impl Dice {
    /// A value of any kind, in JSON.
    fn value(&mut self, depth: usize) -> String {
        const NUMBERS: [&str; 16] = [
            "0",
            "-1",
            "1",
            "2",
            "0.5",
            "-0.0",
            "1e308",
            "-1e308",
            "1e400",
            "1e-320",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775809",
            "18446744073709551615",
            "3.0",
            "NaN",
        ];
        const TEXTS: [&str; 10] = [
            "\"\"",
            "\"a\"",
            "\"tiny\"",
            "\"</s>\"",
            "\"\\ud800\"",
            "\"\\u0000\"",
            "\"é\\ufdd0\"",
            "\"user\"",
            "\"0\"",
            "\"{{ 1 }}\"",
        ];
        match self.roll(if depth > 4 { 5 } else { 9 }) {
            0 => NUMBERS[self.roll(NUMBERS.len())].into(),
            1 | 2 => TEXTS[self.roll(TEXTS.len())].into(),
            3 => ["true", "false", "null"][self.roll(3)].into(),
            4 => json!("x ".repeat(self.roll(200))).to_string(),
            5 | 6 => format!("[{}]", self.list(|d| d.value(depth + 1))),
            _ => format!("{{{}}}", self.list(|d| format!("\"{}\": {}", d.name(), d.value(depth + 1)))),
        }
    }

    fn list(&mut self, mut one: impl FnMut(&mut Dice) -> String) -> String {
        (0..self.roll(4)).map(|_| one(self)).collect::<Vec<_>>().join(", ")
    }

    fn name(&mut self) -> &'static str {
        const MORE: [&str; 10] =
            ["role", "content", "type", "text", "include_usage", "tool_calls", "0", "96", "-1", "enable_thinking"];
        let at = self.roll(FIELDS.len() + MORE.len());
        FIELDS.iter().chain(&MORE).nth(at).unwrap()
    }

    /// Mostly a request that makes sense but for a few fields.
    fn body(&mut self) -> Vec<u8> {
        let mut fields = vec![
            r#""messages": [{"role": "user", "content": "hello"}]"#.to_owned(),
            r#""prompt": "hello""#.into(),
            r#""tokens": [5, 6]"#.into(),
            format!(r#""max_tokens": {}"#, 1 + self.roll(3)),
        ];
        for _ in 0..self.roll(4) {
            // A field that comes twice counts the second time.
            fields.push(format!("\"{}\": {}", FIELDS[self.roll(FIELDS.len())], self.value(0)));
        }
        let mut body = match self.roll(100) {
            0 => format!("{}1{}", "[".repeat(1000), "]".repeat(1000)),
            1 => format!("{{\"prompt\": \"{}\"}}", "y".repeat(1 << 20)),
            2 => self.value(0),
            _ => format!("{{{}}}", fields.join(", ")),
        }
        .into_bytes();
        // Sometimes a byte is wrong.
        if self.roll(20) == 0 && !body.is_empty() {
            let at = self.roll(body.len());
            body[at] = self.roll(256) as u8;
        }
        body
    }
}

async fn send(app: &Arc<App>, path: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
    let request = Request::post(path).header(HOST, "localhost").body(Body::from(body)).unwrap();
    let response = router(app.clone()).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    (status, to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
}

#[test]
fn hostile_requests_get_an_answer_of_the_api() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (app, mut dice) = (common::app(4, 60), Dice(7));
        let mut statuses = std::collections::BTreeMap::new();
        for _ in 0..pick(10_000, 100_000) {
            let (path, body) = (PATHS[dice.roll(PATHS.len())], dice.body());
            let (status, answer) = send(&app, path, body.clone()).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned();
            assert!(matches!(status, 200 | 400 | 404), "{status} for {path} {shown}");
            if status != 200 {
                let error: Value = serde_json::from_slice(&answer).unwrap();
                assert!(error["error"]["message"].is_string(), "{error} for {shown}");
            }
            *statuses.entry(status).or_insert(0) += 1;
        }
        // The stream must reach both ways out.
        assert!(statuses[&200] > 1000 && statuses[&400] > 1000, "{statuses:?}");
    });
}
