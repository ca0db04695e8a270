//! Many clients at once: none sees another, none can hold a place that it has left, a full queue says so, and a server ends in
//! order.

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Server, app, eventually, four, long, patience, pick, read};
use serde_json::{Value, json};

fn text(events: &[Value]) -> String {
    events.iter().filter_map(|e| e["choices"][0]["text"].as_str()).collect()
}

#[test]
fn each_of_eight_streams_at_once_is_what_it_is_alone() {
    let server = Server::start(app(4, 64), Duration::from_secs(30));
    let ask = |seed| text(&server.post("/v1/completions", &long(seed)).events().0);
    let alone: Vec<String> = (0..8).map(ask).collect();
    let together: Vec<String> = std::thread::scope(|scope| {
        let streams: Vec<_> = (0..8).map(|seed| scope.spawn(move || ask(seed))).collect();
        streams.into_iter().map(|s| s.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
    assert!(alone.iter().all(|text| !text.is_empty()));
}

#[test]
fn clients_that_leave_free_their_places() {
    let server = Server::start(app(1, 255), Duration::from_secs(30));
    // Streams and whole answers; once they wait, all leave.
    let open: Vec<TcpStream> = (0..64)
        .map(|seed| {
            let mut body = four(seed);
            body["stream"] = (seed % 3 > 0).into();
            server.send("POST", "/v1/completions", "", &body.to_string())
        })
        .collect();
    eventually("the requests are in", || server.metric("vllm:num_requests_waiting") > 20.0);
    drop(open);
    eventually("all places are free", || server.busy() == 0.0);
    let ended = |reason: &str| server.ended(reason);
    assert!(ended("abort") > 10.0, "{} {} {}", ended("abort"), ended("stop"), ended("length"));
    assert_eq!(server.post("/v1/completions", &long(1)).status, 200);
}

#[test]
fn a_full_queue_answers_429_and_the_rest_go_on() {
    let server = Server::start(app(1, 3), Duration::from_secs(30));
    let open: Vec<TcpStream> =
        (0..40).map(|seed| server.send("POST", "/v1/completions", "", &long(seed).to_string())).collect();
    let (mut served, mut refused) = (0, 0);
    for stream in open {
        let answer = read(stream);
        match answer.status {
            200 => {
                let (events, done) = answer.events();
                assert!(done && events.last().unwrap()["choices"][0]["finish_reason"] == "length");
                served += 1;
            }
            429 => {
                assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
                assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
                refused += 1;
            }
            other => panic!("{other}: {}", answer.body),
        }
    }
    assert!(served > 0 && refused > 0, "{served} {refused}");
    let many = server.post("/v1/completions", &json!({"prompt": "x", "n": 5}));
    assert_eq!((many.status, many.json()["error"]["param"].as_str()), (400, Some("prompt")));
}

#[test]
fn a_server_that_is_told_to_stop_finishes_what_runs() {
    let server = Server::open(pick(1, 8), 399, patience(), &[]);
    // A request whose body comes after the word.
    let body = long(0).to_string();
    let mut late = TcpStream::connect(server.address).unwrap();
    let head = format!("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    late.write_all(head.as_bytes()).unwrap();
    let open: Vec<TcpStream> =
        (0..100).map(|seed| server.send("POST", "/v1/completions", "", &four(seed).to_string())).collect();
    eventually("the requests are in", || server.metric("vllm:num_requests_waiting") > 20.0);
    server.tell_to_stop();
    eventually("it has heard", || server.get("/health").status == 503);
    late.write_all(body.as_bytes()).unwrap();
    let late = read(late);
    assert_eq!((late.status, late.json()["error"]["code"].as_str()), (503, Some("stopping")));
    let mut whole = 0;
    for stream in open {
        let answer = read(stream);
        whole += usize::from(answer.status == 200);
        // Those that came after the word are refused, those before it are whole.
        assert!(answer.status == 503 || answer.events().1, "{} {}", answer.head, answer.body);
    }
    server.join();
    println!("told to stop with 100 streams open: {whole} whole, the others refused");
}

#[test]
fn what_does_not_finish_in_time_is_cut_with_an_error() {
    let server = Server::open(1, 255, Duration::ZERO, &[]);
    let open: Vec<TcpStream> =
        (0..64).map(|seed| server.send("POST", "/v1/completions", "", &four(seed).to_string())).collect();
    eventually("the requests are in", || server.metric("vllm:num_requests_waiting") > 20.0);
    server.tell_to_stop();
    let answers: Vec<_> = open.into_iter().map(read).collect();
    let cut = |answer: &common::Answer| {
        answer.status == 200 && answer.events().0.last().is_some_and(|e| e["error"]["code"] == "stopping")
    };
    assert!(answers.iter().any(cut));
    assert!(answers.iter().all(|answer| cut(answer) || matches!(answer.status, 0 | 503) || answer.events().1));
    server.join();
}

#[test]
fn heads_and_bodies_beyond_the_limits_are_refused() {
    let server = Server::start(app(1, 3), Duration::from_secs(5));
    let large = format!("X-Large: {}\r\n", "x".repeat(40_000));
    assert_eq!(read(server.send("GET", "/health", &large, "")).status, 431);
    let answer = read(server.send("POST", "/tokenize", "", &format!("{{\"prompt\": \"{}\"}}", "x".repeat(8 << 20))));
    assert_eq!(answer.status, 413);
    let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
    let answer = read(server.send("POST", "/tokenize", "", &format!("{{\"prompt\": {deep}}}")));
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("64 levels"), "{}", answer.body);
    // Half a head, and then nothing, holds up nobody.
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.write_all(b"GET /health HTTP/1.1\r\nHost:").unwrap();
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn who_waits_to_be_taken_when_a_server_ends_gets_an_answer() {
    let (app, stop, mut waiting) = (app(1, 4), AtomicBool::new(false), Vec::new());
    // Here it listens, and takes nobody yet: all of them wait in the system's queue when it is told to stop.
    let ready = |address: SocketAddr| {
        for _ in 0..64 {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            waiting.push(stream);
        }
        stop.store(true, Ordering::Relaxed);
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    ounce_serve::run(app, any, Duration::from_secs(5), &stop, ready).unwrap();
    for stream in waiting {
        let answer = read(stream);
        assert_eq!(answer.status, 503, "{}", answer.head);
        let head = answer.head.to_lowercase();
        assert!(head.contains("retry-after: 1") && head.contains("connection: close"), "{head}");
        assert_eq!(answer.json()["error"]["code"], "stopping");
    }
}
