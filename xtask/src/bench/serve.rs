//! Many sequences at a time: `ounce serve` against llama.cpp's `llama-server`, on the same file, under the same load from
//! `ounce bench serve`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::machine::Machine;
use super::measure::{self, Run};
use super::options::Options;
use super::table::{median, render, short, spread};
use super::{Entry, Peers, built, busy, medians};
use crate::proc;

/// Streams at a time.
const STREAMS: [usize; 5] = [1, 4, 8, 16, 32];
/// Requests for each stream: the first ones begin together, later ones do not.
const REQUESTS_PER_STREAM: usize = 3;
/// Longest wait for a server to have its model.
const START: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Ours,
    Peer,
}

#[derive(Clone, Debug, PartialEq)]
struct Setting {
    who: Who,
    streams: usize,
}

impl Setting {
    fn name(&self) -> String {
        format!("{} {}", if self.who == Who::Ours { "Ounce" } else { "llama.cpp" }, self.streams)
    }
}

pub fn run(options: &Options, peers: &Peers) -> Result<String, String> {
    let [peer, model] = peers.need(["llama/bin/llama-server", "models/SmolLM2-135M-Instruct.Q4_1.gguf"])?;
    let ounce = built("ounce-cli", None)?;
    let before = Machine::measure(&ounce, options.threads)?;
    let streams: &[usize] = if options.quick { &STREAMS[..2] } else { &STREAMS };
    let settings = streams.iter().flat_map(|&streams| [Who::Ours, Who::Peer].map(|who| Setting { who, streams }));
    let mut entries: Vec<Entry<Setting>> =
        settings.map(|setting| Entry { setting, runs: Vec::new(), failure: None }).collect();
    for round in 1..=options.rounds {
        for entry in &mut entries {
            let program = if entry.setting.who == Who::Ours { &ounce } else { &peer };
            let run = one(&entry.setting, program, &model, &ounce, options)?;
            let (rate, first) = (run.number("tokens_per_s")?, first_s(&run));
            println!(
                "round {round}  {}: {} tokens/s, first token p95 {} ms",
                entry.setting.name(),
                short(rate),
                short(first * 1e3)
            );
            entry.runs.push(run);
        }
    }
    let machine = before.best(Machine::measure(&ounce, options.threads)?);
    Ok(report(&entries, &machine, options))
}

/// Starts a server, loads it, ends it.
fn one(setting: &Setting, program: &Path, model: &Path, ounce: &Path, options: &Options) -> Result<Run, String> {
    let server = Server::start(command(setting, program, model, options), setting)?;
    let mut load = Command::new(ounce);
    load.args(load_flags(setting.streams, options)).arg(format!("http://{}", server.address));
    let (before, began) = (server.seconds(), Instant::now());
    let mut run = measure::run(&mut load)?;
    // The server's own work is not load from outside.
    run.foreign_cores = (run.foreign_cores - (server.seconds() - before) / began.elapsed().as_secs_f64()).max(0.0);
    let done = run.number("done")?;
    let requests = (setting.streams * REQUESTS_PER_STREAM) as f64;
    if done != requests {
        return Err(format!("{}: {done} of {requests} requests were answered: {}", setting.name(), run.said["errors"]));
    }
    // What counts is the server's memory, not the client's.
    run.peak_mib = server.peak_mib();
    Ok(run)
}

fn load_flags(streams: usize, options: &Options) -> Vec<String> {
    let requests = streams * REQUESTS_PER_STREAM;
    let flags = format!(
        "bench serve --json --concurrency {streams} --requests {requests} --warmup {} --prompt-tokens {} --tokens {}",
        streams.min(2),
        options.prompt,
        options.tokens
    );
    flags.split(' ').map(String::from).collect()
}

/// Each sequence has room for its prompt and answer and a little more.
fn context(options: &Options) -> usize {
    // Words are about a token each, some two.
    (2 * options.prompt + options.tokens).next_multiple_of(256)
}

