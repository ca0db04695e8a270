//! What a second core brings, and what is left when another process takes one: training and decoding on one thread, on two,
//! and on two with one of the cores taken, ours and the rivals' in turn.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::machine::Machine;
use super::measure::Run;
use super::options::Options;
use super::table::{median, render, short};
use super::{Entry, Peers, built, in_turn};
use crate::place;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Program {
    Ours,
    PyTorch,
    OurDecoding,
    LlamaCpp,
}

impl Program {
    const ALL: [Program; 4] = [Program::Ours, Program::PyTorch, Program::OurDecoding, Program::LlamaCpp];

    fn name(self) -> &'static str {
        match self {
            Program::Ours => "LoRA bf16, Ounce",
            Program::PyTorch => "LoRA bf16, PyTorch",
            Program::OurDecoding => "Q4_1, Ounce",
            Program::LlamaCpp => "Q4_1, llama.cpp",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Cores {
    One,
    Two,
    /// Two threads, and a process that never rests is bound to one of the cores.
    OneTaken,
}

impl Cores {
    const ALL: [Cores; 3] = [Cores::One, Cores::Two, Cores::OneTaken];

    fn name(self) -> &'static str {
        match self {
            Cores::One => "1 thread",
            Cores::Two => "2 threads",
            Cores::OneTaken => "2 threads, one core taken",
        }
    }
}

type Setting = (Program, Cores);

struct Files {
    train: PathBuf,
    decode: PathBuf,
    script: PathBuf,
    python: PathBuf,
    llama: PathBuf,
    quantised: PathBuf,
    folder: PathBuf,
    tokens: PathBuf,
}

pub fn run(options: &Options, peers: &Peers) -> Result<String, String> {
    let [python, llama, quantised, folder, tokens] = peers.need([
        "venv/bin/python",
        "llama/bin/llama-bench",
        "models/SmolLM2-135M-Instruct.Q4_1.gguf",
        "models/smollm2-135m-hf-bf16",
        "data/train.u16.bin",
    ])?;
    let train = built("ounce-train", Some("bench_train"))?;
    let decode = built("ounce-engine", Some("bench_decode"))?;
    let ounce = built("ounce-cli", None)?;
    let script = place::workspace().join("xtask/bench/peer_train.py");
    let files = Files { train, decode, script, python, llama, quantised, folder, tokens };
    // Measured at the same time as nothing else, and so before the core is taken for the first time.
    let machine = Machine::measure(&ounce, 2)?;
    let mut entries: Vec<Entry<Setting>> = Vec::new();
    for cores in Cores::ALL {
        let settings = Program::ALL.into_iter().map(|program| (program, cores)).collect();
        let taken = (cores == Cores::OneTaken).then(Spinner::start).transpose()?;
        let name = |s: &Setting| format!("{}, {}", s.0.name(), s.1.name());
        entries.extend(in_turn(settings, options.rounds, name, |s| command(*s, options, &files), summary)?);
        drop(taken);
    }
    report(&entries, &machine, options)
}

/// A process that keeps one core busy until it is dropped.
struct Spinner(Child);

impl Spinner {
    fn start() -> Result<Spinner, String> {
        let mut command = Command::new("taskset");
        command.args(["-c", "1", "sh", "-c", "while :; do :; done"]).stdin(Stdio::null());
        command.spawn().map(Spinner).map_err(|e| format!("cannot start taskset (package util-linux): {e}"))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        // It may have been ended by someone else: then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command((program, cores): Setting, options: &Options, files: &Files) -> Command {
    let threads = if cores == Cores::One { "1" } else { "2" };
    let number = |n: usize| n.to_string();
    let rows = |command: &mut Command| {
        let (batch, length, steps) = (number(options.batch), number(options.length), number(options.steps));
        command.args(["--batch", &batch, "--length", &length, "--steps", &steps, "--threads", threads]);
    };
    let of = |program: &Path| Command::new(program);
    let (prompt, tokens, runs) = (number(options.prompt), number(options.tokens), number(options.runs));
    match program {
        Program::Ours => {
            let mut command = of(&files.train);
            command.arg(&files.quantised).arg(&files.tokens);
            rows(&mut command);
            command
        }
        Program::PyTorch => {
            let mut command = of(&files.python);
            command
                .arg(&files.script)
                .arg(&files.folder)
                .arg(&files.tokens)
                .args(["--mode", "lora", "--dtype", "bf16"]);
            command.env("OMP_NUM_THREADS", threads);
            rows(&mut command);
            command
        }
        Program::OurDecoding => {
            let mut command = of(&files.decode);
            command.arg(&files.quantised);
            command.args(["--prompt", &prompt, "--tokens", &tokens, "--runs", &runs, "--threads", threads]);
            command
        }
        Program::LlamaCpp => {
            let mut command = of(&files.llama);
            command.args(["-o", "json", "-ngl", "0", "-m"]).arg(&files.quantised);
            command.args(["-p", &prompt, "-n", &tokens, "-r", &runs, "-t", threads]);
            command
        }
    }
}

/// What a run measured, by the kind of its work.
fn figures(said: &Value) -> Vec<(&'static str, f64)> {
    if let Some(tests) = said.as_array() {
        let of = |some: &str| tests.iter().find(|t| t[some].as_u64() > Some(0)).and_then(|t| t["avg_ts"].as_f64());
        return [("prefill", of("n_prompt")), ("decode", of("n_gen"))].into_iter().filter_map(found).collect();
    }
    let of = |name: &str| said[name].as_f64();
    let named = [("training", of("tok_s")), ("prefill", of("prefill_tok_s")), ("decode", of("decode_tok_s"))];
    named.into_iter().filter_map(found).collect()
}

fn found((kind, rate): (&'static str, Option<f64>)) -> Option<(&'static str, f64)> {
    Some((kind, rate?))
}

fn summary(run: &Run) -> Result<String, String> {
    let figures = figures(&run.said);
    if figures.is_empty() {
        return Err(format!("the measurement has no rates: {}", run.said));
    }
    let said: Vec<String> = figures.iter().map(|(kind, rate)| format!("{kind} {} tokens/s", short(*rate))).collect();
    Ok(said.join(", "))
}

fn report(entries: &[Entry<Setting>], machine: &Machine, options: &Options) -> Result<String, String> {
    let mut rows = Vec::new();
    for kind in ["training", "prefill", "decode"] {
        for program in Program::ALL {
            let rate = |cores: Cores| {
                let runs = entries.iter().filter(|e| e.setting == (program, cores)).flat_map(|e| &e.runs);
                let of = |run: &Run| figures(&run.said).into_iter().find(|f| f.0 == kind).map(|f| f.1);
                median(&runs.filter_map(of).collect::<Vec<f64>>())
            };
            let [one, two, taken] = Cores::ALL.map(rate);
            if two.is_nan() {
                continue;
            }
            rows.push(vec![
                format!("{kind}, {}", program.name()),
                short(one),
                short(two),
                short(two / one),
                short(taken),
                format!("{:.0} %", 100.0 * taken / two),
                short(two / taken),
            ]);
        }
    }
    let head = ["work, tokens/s", "1 thread", "2 threads", "×", "2 threads, one core taken", "left", "times as long"];
    let quiet = entries.iter().filter(|e| e.setting.1 != Cores::OneTaken).flat_map(|e| &e.runs);
    let others = quiet.map(|r| r.foreign_cores).fold(0.0, f64::max);
    let Options { batch, length, steps, prompt, tokens, rounds, .. } = options;
    Ok(format!(
        "SmolLM2-135M. Training: LoRA r=8, {batch} × {length} tokens a step, median of {steps} steps after one. Prefill of \
         {prompt} tokens, decode of {tokens}. {rounds} rounds in turn. The core is taken by a process that never rests, \
         bound to it. {} Load from outside, at worst, while no core was taken: {others:.2} cores.\n\n{}",
        machine.describe(2),
        render(&head, &rows),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rates_of_every_program_are_read() {
        assert_eq!(figures(&json!({"tok_s": 5.0})), [("training", 5.0)]);
        assert_eq!(figures(&json!({"prefill_tok_s": 9.0, "decode_tok_s": 3.0})), [("prefill", 9.0), ("decode", 3.0)]);
        let llama = json!([{"n_prompt": 512, "n_gen": 0, "avg_ts": 7.0}, {"n_prompt": 0, "n_gen": 128, "avg_ts": 2.0}]);
        assert_eq!(figures(&llama), [("prefill", 7.0), ("decode", 2.0)]);
        let run = Run { said: json!({}), peak_mib: 0.0, foreign_cores: 0.0 };
        assert!(summary(&run).unwrap_err().contains("no rates"));
    }

    #[test]
    fn a_taken_core_is_held_against_both_free() {
        let entry = |cores, rate: f64| Entry {
            setting: (Program::Ours, cores),
            runs: vec![Run { said: json!({"tok_s": rate}), peak_mib: 1.0, foreign_cores: 0.1 }],
            failure: None,
        };
        let entries = [entry(Cores::One, 50.0), entry(Cores::Two, 90.0), entry(Cores::OneTaken, 45.0)];
        let machine = Machine { words: "P".into(), f32_flops: 1e11, bf16_flops: 2e11, dram_bytes_s: 1e10 };
        let text = report(&entries, &machine, &Options::parse(&[]).unwrap()).unwrap();
        assert!(text.contains("| training, LoRA bf16, Ounce | 50.0 | 90.0 | 1.80 | 45.0 | 50 % | 2.00 |"), "{text}");
        assert!(text.contains("at worst, while no core was taken: 0.10 cores"));
    }
}
