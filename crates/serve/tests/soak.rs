//! Mixed load for a while: memory and open files stay what they were. Some seconds by default, ten minutes with
//! `OUNCE_SOAK=1`. Alone in its file, because it watches the whole process that serves.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::{Server, eventually, four, long, patience, pick};
use ounce_engine::sampler::Dice;
use peak_alloc::PeakAlloc;
use serde_json::json;

/// Counts what this process, which is the server's in the short test, has allocated and not freed.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const PATIENCE: Duration = Duration::from_secs(60);

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

/// Eight clients at once, for `count` requests at least and for `time` at least: how many requests it were, and the mean of the bytes
/// that were resident.
fn round(server: &Server, seed: u64, count: usize, time: Duration) -> (usize, f64) {
    let (begun, requests) = (Instant::now(), AtomicUsize::new(0));
    let goes_on = || requests.load(Relaxed) < count || begun.elapsed() < time;
    let mut samples = Vec::new();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (requests, goes_on) = (&requests, &goes_on);
            scope.spawn(move || {
                let mut dice = Dice::new(8 * seed + client);
                while goes_on() {
                    request(server, &mut dice);
                    requests.fetch_add(1, Relaxed);
                }
            });
        }
        // A client that met an answer it must not get is not waited for: the scope ends with its panic.
        while goes_on() && begun.elapsed() < 2 * time + PATIENCE {
            samples.push(resident(server.process()));
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    (requests.into_inner(), samples.iter().sum::<f64>() / samples.len() as f64)
}

#[test]
fn memory_and_open_files_stay_what_they_were() {
    // Resident memory moves by tens of megabytes within seconds, with what is being answered and what the allocator keeps: only
    // means of minutes say much. What is allocated when nobody is served is known to the byte, where the server is this process.
    let (rounds, count, time) = pick((6, 400, Duration::ZERO), (4, 400, Duration::from_secs(150)));
    let server = Server::open(4, 64, patience(), &[]);
    let files = open_files(server.process());
    let (mut requests, mut means, mut live) = (0, Vec::new(), Vec::new());
    for seed in 0..rounds {
        let (here, mean) = round(&server, seed, count, time);
        requests += here;
        means.push(mean / MIB);
        eventually("all places are free", || server.is_free());
        eventually("all connections are gone", || open_files(server.process()) <= files);
        live.push(ALLOCATOR.current_usage() as f64 / MIB);
    }
    println!(
        "{requests} requests, {files} open files before and after; MiB resident {means:.1?}, allocated here {live:.3?}"
    );
    let last = means.len() - 1;
    let growth = means[last] - means[last - 2];
    assert!(growth < pick(64.0, 1.0), "resident memory grew by {growth:.2} MiB: {means:.1?}");
    // Prompts that were never seen are remembered, up to a bound: less than a hundred bytes a request.
    let growth = live[last] - live[last - 2];
    assert!(growth < pick(0.15, 0.5), "{growth:.3} MiB are not freed: {live:.3?}");
}