fn command(setting: &Setting, program: &Path, model: &Path, options: &Options) -> Command {
    let (context, streams, threads) = (context(options), setting.streams, options.threads.to_string());
    let mut command = Command::new(program);
    match setting.who {
        Who::Ours => command.arg("serve").arg(model).args(["--port", "0", "--json", "--threads", &threads]).args([
            "--context",
            &context.to_string(),
            "--parallel",
            &streams.to_string(),
            // Answers to random words repeat themselves, and guesses would win by that.
            "--speculate",
            "0",
        ]),
        // Its context is shared among the slots.
        Who::Peer => command.arg("-m").arg(model).args(["--host", "127.0.0.1", "-ngl", "0", "-t", &threads]).args([
            "-tb",
            &threads,
            "-c",
            &(context * streams).to_string(),
            "-np",
            &streams.to_string(),
        ]),
    };
    command
}

/// A server that runs until it is dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(mut command: Command, setting: &Setting) -> Result<Server, String> {
        let shown = proc::shown(&command);
        let fail = |e: std::io::Error| format!("cannot start `{shown}`: {e}");
        let port = match setting.who {
            Who::Ours => None,
            Who::Peer => {
                let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).map_err(fail)?;
                command.args(["--port", &free.port().to_string()]);
                Some(free.port())
            }
        };
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(fail)?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("a piped output is there")?);
        let port = match port {
            Some(port) => Ok(port),
            None => said_port(&mut lines).ok_or_else(|| format!("`{shown}` did not say where it listens")),
        };
        // What it says from here on is of no interest, but must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        // Ended with the rest of this function, should it fail.
        let mut server = Server { child, address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) };
        server.address.set_port(port?);
        let end = Instant::now() + START;
        while !healthy(server.address) {
            if Instant::now() > end {
                return Err(format!("`{shown}` was not ready within {} s", START.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    fn seconds(&self) -> f64 {
        measure::seconds_of(self.child.id()).unwrap_or(0.0)
    }

    fn peak_mib(&self) -> f64 {
        measure::peak_of(self.child.id()).unwrap_or(f64::NAN)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The port in the address that ours prints when it is ready.
pub(super) fn said_port(lines: &mut impl BufRead) -> Option<u16> {
    let found = lines.lines().map_while(Result::ok).find(|line| line.contains("\"url\""))?;
    let rest = found.split("127.0.0.1:").nth(1)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn healthy(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 64];
        let n = stream.read(&mut head)?;
        Ok(String::from_utf8_lossy(&head[..n]).contains(" 200 "))
    };
    ask().unwrap_or(false)
}

fn first_s(run: &Run) -> f64 {
    run.said["ttft_s"]["p95"].as_f64().unwrap_or(f64::NAN)
}

fn rate(run: &Run) -> f64 {
    run.number("tokens_per_s").unwrap_or(f64::NAN)
}

fn report(entries: &[Entry<Setting>], machine: &Machine, options: &Options) -> String {
    let mut rows = Vec::new();
    for entry in entries {
        let all = |figure: fn(&Run) -> f64| entry.runs.iter().map(figure).collect::<Vec<f64>>();
        let against = |figure: fn(&Run) -> f64| {
            let rival = |s: &Setting| s.who == Who::Peer && s.streams == entry.setting.streams;
            short(median(&all(figure)) / median(&medians(entries, rival, figure)))
        };
        let ms = |name: &'static str, at: &'static str| {
            let figures: Vec<f64> =
                entry.runs.iter().filter_map(|r| r.said[name][at].as_f64()).map(|s| s * 1e3).collect();
            short(median(&figures))
        };
        rows.push(vec![
            entry.setting.streams.to_string(),
            if entry.setting.who == Who::Ours { "Ounce" } else { "llama-server" }.into(),
            spread(&all(rate)),
            against(rate),
            ms("ttft_s", "p50"),
            ms("ttft_s", "p95"),
            against(first_s),
            ms("tpot_s", "p50"),
            short(median(&all(|r| r.peak_mib))),
            against(|r| r.peak_mib),
        ]);
    }
    let head = [
        "streams",
        "program",
        "answer tokens/s",
        "× rival",
        "first token p50, ms",
        "p95, ms",
        "× rival",
        "per token p50, ms",
        "peak MiB",
        "× rival",
    ];
    let prompt = entries.iter().flat_map(|e| &e.runs).find_map(|r| r.said["mean_prompt_tokens"].as_f64());
    let Options { tokens, rounds, threads, .. } = options;
    format!(
        "SmolLM2-135M-Instruct Q4_1, each number of streams in a closed loop of {REQUESTS_PER_STREAM} requests for each, random \
         prompts of {:.0} tokens, {tokens} tokens each, {rounds} rounds in turn (median and range), {threads} threads for the \
         server; the client runs on the same cores. Rival: `llama-server -t {threads} -tb {threads} -ngl 0 -np STREAMS`. {}\n\n{}\n\
         A ratio above 1 is better for tokens/s, below 1 for times and memory. Load: `ounce bench serve`.{}",
        prompt.unwrap_or(f64::NAN),
        machine.describe(*threads),
        render(&head, &rows),
        busy(entries),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_servers_get_the_same_room_and_threads() {
        let options = Options::parse(&["--prompt", "128"]).unwrap();
        let shown = |who| {
            let setting = Setting { who, streams: 4 };
            proc::shown(&command(&setting, Path::new("it"), Path::new("m.gguf"), &options))
        };
        let ours = "it serve m.gguf --port 0 --json --threads 2 --context 512 --parallel 4 --speculate 0";
        assert_eq!(shown(Who::Ours), ours);
        assert_eq!(shown(Who::Peer), "it -m m.gguf --host 127.0.0.1 -ngl 0 -t 2 -tb 2 -c 2048 -np 4");
        let load = load_flags(4, &options).join(" ");
        assert!(load.ends_with("--concurrency 4 --requests 12 --warmup 2 --prompt-tokens 128 --tokens 128"), "{load}");
    }

    #[test]
    fn the_port_is_found_in_what_ours_says() {
        let mut said = "{\n  \"url\": \"http://127.0.0.1:4321/v1\",\n  \"model\": \"m\"\n".as_bytes();
        assert_eq!(said_port(&mut said), Some(4321));
        assert_eq!(said_port(&mut "no\n".as_bytes()), None);
    }

    #[test]
    fn ratios_are_to_the_rival_at_the_same_number_of_streams() {
        let entry = |who, streams, tokens: f64, first: f64| {
            let spread = json!({"p50": first / 2.0, "p95": first});
            let said = json!({"tokens_per_s": tokens, "ttft_s": spread, "tpot_s": spread, "mean_prompt_tokens": 128.0});
            let run = Run { said, peak_mib: 100.0, foreign_cores: 0.0 };
            Entry { setting: Setting { who, streams }, runs: vec![run], failure: None }
        };
        let entries = [
            entry(Who::Ours, 1, 100.0, 0.1),
            entry(Who::Peer, 1, 50.0, 0.2),
            entry(Who::Ours, 4, 300.0, 0.4),
            entry(Who::Peer, 4, 100.0, 0.1),
        ];
        let machine = Machine { words: "P".into(), f32_flops: 1.0, bf16_flops: 1.0, dram_bytes_s: 1.0 };
        let text = report(&entries, &machine, &Options::parse(&[]).unwrap());
        assert!(text.contains("| 1 | Ounce | 100 | 2.00 | 50.0 | 100 | 0.50 |"), "{text}");
        assert!(text.contains("| 4 | Ounce | 300 | 3.00 | 200 | 400 | 4.00 |"), "{text}");
        assert!(text.contains("| 4 | llama-server | 100 | 1.00 |"), "{text}");
    }
}
