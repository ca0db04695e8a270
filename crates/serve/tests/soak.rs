//! Mixed load for a while: memory and open files stay what they were. Some seconds by default, ten minutes with
//! `OUNCE_SOAK=1`. Alone in its file, because it watches the whole process that serves.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Server, eventually, four, long, patience, pick};
use ounce_engine::sampler::Dice;
use serde_json::json;

const MIB: f64 = 1024.0 * 1024.0;

/// Resident bytes of a process.
fn resident(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1024.0
}

fn open_files(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// One request of any kind, with the answer that it must get.
fn request(server: &Server, dice: &mut Dice) {
    let seed = dice.roll(1000);
    let status = |wanted: &[u16], status: u16| assert!(wanted.contains(&status), "{status}, not {wanted:?}");
    match dice.roll(9) {
        0 | 1 => status(&[200, 429], server.post("/v1/completions", &long(seed)).status),
        2 => {
            let body = json!({"messages": [{"role": "user", "content": format!("hello {seed}")}], "max_tokens": 20,
                "temperature": 1.0, "logprobs": true, "top_logprobs": 5});
            status(&[200, 429], server.post("/v1/chat/completions", &body).status);
        }
        3 => {
            let body = json!({"prompt": ["a b c", "d e f"], "max_tokens": 1, "echo": true, "logprobs": 2});
            status(&[200, 429], server.post("/v1/completions", &body).status);
        }
        4 => status(&[200, 429], server.post("/tokenize", &json!({"prompt": "x".repeat(100_000)})).status),
        5 => status(&[400], server.post("/v1/completions", &json!({"prompt": 3, "n": -1})).status),
        6 => status(&[200], server.get("/metrics").status),
        // Those who leave: in the middle of an answer, and of a head.
        7 => {
            let mut stream = server.send("POST", "/v1/completions", "", &four(seed).to_string());
            let _ = stream.read(&mut vec![0; 1 + dice.roll(2000)]);
        }
        _ => drop(TcpStream::connect(server.address).unwrap().write_all(b"POST /v1/comp")),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn memory_and_open_files_stay_what_they_were() {
    let time = pick(Duration::from_secs(6), Duration::from_secs(600));
    let server = Server::open(4, 64, patience(), &[]);
    let process = server.process();
    let files = open_files(process);
    let end = Instant::now() + time;
    let mut samples = Vec::new();
    let requests: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let server = &server;
                scope.spawn(move || {
                    let (mut dice, mut requests) = (Dice::new(client), 0);
                    while Instant::now() < end {
                        request(server, &mut dice);
                        requests += 1;
                    }
                    requests
                })
            })
            .collect();
        while Instant::now() < end {
            std::thread::sleep(time / 120);
            samples.push(resident(process));
        }
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    eventually("all places are free", || server.is_free());
    eventually("all connections are gone", || open_files(process) <= files);
    // The first quarter warms up: threads, caches, the allocator.
    let quarter = samples.len() / 4;
    let (early, late) = (mean(&samples[quarter..2 * quarter]), mean(&samples[3 * quarter..]));
    let growth = (late - early) / MIB;
    println!(
        "{requests} requests in {time:?}: {:.1} MiB, then {:.1} MiB, {growth:+.2} MiB; {files} open files before and after",
        early / MIB,
        late / MIB
    );
    assert!(growth < pick(8.0, 1.0), "memory grew by {growth:.2} MiB");
}
