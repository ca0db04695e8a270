//! Clients that are slow or greedy: what they hold is taken from them, others are answered meanwhile, and each limit has its
//! answer.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Server, app_with_options, eventually, is_program, is_soak, long, patience, pick, read, some_try};
use ounce_serve::{Limits, Options};
use serde_json::{Value, json};

fn server(limits: Limits) -> Server {
    let options = Options { queue: 16, local_names_only: true, limits, ..Options::default() };
    Server::start(app_with_options(2, &options), Duration::from_secs(5))
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    stream
}

/// Waits until the other side hangs up; anything it says before is an error.
fn hung_up(stream: &mut TcpStream) {
    match stream.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {}
        other => panic!("still there: {other:?}"),
    }
}

/// A request on a connection that stays open, and its status; nothing if the other side has hung up.
fn ask(stream: &mut TcpStream, path: &str) -> String {
    let mut taken = [0; 4096];
    let asked = stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    let n = asked.and_then(|()| stream.read(&mut taken)).unwrap_or(0);
    String::from_utf8_lossy(&taken[..n]).split(' ').nth(1).unwrap_or_default().to_owned()
}

/// The head of a request with a body of `length` bytes.
fn post(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n")
}

/// Whether the other side has neither said anything nor hung up.
fn is_silent(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let silent = matches!(stream.peek(&mut [0]), Err(e) if e.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    silent
}

/// Connections with the beginning of a head each.
fn half_heads(server: &Server, sockets: usize) -> Vec<TcpStream> {
    let mut slow: Vec<TcpStream> = (0..sockets).map(|_| connect(server)).collect();
    // On a busy machine the first may be gone before the last is there.
    slow.iter_mut().for_each(|s| drop(s.write_all(b"GET /health HTTP/1.1\r\nX")));
    slow
}

/// On the program with its own limits only, which are those of the promise.
#[test]
fn half_heads_are_hung_up_on() {
    let (sockets, head) = pick((200, Duration::from_millis(500)), (500, Duration::from_secs(10)));
    let limits = Limits { head, ..Limits::default() };
    let server = if is_program() { Server::open(2, 16, Duration::from_secs(5), &[]) } else { server(limits) };
    let mut slow = half_heads(&server, sockets);
    let (began, mut slowest) = (Instant::now(), Duration::ZERO);
    eventually("all are hung up on", || {
        // A byte now and then buys no time.
        slow.iter_mut().for_each(|s| drop(s.write_all(b"x")));
        let asked = Instant::now();
        assert_eq!(server.get("/health").status, 200);
        slowest = slowest.max(asked.elapsed());
        std::thread::sleep(head / 10);
        !slow.iter().any(is_silent)
    });
    slow.iter_mut().for_each(hung_up);
    println!(
        "{sockets} half heads: the slowest answer beside them took {slowest:?}, the last was gone after {:?}",
        began.elapsed()
    );
    // The promise is for a machine that does nothing else.
    assert!(!is_soak() || slowest < Duration::from_secs(2), "{slowest:?}");
}

#[test]
fn half_heads_hold_up_nobody() {
    let server = server(Limits { head: 2 * patience(), ..Limits::default() });
    let slow = half_heads(&server, 200);
    for _ in 0..20 {
        assert_eq!(server.get("/health").status, 200);
    }
    assert_eq!(server.post("/v1/completions", &json!({"prompt": "x", "max_tokens": 2})).status, 200);
    assert!(slow.iter().all(is_silent), "who was answered meanwhile has waited for half a head");
}

#[test]
fn silence_between_requests_has_a_limit_of_its_own() {
    // Whoever wakes too late on a busy machine has more time at the next try.
    some_try(|n| {
        let (head, idle) = (Duration::from_millis(100) * 3u32.pow(n), Duration::from_millis(700) * 3u32.pow(n));
        let server = server(Limits { head, idle, ..Limits::default() });
        let mut stream = connect(&server);
        let first = ask(&mut stream, "/health");
        // Longer than a head may take, shorter than the silence.
        std::thread::sleep(head * 3);
        let second = ask(&mut stream, "/health");
        let began = Instant::now();
        hung_up(&mut stream);
        let silence = began.elapsed();
        // And the head of the next request has the limit of heads.
        let mut stream = connect(&server);
        let third = ask(&mut stream, "/health");
        let _ = stream.write_all(b"GET /");
        let began = Instant::now();
        hung_up(&mut stream);
        let next_head = began.elapsed();
        let fine = [&first, &second, &third].iter().all(|status| *status == "200");
        match fine && silence > idle / 2 && next_head < idle {
            true => Ok(()),
            false => Err(format!("{first} {second} {third}, then {silence:?} of {idle:?}, {next_head:?} of {head:?}")),
        }
    });
}

#[test]
fn a_body_that_does_not_come_is_a_408() {
    let server = server(Limits { body: Duration::from_millis(200), ..Limits::default() });
    let mut stream = connect(&server);
    stream.write_all(format!("{}{{\"prompt\"", post("/v1/completions", 1000)).as_bytes()).unwrap();
    let answer = read(stream);
    assert_eq!((answer.status, answer.json()["error"]["type"].as_str()), (408, Some("invalid_request_error")));
}

#[test]
fn an_answer_that_takes_too_long_ends_and_frees_its_place() {
    let server = server(Limits { answer: Duration::from_millis(1), ..Limits::default() });
    let mut body = long(0);
    body["n"] = 8.into();
    let (events, done) = server.post("/v1/completions", &body).events();
    assert_eq!((events.last().unwrap()["error"]["code"].as_str(), done), (Some("timeout"), false));
    body["stream"] = false.into();
    let answer = server.post("/v1/completions", &body);
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("timeout")));
    // Embeddings have the same limit.
    let answer = server.post("/v1/embeddings", &json!({"input": vec!["x".repeat(60); 2000]}));
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("timeout")));
    eventually("the places are free", || server.busy() == 0.0);
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    let server = server(Limits { connections: 4, ..Limits::default() });
    let mut open: Vec<TcpStream> = (0..4).map(|_| connect(&server)).collect();
    assert!(open.iter_mut().all(|stream| ask(stream, "/health") == "200"));
    let answer = server.post("/v1/completions", &long(1));
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("too_many_connections")));
    assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
    assert_eq!(ask(&mut open[0], "/health"), "200");
    // More than are told so at a time: none of them does harm.
    let crowd: Vec<TcpStream> = (0..100).map(|_| connect(&server)).collect();
    drop((crowd, open.pop()));
    eventually("a place is free", || server.get("/health").status == 200);
}

