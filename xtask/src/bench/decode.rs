//! One sequence at a time: `bench_decode` of the engine crate against llama.cpp's `llama-bench`, on the same files. Both
//! prefill a random prompt, and decode from an empty cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::machine::Machine;
use super::measure::Run;
use super::options::Options;
use super::table::{median, render, short, spread};
use super::{Entry, Peers, built, busy, file_name, in_turn, kept, medians};
use crate::{place, proc};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    /// Quantised weights with int8 products, as the rival computes.
    Ours,
    /// With the weights as they are in f32.
    Exact,
    Peer,
    /// Only memory of the file's size, read once for each token.
    Reading,
}

#[derive(Clone, Debug, PartialEq)]
struct Setting {
    who: Who,
    format: &'static str,
    file: PathBuf,
}

impl Setting {
    fn name(&self) -> String {
        let who = match self.who {
            Who::Ours => "Ounce",
            Who::Exact => "Ounce --exact",
            Who::Peer => "llama.cpp",
            Who::Reading => "reading alone",
        };
        format!("{}, {who}", self.format)
    }
}

pub fn run(options: &Options, peers: &Peers) -> Result<String, String> {
    let [peer, quantised] = peers.need(["llama/bin/llama-bench", "models/SmolLM2-135M-Instruct.Q4_1.gguf"])?;
    let mut files = vec![("Q4_1", quantised.clone())];
    if !options.quick {
        for format in ["Q4_0", "Q4_K_M", "Q8_0", "BF16"] {
            files.push((format, requantised(peers, &quantised, format)?));
        }
        // From `cargo xtask assets`.
        let gemma = place::assets().join("models/gemma-3-270m-q4_k_m.gguf");
        if gemma.exists() {
            files.push(("Gemma 3 270M Q4_K_M", gemma));
        }
    }
    let ounce = built("ounce-cli", None)?;
    let bench = built("ounce-engine", Some("bench_decode"))?;
    let before = Machine::measure(&ounce, options.threads)?;
    let command = |s: &Setting| command(s, options, if s.who == Who::Peer { &peer } else { &bench });
    let entries = in_turn(settings(&files), options.rounds, Setting::name, command, summary)?;
    let machine = before.best(Machine::measure(&ounce, options.threads)?);
    report(&entries, &machine, options)
}

