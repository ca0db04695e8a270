//! Mixed load for a while: memory and open files stay what they were. Some seconds by default, ten minutes with
//! `OUNCE_SOAK=1`. Alone in its file, because it watches the whole process that serves.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

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
    // What the process holds on to comes up to its peak in the first rounds: threads, caches, the heaps of the allocator, on a
    // busy machine later than on a quiet one. So the short test goes on until two rounds add little, which a leak never lets
    // happen; the long one has rounds enough in time, and looks at the last.
    let (most, round, bound) = pick((12, Duration::from_millis(1500), 2.0), (4, Duration::from_secs(150), 1.0));
    let server = Server::open(4, 64, patience(), &[]);
    let process = server.process();
    let files = open_files(process);
    let (stop, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut rounds: Vec<f64> = Vec::new();
    let growth = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let (server, stop, requests) = (&server, &stop, &requests);
                scope.spawn(move || {
                    let mut dice = Dice::new(client);
                    while !stop.load(Relaxed) {
                        request(server, &mut dice);
                        requests.fetch_add(1, Relaxed);
                    }
                })
            })
            .collect();
        let growth = loop {
            let samples: Vec<f64> = (0..30)
                .map(|_| {
                    std::thread::sleep(round / 30);
                    resident(process) / MIB
                })
                .collect();
            rounds.push(mean(&samples));
            let [.., before, _, last] = rounds[..] else { continue };
            let growth = last - before;
            // A client that is gone has met an answer that it must not get.
            if rounds.len() == most
                || (rounds.len() > 3 && growth < bound)
                || clients.iter().any(|client| client.is_finished())
            {
                break growth;
            }
        };
        stop.store(true, Relaxed);
        growth
    });
    eventually("all places are free", || server.is_free());
    eventually("all connections are gone", || open_files(process) <= files);
    println!(
        "{requests:?} requests in {} rounds of {round:?}: MiB {rounds:.1?}, {growth:+.2} in the last two; {files} open files \
         before and after",
        rounds.len(),
    );
    assert!(growth < bound, "memory grew by {growth:.2} MiB, over all rounds: {rounds:.1?}");
}
