//! One request to a server of the OpenAI API, with the times at which its answer came. It knows nothing of load.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::Response;

use crate::flags::bench::Endpoint;

/// Longest line of an answer, and longest other answer, bytes.
const MAX_BYTES: u64 = 16 << 20;

/// A server, and what every request to it has in common.
pub struct Client {
    agent: Agent,
    /// Without `/v1`.
    pub root: String,
    key: Option<String>,
    pub model: String,
    pub endpoint: Endpoint,
    pub tokens: usize,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Done(Times),
    /// The status of a refusal.
    Refused(u16),
    /// What broke, in a word or two.
    Broken(String),
}

/// Seconds from sending a request, and the server's count of tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    pub first_s: f64,
    pub last_s: f64,
    pub end_s: f64,
    pub prompt_tokens: usize,
    pub tokens: usize,
}

impl Times {
    /// Mean time of a token after the first.
    pub fn per_token_s(&self) -> Option<f64> {
        (self.tokens > 1).then(|| (self.last_s - self.first_s) / (self.tokens - 1) as f64)
    }
}

impl Client {
    pub fn new(root: &str, key: Option<String>, connections: usize, timeout: Duration) -> Client {
        let config = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_global(Some(timeout))
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .user_agent(concat!("ounce/", env!("CARGO_PKG_VERSION")))
            .build();
        let (agent, root) = (config.into(), root.to_owned());
        Client { agent, root, key, model: String::new(), endpoint: Endpoint::Completions, tokens: 1 }
    }

    /// The text of a page, or why there is none.
    pub fn page(&self, path: &str) -> Result<String, String> {
        let mut request = self.agent.get(format!("{}{path}", self.root));
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.call().map_err(|e| e.to_string())?;
        match response.status().as_u16() {
            200 => response.body_mut().with_config().limit(MAX_BYTES).read_to_string().map_err(|e| e.to_string()),
            status => Err(format!("the server answers {status}")),
        }
    }

    /// Asks, and reads the answer to its end.
    pub fn ask(&self, prompt: &str) -> Outcome {
        let mut body = json!({
            "model": self.model,
            "max_tokens": self.tokens,
            "temperature": 0,
            "ignore_eos": true,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        let path = match self.endpoint {
            Endpoint::Completions => {
                body["prompt"] = prompt.into();
                "/v1/completions"
            }
            Endpoint::Chat => {
                body["messages"] = json!([{"role": "user", "content": prompt}]);
                "/v1/chat/completions"
            }
        };
        let mut request = self.agent.post(format!("{}{path}", self.root)).header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let began = Instant::now();
        match request.send(body.to_string()) {
            Ok(response) if response.status() == 200 => read(response, began),
            Ok(response) => Outcome::Refused(response.status().as_u16()),
            Err(error) => Outcome::Broken(name_of(&error).into()),
        }
    }
}

/// Reads events up to `[DONE]`.
fn read(response: Response<ureq::Body>, began: Instant) -> Outcome {
    let mut lines = BufReader::new(response.into_body().into_reader());
    let (mut first_s, mut last_s, mut chunks) = (None, 0.0, 0);
    let mut usage = Value::Null;
    let mut line = String::new();
    loop {
        line.clear();
        match lines.read_line(&mut line) {
            Ok(0) => return Outcome::Broken("cut off".into()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return Outcome::Broken("timeout".into()),
            Err(_) => return Outcome::Broken("connection".into()),
        }
        let now = began.elapsed().as_secs_f64();
        let Some(data) = line.trim_end().strip_prefix("data:") else { continue };
        if data.trim() == "[DONE]" {
            break;
        }
        let Ok(event) = serde_json::from_str::<Value>(data) else { return Outcome::Broken("no JSON".into()) };
        if event.get("error").is_some_and(|error| !error.is_null()) {
            return Outcome::Broken("error in the stream".into());
        }
        if has_text(&event) {
            first_s.get_or_insert(now);
            (last_s, chunks) = (now, chunks + 1);
        }
        if event["usage"].is_object() {
            usage = event["usage"].clone();
        }
    }
    let end_s = began.elapsed().as_secs_f64();
    let Some(first_s) = first_s else { return Outcome::Broken("no text".into()) };
    // A server that does not count gives a chunk for each token.
    let count = |name: &str, default: usize| usage[name].as_u64().map_or(default, |n| n as usize);
    let (prompt_tokens, tokens) = (count("prompt_tokens", 0), count("completion_tokens", chunks));
    Outcome::Done(Times { first_s, last_s, end_s, prompt_tokens, tokens })
}

/// Whether an event carries a part of the answer.
fn has_text(event: &Value) -> bool {
    let choice = &event["choices"][0];
    let parts = [&choice["text"], &choice["delta"]["content"], &choice["delta"]["reasoning_content"]];
    parts.into_iter().any(|part| part.as_str().is_some_and(|text| !text.is_empty()))
}

fn name_of(error: &ureq::Error) -> &'static str {
    match error {
        ureq::Error::Timeout(_) => "timeout",
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => "connection refused",
        _ => "connection",
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// A server that answers one request with pieces, each after a pause, and then hangs up.
    fn server(pieces: Vec<(u64, String)>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            for (pause, piece) in pieces {
                std::thread::sleep(Duration::from_millis(pause));
                stream.write_all(piece.as_bytes()).unwrap();
            }
        });
        format!("http://{address}")
    }

    fn ask(pieces: Vec<(u64, String)>) -> Outcome {
        Client::new(&server(pieces), None, 1, Duration::from_secs(60)).ask("x")
    }

    const HEAD: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n";

    fn event(text: &str) -> String {
        format!("data: {}\n\n", json!({"choices": [{"text": text}]}))
    }

    #[test]
    fn times_are_those_of_the_pieces() {
        let usage = json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}});
        // A busy machine makes one answer late, a fault each of them.
        let mut late = Vec::new();
        while late.len() < 10 {
            let mut pieces = vec![(30, HEAD.to_owned()), (30, event("")), (60, event("a"))];
            pieces.extend((0..4).map(|_| (25, event("b"))));
            pieces.push((50, format!("data: {usage}\n\ndata: [DONE]\n\n")));
            let Outcome::Done(times) = ask(pieces) else { panic!() };
            assert_eq!((times.prompt_tokens, times.tokens), (9, 5));
            let near = |found: f64, wanted: f64| found >= wanted && found < wanted + 0.1;
            let per_token_s = times.per_token_s().unwrap();
            let all =
                [(times.first_s, 0.120), (times.last_s, 0.220), (times.end_s, 0.270), (per_token_s, 0.025 - 0.005)];
            if all.into_iter().all(|(found, wanted)| near(found, wanted)) {
                return;
            }
            late.push(times);
        }
        panic!("{late:?}");
    }

    #[test]
    fn what_is_no_whole_answer_is_told_apart() {
        let broken = |why: &str| Outcome::Broken(why.into());
        assert_eq!(ask(vec![(0, HEAD.to_owned() + &event("a"))]), broken("cut off"));
        let error = "data: {\"error\": {\"message\": \"x\"}}\n\ndata: [DONE]\n\n";
        assert_eq!(ask(vec![(0, HEAD.to_owned() + error)]), broken("error in the stream"));
        assert_eq!(ask(vec![(0, HEAD.to_owned() + "data: [DONE]\n\n")]), broken("no text"));
        let busy = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(ask(vec![(0, busy.into())]), Outcome::Refused(429));
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let client = Client::new(&format!("http://{nobody}"), None, 1, Duration::from_secs(5));
        assert_eq!(client.ask("x"), broken("connection refused"));
    }
}