fn settings(files: &[(&'static str, PathBuf)]) -> Vec<Setting> {
    let mut list = Vec::new();
    for (format, file) in files {
        let of = |who| Setting { who, format, file: file.clone() };
        list.extend([of(Who::Ours), of(Who::Reading), of(Who::Peer)]);
        // Dense weights have no int8 products to do without.
        if *format != "BF16" {
            list.push(of(Who::Exact));
        }
    }
    list
}

/// The model in another format: from the folder of the peers, else made by their own quantiser and kept.
fn requantised(peers: &Peers, model: &Path, format: &str) -> Result<PathBuf, String> {
    let name = format!("smollm2-{format}.gguf");
    let ready = peers.at("models/quants").join(&name);
    if ready.exists() {
        return Ok(ready);
    }
    let made = kept()?.join(&name);
    if !made.exists() {
        let [quantize] = peers.need(["llama/bin/llama-quantize"])?;
        let part = made.with_extension("tmp");
        proc::capture(Command::new(quantize).arg("--allow-requantize").args([model, &part]).args([format, "2"]))?;
        std::fs::rename(&part, &made).map_err(|e| format!("cannot name {}: {e}", made.display()))?;
    }
    Ok(made)
}

fn command(setting: &Setting, options: &Options, program: &Path) -> Command {
    let Options { prompt, tokens, threads, runs, .. } = options;
    let mut command = Command::new(program);
    let names = if setting.who == Who::Peer {
        command.args(["-o", "json", "-ngl", "0", "-m"]).arg(&setting.file);
        ["-p", "-n", "-t", "-r"]
    } else {
        command.arg(&setting.file);
        match setting.who {
            Who::Exact => drop(command.arg("--exact")),
            Who::Reading => drop(command.arg("--read")),
            Who::Ours | Who::Peer => {}
        }
        ["--prompt", "--tokens", "--threads", "--runs"]
    };
    for (name, value) in names.into_iter().zip([prompt, tokens, threads, runs]) {
        command.args([name, &value.to_string()]);
    }
    command
}

/// Tokens in a second: of the prompt, and after it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Speeds {
    prefill: f64,
    decode: f64,
}

/// Reading has no prompt. Ours prints one object; `llama-bench` a list with one object for each test, told apart by their numbers of tokens.
fn speeds(run: &Run) -> Result<Speeds, String> {
    if let Ok(decode) = run.number("reads_s") {
        return Ok(Speeds { prefill: f64::NAN, decode });
    }
    let Some(tests) = run.said.as_array() else {
        return Ok(Speeds { prefill: run.number("prefill_tok_s")?, decode: run.number("decode_tok_s")? });
    };
    let of = |some: &str, none: &str| {
        let test = tests.iter().find(|t| t[some].as_u64() > Some(0) && t[none] == 0);
        let samples: Option<Vec<f64>> =
            test.and_then(|t| t["samples_ts"].as_array()?.iter().map(|s| s.as_f64()).collect());
        let samples = samples.filter(|s| !s.is_empty());
        samples.map(|s| median(&s)).ok_or_else(|| format!("llama-bench has no samples of a test with {some} above 0"))
    };
    Ok(Speeds { prefill: of("n_prompt", "n_gen")?, decode: of("n_gen", "n_prompt")? })
}

fn summary(run: &Run) -> Result<String, String> {
    let Speeds { prefill, decode } = speeds(run)?;
    Ok(format!("prefill {}, decode {} tokens/s", short(prefill), short(decode)))
}

fn prefill(run: &Run) -> f64 {
    speeds(run).map_or(f64::NAN, |s| s.prefill)
}

fn decode(run: &Run) -> f64 {
    speeds(run).map_or(f64::NAN, |s| s.decode)
}

fn report(entries: &[Entry<Setting>], machine: &Machine, options: &Options) -> Result<String, String> {
    let mut rows = Vec::new();
    let mut sizes = Vec::new();
    for entry in entries {
        let file = &entry.setting.file;
        let bytes = file.metadata().map_err(|e| format!("cannot read {}: {e}", file.display()))?.len();
        let size = format!("{} {:.0} MiB", file_name(file), bytes as f64 / f64::from(1 << 20));
        if !sizes.contains(&size) {
            sizes.push(size);
        }
        rows.push(row(entry, entries, bytes as f64 / machine.dram_bytes_s));
    }
    let head = [
        "file and program",
        "prefill, tokens/s",
        "× rival",
        "decode, tokens/s",
        "× rival",
        "of the limit",
        "of reading alone",
        "first token, ms",
        "peak MiB",
        "× rival",
        "others, cores",
    ];
    let Options { prompt, tokens, rounds, runs, threads, .. } = options;
    Ok(format!(
        "Prefill of {prompt} tokens, decode of {tokens} from an empty cache, median of {runs} runs, {rounds} rounds in turn \
         (median and range), {threads} threads. Rival: `llama-bench -p {prompt} -n {tokens} -t {threads} -r {runs} -ngl 0`. \
         {}\n\n{}\nThe limit of decoding is reading the whole file once a token at the memory's best measured rate ({}); with the \
         file in a cache it can be passed. Reading alone is memory of the file's size read once a token by all threads, in turn with the others: \
         what memory gives for as long as decoding takes, beside the same neighbours. Ours includes the choice of the token and its probability, the rival's does not; \
         the first token is the time from the prompt to it. `others` is the load from outside, \
         at worst.{}",
        machine.describe(*threads),
        render(&head, &rows),
        sizes.join(", "),
        busy(entries),
    ))
}

/// `seconds` is what a token takes at the limit.
fn row(entry: &Entry<Setting>, entries: &[Entry<Setting>], seconds: f64) -> Vec<String> {
    let rival = |s: &Setting| s.who == Who::Peer && s.file == entry.setting.file;
    let alone = |s: &Setting| s.who == Who::Reading && s.file == entry.setting.file;
    let against = |figure: fn(&Run) -> f64| {
        let ours = median(&entry.runs.iter().map(figure).collect::<Vec<f64>>());
        short(ours / median(&medians(entries, rival, figure)))
    };
    let all = |figure: fn(&Run) -> f64| entry.runs.iter().map(figure).collect::<Vec<f64>>();
    let first: Vec<f64> = entry.runs.iter().filter_map(|r| r.number("first_token_s").ok()).map(|s| s * 1e3).collect();
    let others = all(|r| r.foreign_cores).into_iter().fold(0.0, f64::max);
    vec![
        entry.setting.name(),
        spread(&all(prefill)),
        against(prefill),
        spread(&all(decode)),
        against(decode),
        format!("{:.0} %", 100.0 * median(&all(decode)) * seconds),
        format!("{:.0} %", 100.0 * median(&all(decode)) / median(&medians(entries, alone, decode))),
        if first.is_empty() { "–".into() } else { short(median(&first)) },
        short(median(&all(|r| r.peak_mib))),
        against(|r| r.peak_mib),
        format!("{others:.2}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(said: serde_json::Value, peak_mib: f64) -> Run {
        Run { said, peak_mib, foreign_cores: 0.25 }
    }

    fn llama(prefill: [f64; 3], decode: [f64; 3]) -> serde_json::Value {
        json!([
            {"n_prompt": 512, "n_gen": 0, "samples_ts": prefill},
            {"n_prompt": 0, "n_gen": 128, "samples_ts": decode},
        ])
    }

    #[test]
    fn both_programs_output_is_read() {
        let want = Speeds { prefill: 300.0, decode: 50.0 };
        assert_eq!(speeds(&run(llama([300.0, 100.0, 310.0], [50.0, 60.0, 40.0]), 1.0)), Ok(want));
        let ours = json!({"prefill_tok_s": 300.0, "decode_tok_s": 50.0, "first_token_s": 0.1});
        assert_eq!(speeds(&run(ours, 1.0)), Ok(want));
        let short = json!([{"n_prompt": 512, "n_gen": 0, "samples_ts": [1.0]}]);
        assert!(speeds(&run(short, 1.0)).unwrap_err().contains("n_gen"));
        assert!(speeds(&run(json!({"prefill_tok_s": 1.0}), 1.0)).unwrap_err().contains("decode_tok_s"));
    }

    #[test]
    fn both_programs_get_the_same_file_and_numbers() {
        let options = Options::parse(&["--tokens", "8", "--runs", "1"]).unwrap();
        let list = settings(&[("Q4_1", "m.gguf".into()), ("BF16", "b.gguf".into())]);
        let shown = |i: usize| proc::shown(&command(&list[i], &options, Path::new("it")));
        assert_eq!(shown(0), "it m.gguf --prompt 512 --tokens 8 --threads 2 --runs 1");
        assert_eq!(shown(1), "it m.gguf --read --prompt 512 --tokens 8 --threads 2 --runs 1");
        assert_eq!(shown(2), "it -o json -ngl 0 -m m.gguf -p 512 -n 8 -t 2 -r 1");
        assert!(shown(3).contains("--exact"));
        assert_eq!(list.iter().map(|s| s.who).collect::<Vec<_>>()[4..], [Who::Ours, Who::Reading, Who::Peer]);
    }

    #[test]
    fn ratios_are_to_the_rival_on_the_same_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 30).unwrap();
        let list = settings(&[("BF16", file.path().into())]);
        let ours = json!({"prefill_tok_s": 900.0, "decode_tok_s": 20.0, "first_token_s": 0.5});
        let runs = [run(ours, 100.0), run(json!({"reads_s": 25.0}), 90.0), run(llama([300.0; 3], [10.0; 3]), 400.0)];
        let entries: Vec<Entry<Setting>> = list
            .into_iter()
            .zip(runs)
            .map(|(setting, run)| Entry { setting, runs: vec![run], failure: None })
            .collect();
        let dram_bytes_s = 40.0 * f64::from(1 << 30);
        let machine = Machine { words: "P".into(), f32_flops: 1.0, bf16_flops: 1.0, dram_bytes_s };
        let text = report(&entries, &machine, &Options::parse(&[]).unwrap()).unwrap();
        assert!(
            text.contains("| BF16, Ounce | 900 | 3.00 | 20.0 | 2.00 | 50 % | 80 % | 500 | 100 | 0.25 | 0.25 |"),
            "{text}"
        );
        assert!(
            text.contains("| BF16, llama.cpp | 300 | 1.00 | 10.0 | 1.00 | 25 % | 40 % | – | 400 | 1.00 | 0.25 |"),
            "{text}"
        );
        assert!(text.contains("1024 MiB"), "{text}");
    }
}
