//! Requests made to break something: a seeded stream of them, straight into the router, or over sockets to the program with a real
//! model. Whatever comes, the answer is one of the API's, never a 5xx.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, to_bytes};
use axum::http::{Request, header::AUTHORIZATION, header::HOST};
use common::{Server, app_with_options, is_program, patience, pick, read};
use ounce_engine::sampler::Dice;
use ounce_serve::{AdapterLimits, App, Options, router};
use serde_json::{Value, json};
use tower::ServiceExt;

const PATHS: [&str; 10] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/tokenize",
    "/detokenize",
    "/api/chat",
    "/api/generate",
    "/api/show",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
];
const FIELDS: &[&str] = &[
    "model",
    "messages",
    "prompt",
    "tokens",
    "input",
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
    "parallel_tool_calls",
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
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
    "encoding_format",
    "dimensions",
    "normalize",
    "options",
    "format",
    "think",
    "keep_alive",
    "raw",
    "system",
    "template",
    "context",
    "images",
    "name",
    "verbose",
    "lora_name",
    "lora_path",
    "load_inplace",
    "num_predict",
    "repeat_penalty",
    "typical_p",
    "mirostat",
];
const ADMIN: &str = "Bearer admin";

/// Writes what a client might send who means ill.
struct Hostile(Dice);

impl Hostile {
    fn roll(&mut self, sides: usize) -> usize {
        self.0.roll(sides)
    }

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
        const TEXTS: [&str; 20] = [
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
            "\"json\"",
            "\"base64\"",
            "\"required\"",
            "\"(a|b)*c{1,9}\"",
            "\"start: \\\"a\\\"+\"",
            "\"broken\"",
            "\"../broken\"",
            "\"/etc/passwd\"",
            "\"C:\\\\x\"",
            "\"broken/\\u0000\"",
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

    fn list(&mut self, mut one: impl FnMut(&mut Hostile) -> String) -> String {
        (0..self.roll(4)).map(|_| one(self)).collect::<Vec<_>>().join(", ")
    }

    fn name(&mut self) -> &'static str {
        const MORE: [&str; 21] = [
            "role",
            "content",
            "type",
            "text",
            "include_usage",
            "tool_calls",
            "0",
            "96",
            "-1",
            "enable_thinking",
            "function",
            "parameters",
            "arguments",
            "properties",
            "items",
            "pattern",
            "$ref",
            "json_schema",
            "schema",
            "strict",
            "regex",
        ];
        let at = self.roll(FIELDS.len() + MORE.len());
        FIELDS.iter().chain(&MORE).nth(at).unwrap()
    }

    /// Mostly a request that makes sense but for a few fields.
    fn body(&mut self) -> Vec<u8> {
        let mut fields = vec![
            r#""messages": [{"role": "user", "content": "hello"}]"#.to_owned(),
            r#""prompt": "hello""#.into(),
            r#""tokens": [5, 6]"#.into(),
            r#""input": "hello""#.into(),
            r#""lora_name": "a", "lora_path": "broken""#.into(),
            format!(r#""max_tokens": {}"#, 1 + self.roll(3)),
            format!(r#""options": {{"num_predict": {}}}"#, 1 + self.roll(3)),
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

/// Where the requests go.
enum Target {
    Router(Arc<App>, tokio::runtime::Runtime),
    Program(Server),
}

impl Target {
    /// A server whose administrator lets adapters be loaded from a folder in which there is a broken one.
    fn open(place: &Path) -> Target {
        let root = place.join("adapters");
        std::fs::create_dir_all(root.join("broken")).unwrap();
        std::fs::write(root.join("broken/adapter_config.json"), "{\"r\": -1}").unwrap();
        if is_program() {
            let key = place.join("admin");
            std::fs::write(&key, "admin\n").unwrap();
            let [key, root] = [key, root].map(|path| path.to_str().unwrap().to_owned());
            let flags = ["--admin-key-file", &key, "--adapter-root", &root];
            return Target::Program(Server::open(4, 1000, patience(), &flags));
        }
        let adapters = AdapterLimits { roots: vec![root], ..AdapterLimits::default() };
        let admin_keys = vec!["admin".into()];
        let options = Options { queue: 60, local_names_only: true, admin_keys, adapters, ..Options::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Target::Router(app_with_options(4, &options), runtime)
    }

    /// Clients at a time.
    fn clients(&self) -> usize {
        if matches!(self, Target::Program(_)) { 8 } else { 1 }
    }

    fn send(&self, path: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
        match self {
            Target::Router(app, runtime) => runtime.block_on(async {
                let request = Request::post(path).header(HOST, "localhost").header(AUTHORIZATION, ADMIN);
                let response = router(app.clone()).oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
                let status = response.status().as_u16();
                (status, to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
            }),
            Target::Program(server) => {
                let answer = read(server.send("POST", path, &format!("Authorization: {ADMIN}\r\n"), &body));
                (answer.status, answer.body.into_bytes())
            }
        }
    }
}

/// One request of the stream, and the status of its answer, which must be one of the API's.
fn one(target: &Target, at: usize) -> u16 {
    let mut dice = Hostile(Dice::new(at as u64));
    let (path, body) = (PATHS[dice.roll(PATHS.len())], dice.body());
    let (status, answer) = target.send(path, body.clone());
    let shown = || String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned();
    // 403: a path out of the folders that are allowed.
    let allowed = matches!(status, 200 | 400 | 404) || status == 403 && path == "/v1/load_lora_adapter";
    assert!(allowed, "{status} for request {at}, {path} {}", shown());
    if status != 200 {
        let error: Value = serde_json::from_slice(&answer).unwrap();
        let message = if path.starts_with("/api/") { &error["error"] } else { &error["error"]["message"] };
        assert!(message.is_string(), "{error} for request {at}, {path} {}", shown());
    }
    status
}

#[test]
fn hostile_requests_get_an_answer_of_the_api() {
    let place = tempfile::tempdir().unwrap();
    let (target, requests, next) = (Target::open(place.path()), pick(2000, 100_000), AtomicUsize::new(0));
    let client = || {
        let mut statuses = BTreeMap::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= requests {
                return statuses;
            }
            *statuses.entry(one(&target, at)).or_insert(0) += 1;
        }
    };
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..target.clients()).map(|_| scope.spawn(client)).collect();
        for client in clients {
            client.join().unwrap().into_iter().for_each(|(status, n)| *statuses.entry(status).or_default() += n);
        }
    });
    println!("{requests} hostile requests, by status: {statuses:?}");
    // The stream must reach every way out.
    assert!([200, 400, 404].iter().all(|status| statuses[status] > requests / 50), "{statuses:?}");
    if let Target::Program(server) = target {
        server.tell_to_stop();
        server.join();
    }
}
