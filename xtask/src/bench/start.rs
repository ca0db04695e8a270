//! How long it takes from nothing to the first token of an answer: the process starts, opens a model that the system still has in
//! memory, reads the prompt, and writes. Knows no rivals but needs the folder's model.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::options::Options;
use super::serve::said_port;
use super::table::{median, render, short, spread};
use super::{Peers, built};

const PROMPT: &str = "Name three rivers of Europe.";
/// What the first token has to come within.
const BAR_MS: f64 = 1000.0;
/// Longest wait for it.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(options: &Options, peers: &Peers) -> Result<String, String> {
    let [model] = peers.need(["models/SmolLM2-135M-Instruct.Q4_1.gguf"])?;
    let ounce = built("ounce-cli", None)?;
    // The first of each brings program and model into memory, and does not count.
    let (mut generate, mut serve) = (Vec::new(), Vec::new());
    for round in 0..=options.rounds * options.runs {
        let (alone, served) = (generated(&ounce, &model, options)?, streamed(&ounce, &model, options)?);
        println!("round {round}  generate {} ms, serve {} ms", short(alone), short(served));
        if round > 0 {
            generate.push(alone);
            serve.push(served);
        }
    }
    let row = |name: &str, figures: &[f64]| {
        let kept = if median(figures) < BAR_MS { "yes" } else { "no" };
        vec![name.into(), spread(figures), kept.into()]
    };
    let rows = [row("`ounce generate`", &generate), row("`ounce serve`, a stream of `/v1/chat/completions`", &serve)];
    Ok(format!(
        "SmolLM2-135M-Instruct Q4_1, {} threads, {} starts of each in turn after one that does not count (median and range).\n\n{}",
        options.threads,
        options.rounds * options.runs,
        render(&["program", "from its start to the first token, ms", "within a second"], &rows)
    ))
}

/// Milliseconds until `ounce generate` has written something.
fn generated(ounce: &Path, model: &Path, options: &Options) -> Result<f64, String> {
    let mut command = Command::new(ounce);
    command.arg("generate").arg(model).args([PROMPT, "--max-tokens", "16", "--threads", &options.threads.to_string()]);
    let began = Instant::now();
    let mut process = Process::start(&mut command)?;
    let mut first = [0];
    process.out.read_exact(&mut first).map_err(|e| format!("ounce generate wrote nothing: {e}"))?;
    Ok(milliseconds(began))
}

/// Milliseconds until a client of `ounce serve`, which asks as soon as it knows where, has the first text of a stream.
fn streamed(ounce: &Path, model: &Path, options: &Options) -> Result<f64, String> {
    let mut command = Command::new(ounce);
    command.arg("serve").arg(model).args(["--port", "0", "--json", "--threads", &options.threads.to_string()]);
    let began = Instant::now();
    let mut process = Process::start(&mut command)?;
    let port = said_port(&mut process.out).ok_or("ounce serve did not say where it listens")?;
    let fail = |e: std::io::Error| format!("ounce serve did not answer: {e}");
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(fail)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(fail)?;
    let messages = format!("[{{\"role\": \"user\", \"content\": \"{PROMPT}\"}}]");
    let body = format!("{{\"messages\": {messages}, \"max_tokens\": 16, \"stream\": true}}");
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).map_err(fail)?;
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.find(|line| has_text(line)).ok_or("the stream of ounce serve ended without a text")?;
    Ok(milliseconds(began))
}

/// Whether a line of a stream has text of the answer: the first event only says who speaks.
fn has_text(line: &str) -> bool {
    let event = line.strip_prefix("data: ").and_then(|data| serde_json::from_str::<serde_json::Value>(data).ok());
    let text = |event: serde_json::Value| Some(event["choices"][0]["delta"]["content"].as_str()?.to_owned());
    event.and_then(text).is_some_and(|text| !text.is_empty())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// A program that runs until it is dropped.
struct Process {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Process {
    fn start(command: &mut Command) -> Result<Process, String> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("cannot start ounce: {e}"))?;
        let out = BufReader::new(child.stdout.take().ok_or("a piped output is there")?);
        Ok(Process { child, out })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_text_is_told_from_what_comes_before_it() {
        for line in ["", "8f", "HTTP/1.1 200 OK", "data: [DONE]", r#"data: {"choices":[{"delta":{"content":""}}]}"#] {
            assert!(!has_text(line), "{line}");
        }
        assert!(has_text(r#"data: {"choices":[{"delta":{"content":"The"}}]}"#));
    }
}
