//! `ounce serve` and `ounce bench` as programs: a server under load, what it says of it, its end by a signal.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use common::Place;
use serde_json::Value;

/// A server of the tiny model, and its address.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(place: &Place, flags: &[&str]) -> Server {
        place.tiny_model();
        let args = [&["serve", "tiny", "--port", "0", "--json", "--context", "64"], flags].concat();
        let mut child = place.command(&args).stderr(Stdio::inherit()).spawn().unwrap();
        let mut said = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        while !said.ends_with("}\n") {
            assert!(lines.read_line(&mut said).unwrap() > 0, "the server did not start");
        }
        let ready: Value = serde_json::from_str(&said).unwrap();
        let url = ready["url"].as_str().unwrap();
        let address = url.trim_start_matches("http://").trim_end_matches("/v1").to_owned();
        Server { child, address }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn stream(&self, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close";
        stream.write_all(format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes()).unwrap();
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_under_load_is_measured_as_it_measures_itself() {
    let place = Place::new();
    let server = Server::start(&place, &["--parallel", "4", "--audit-log", "audit.jsonl"]);
    let load = |flags: &[&str]| {
        let url = server.url();
        let args = ["bench", "serve", &url, "--json", "--requests", "24", "--prompt-tokens", "3", "--tokens", "8"];
        let began = std::time::Instant::now();
        let said: Value = serde_json::from_str(&place.ok(&[&args, flags].concat()).stdout).unwrap();
        (said, began.elapsed().as_secs_f64())
    };
    for flags in [&["--concurrency", "6"][..], &["--rate", "100"], &["--concurrency", "2", "--endpoint", "chat"]] {
        let (said, took) = load(flags);
        assert_eq!((&said["done"], &said["mean_tokens"]), (&24.into(), &8.0.into()), "{said}");
        assert_eq!((&said["goodput_share"], said["errors"].as_object().unwrap().len()), (&1.0.into(), 0), "{said}");
        // The client's time holds the server's, and no request takes longer than all of them.
        for name in ["ttft_s", "e2e_s"] {
            let (ours, theirs) = (said[name]["mean"].as_f64().unwrap(), said["server_mean"][name].as_f64().unwrap());
            assert!(theirs > 0.0 && theirs <= ours && ours < took, "{name}: {ours} and {theirs} of {took}");
        }
    }
    let text = place.ok(&[
        "bench",
        "serve",
        &server.url(),
        "--requests",
        "4",
        "--prompt-tokens",
        "3",
        "--tokens",
        "2",
        "--goodput",
        "ttft:60000",
    ]);
    assert!(
        text.stdout.contains("server's mean") && text.stdout.contains("goodput (TTFT ≤ 60000 ms)"),
        "{}",
        text.stdout
    );
    // Prompts beyond the context: nothing is answered, and the status says why.
    let failed = place.run(&["bench", "serve", &server.url(), "--prompt-tokens", "200", "--warmup", "0"]);
    assert!(failed.code == Some(75) && failed.stderr.contains("400: 100 times"), "{}", failed.stderr);
    let log = std::fs::read_to_string(place.path("audit.jsonl")).unwrap();
    let answered = |line: &&str| line.contains("/v1/completions\",\"status\":200");
    // Two loads and the last, each with two requests before.
    assert_eq!(log.lines().filter(answered).count(), 2 * 26 + 6);
}

#[test]
fn load_goes_nowhere_else_unasked() {
    let place = Place::new();
    for (url, hint) in [("http://192.0.2.1:1", "--remote"), ("ftp://127.0.0.1", "http://"), ("nonsense", "http://")] {
        let ran = place.run(&["bench", "serve", url]);
        assert!(ran.code == Some(2) && ran.stderr.contains(hint), "{url}: {}", ran.stderr);
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = place.run(&["bench", "serve", &format!("http://{nobody}")]);
    assert!(ran.code == Some(75) && ran.stderr.contains("check that the server runs"), "{}", ran.stderr);
    assert_eq!(place.run(&["bench"]).code, Some(2));
}

#[test]
fn a_hundred_open_streams_end_whole_after_sigterm() {
    let place = Place::new();
    let mut server = Server::start(&place, &["--parallel", "1", "--queue", "399", "--drain-timeout", "600"]);
    let body = r#"{"prompt": "once", "max_tokens": 40, "ignore_eos": true, "n": 4, "stream": true}"#;
    let open: Vec<TcpStream> = (0..100).map(|_| server.stream(body)).collect();
    // The first bytes of each: it has its place.
    let open: Vec<(Vec<u8>, TcpStream)> = open
        .into_iter()
        .map(|mut stream| {
            let mut first = vec![0; 15];
            stream.read_exact(&mut first).unwrap();
            (first, stream)
        })
        .collect();
    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    for (first, mut stream) in open {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(first.starts_with(b"HTTP/1.1 200") && rest.contains("data: [DONE]"), "{rest}");
    }
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_model_is_measured_beside_the_machines_limits() {
    let place = Place::new();
    place.tiny_model();
    let said = place.ok(&["bench", "tiny", "--prompt", "16", "--tokens", "8", "--depth", "4", "--runs", "2", "--json"]);
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    for name in ["load_s", "first_token_s", "prefill_tok_s", "decode_tok_s", "peak_bytes"] {
        assert!(number(&said[name]) > 0.0, "{name}: {said}");
    }
    let share = number(&said["decode_tok_s"]) / number(&said["limits"]["decode_tok_s"]);
    assert!((share / number(&said["limits"]["decode_share"]) - 1.0).abs() < 1e-9, "{said}");
    // The limit is that of the file's bytes at the measured rate.
    let weights = std::fs::metadata(place.path("tiny/model.safetensors")).unwrap().len() as f64;
    let counted = number(&said["limits"]["weights_bytes"]);
    assert!(counted <= weights && counted > weights * 0.5, "{counted} of {weights}");
    let ran = place.run(&["bench", "tiny", "--prompt", "100000"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("lower --prompt"), "{}", ran.stderr);
}