#[test]
fn large_bodies_share_a_fixed_room() {
    let server = server(Limits { bodies_bytes: 1 << 20, ..Limits::default() });
    let mut slow = connect(&server);
    slow.write_all(format!("{}{{", post("/tokenize", 800_000)).as_bytes()).unwrap();
    let large = json!({"prompt": "x".repeat(500_000)});
    eventually("the room is taken", || server.post("/tokenize", &large).status == 429);
    // Of unknown length, it may become as large as any.
    let chunked = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let mut stream = connect(&server);
    stream.write_all(chunked.as_bytes()).unwrap();
    assert_eq!(read(stream).status, 429);
    assert_eq!(server.post("/tokenize", &json!({"prompt": "small"})).status, 200);
    drop(slow);
    eventually("the room is free", || server.post("/tokenize", &large).status == 200);
}

#[test]
fn numbers_beyond_the_limits_name_their_field() {
    let server = server(Limits::default());
    let messages = |n: usize| vec![json!({"role": "user", "content": "x"}); n];
    let chat = |field: &str, value: Value| {
        let mut body = json!({"messages": messages(1), "max_tokens": 1});
        body[field] = value;
        server.post("/v1/chat/completions", &body)
    };
    let bias: serde_json::Map<String, Value> = (0..1025).map(|id| (id.to_string(), json!(0))).collect();
    for (field, value) in [
        ("messages", Value::Array(messages(2049))),
        ("stop", json!(["a", "b", "c", "d", "e"])),
        ("n", json!(9)),
        ("top_logprobs", json!(21)),
        ("logit_bias", Value::Object(bias)),
        ("max_tokens", json!(0)),
    ] {
        let answer = chat(field, value);
        let param = answer.json()["error"]["param"].clone();
        assert_eq!((answer.status, param.as_str()), (400, Some(field)), "{}", answer.body);
    }
    for (field, value) in [("stop", json!(["a", "b", "c", "d"])), ("n", json!(8)), ("logit_bias", json!({"5": 1}))] {
        assert_eq!(chat(field, value).status, 200, "{field}");
    }
    // Nothing is cut in silence: both numbers are in the error.
    let answer = server.post("/v1/completions", &json!({"prompt": vec![5; 64], "max_tokens": 1}));
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (400, Some("context_length_exceeded")));
    assert!(answer.body.contains("has 64 tokens") && answer.body.contains("has 64 positions"), "{}", answer.body);
}

#[test]
fn large_bodies_hold_up_nobody() {
    let server = server(Limits::default());
    // Numbers by the million, which no prompt is: to see that, all of it has to be read.
    let body = format!("{{\"prompt\":{{\"a\":[{}0]}}}}", "0,".repeat(3_900_000));
    some_try(|_| {
        let mut large: Vec<TcpStream> = (0..6)
            .map(|_| {
                let mut stream = connect(&server);
                stream.write_all(post("/tokenize", body.len()).as_bytes()).unwrap();
                stream.write_all(&body.as_bytes()[..body.len() - 1]).unwrap();
                stream
            })
            .collect();
        // Once they are nearly there, all become whole at once.
        assert_eq!(server.get("/health").status, 200);
        std::thread::sleep(Duration::from_millis(300));
        large.iter_mut().for_each(|stream| stream.write_all(b"}").unwrap());
        let mut answered = 0;
        while large.iter().any(is_silent) {
            assert_eq!(server.get("/health").status, 200);
            assert_eq!(server.post("/tokenize", &json!({"prompt": "hi"})).status, 200);
            answered += 1;
        }
        for mut stream in large {
            let mut taken = [0; 4096];
            let n = stream.read(&mut taken).unwrap();
            assert!(taken[..n].starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&taken[..n]));
        }
        // On the thread of the sockets one pair would have to wait for a body or two each time.
        let told = || format!("{answered} pairs of small requests beside six large ones");
        if answered > 24 { Ok(()) } else { Err(told()) }
    });
}
