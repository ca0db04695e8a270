//! The audit log: a line for each request with who, what and how many tokens, and never a word of what was said.

mod common;

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Server, app_with_options, eventually, four};
use ounce_serve::Options;
use serde_json::{Value, json};

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_request_leaves_a_line_without_its_words() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("audit.jsonl");
    let file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let options = Options { queue: 8, keys: vec!["k1".into()], audit: Some(Arc::new(file)), ..Options::default() };
    let server = Server::start(app_with_options(2, &options), Duration::from_secs(5));
    let key = "Authorization: Bearer k1\r\n";
    let body = json!({"prompt": "secret words", "max_tokens": 5, "ignore_eos": true, "n": 2, "user": "secret name"});
    let answer = common::read(server.send("POST", "/v1/completions", key, &body.to_string()));
    let usage = answer.json()["usage"].clone();
    let mut stream = body.clone();
    stream["stream"] = true.into();
    common::read(server.send("POST", "/v1/completions", key, &stream.to_string()));
    common::read(server.send("POST", "/v1/completions", "", &body.to_string()));
    common::read(server.send("GET", "/secret/path?secret=1", key, ""));
    // One that leaves in the middle; on a busy machine it may be late, and another has to.
    common::some_try(|n| {
        let mut left = server.send("POST", "/v1/completions", key, &four(0).to_string());
        let _ = left.read(&mut [0; 10]);
        drop(left);
        eventually("a line more", || lines(&path).len() == 5 + n as usize);
        let last = lines(&path).pop().unwrap();
        if last["complete"] == false { Ok(()) } else { Err(last.to_string()) }
    });
    let mut lines = lines(&path);
    lines.drain(4..lines.len() - 1);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("secret") && !text.contains("k1"), "{text}");
    let fields = |line: &Value| {
        let number = |name: &str| line[name].as_u64().unwrap();
        (line["endpoint"].as_str().unwrap().to_owned(), number("status"), line["key"].as_str().map(String::from))
    };
    // printf k1 | sha256sum
    let k1 = Some("6ab9f1eb8f7d".to_owned());
    let completions = || "/v1/completions".to_owned();
    let found: Vec<_> = lines.iter().map(fields).collect();
    assert_eq!(
        found,
        [
            (completions(), 200, k1.clone()),
            (completions(), 200, k1.clone()),
            (completions(), 401, None),
            ("other".to_owned(), 404, k1.clone()),
            (completions(), 200, k1),
        ]
    );
    for line in &lines[..2] {
        assert_eq!(line["completion_tokens"], usage["completion_tokens"]);
        assert_eq!(line["prompt_tokens"].as_u64().unwrap(), 2 * usage["prompt_tokens"].as_u64().unwrap());
        assert_eq!(line["complete"], true);
        assert!(line["time"].as_str().unwrap().ends_with('Z') && line["seconds"].as_f64().unwrap() >= 0.0, "{line}");
    }
    assert_eq!((&lines[2]["completion_tokens"], &lines[2]["complete"]), (&json!(0), &json!(true)));
    assert_eq!(lines[4]["complete"], false);
}

#[test]
fn tokens_of_inputs_that_are_embedded_are_counted() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("audit.jsonl");
    let file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let options = Options { queue: 8, audit: Some(Arc::new(file)), local_names_only: true, ..Options::default() };
    let server = Server::start(app_with_options(1, &options), Duration::from_secs(5));
    let answer = server.post("/v1/embeddings", &json!({"input": ["four", "to"]}));
    assert!(answer.status == 200 && answer.json()["usage"]["prompt_tokens"] == 6, "{}", answer.body);
    eventually("a line", || lines(&path).len() == 1);
    let line = &lines(&path)[0];
    assert_eq!((&line["endpoint"], &line["prompt_tokens"]), (&json!("/v1/embeddings"), &json!(6)));
    assert_eq!((&line["completion_tokens"], &line["complete"]), (&json!(0), &json!(true)));
}

#[test]
fn a_log_that_cannot_be_written_is_counted() {
    // Opened to be read: every write fails.
    let file = File::open("/dev/null").unwrap();
    let options = Options { queue: 8, audit: Some(Arc::new(file)), local_names_only: true, ..Options::default() };
    let server = Server::start(app_with_options(1, &options), Duration::from_secs(5));
    assert_eq!(server.get("/health").status, 200);
    eventually("the failure is counted", || server.metric("ounce:audit_failures_total") > 0.0);
}
