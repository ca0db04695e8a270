//! Products and attention alone: `bench_kernels` of the kernels crate against PyTorch's oneDNN and MKL
//! (`xtask/bench/peer_kernels.py`), on the same list of shapes, each side as one process in turn.

use std::process::Command;

use serde_json::{Map, Value};

use super::machine::Machine;
use super::measure::Run;
use super::options::Options;
use super::table::{median, render, short};
use super::{Entry, Peers, built, busy, in_turn};
use crate::place;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Ours,
    /// Ours with the instruction set of processors without AVX-512.
    Avx2,
    Peer,
}

pub fn run(options: &Options, peers: &Peers) -> Result<String, String> {
    let [python] = peers.need(["venv/bin/python"])?;
    let bench = built("ounce-kernels", Some("bench_kernels"))?;
    let ounce = built("ounce-cli", None)?;
    let script = place::workspace().join("xtask/bench/peer_kernels.py");
    let threads = options.threads.to_string();
    let command = |who: &Who| {
        let mut command = match who {
            Who::Peer => {
                let mut command = Command::new(&python);
                command.arg(&script).env("OMP_NUM_THREADS", &threads);
                command
            }
            Who::Ours | Who::Avx2 => Command::new(&bench),
        };
        if *who == Who::Avx2 {
            command.args(["--table", "Avx2"]);
        }
        command.args(["--threads", &threads]);
        command
    };
    let name = |who: &Who| match who {
        Who::Ours => "Ounce".to_owned(),
        Who::Avx2 => "Ounce, AVX2".to_owned(),
        Who::Peer => "PyTorch".to_owned(),
    };
    let settings = if options.quick { vec![Who::Ours, Who::Peer] } else { vec![Who::Ours, Who::Peer, Who::Avx2] };
    let entries = in_turn(settings, options.rounds, name, command, summary)?;
    report(&entries, &Machine::measure(&ounce, options.threads)?, options)
}

fn cases(run: &Run) -> Option<&Map<String, Value>> {
    run.said["cases"].as_object()
}

fn summary(run: &Run) -> Result<String, String> {
    let cases = cases(run).ok_or_else(|| format!("the measurement has no cases: {}", run.said))?;
    Ok(format!("{} cases", cases.len()))
}

/// Median GFLOP/s of a case over the rounds of one side; NaN where it has no such case.
fn rate(entries: &[Entry<Who>], who: Who, case: &str) -> f64 {
    let runs = entries.iter().filter(|e| e.setting == who).flat_map(|e| &e.runs);
    median(&runs.filter_map(|run| cases(run)?.get(case)?.as_f64()).collect::<Vec<f64>>())
}

/// Our best measurement of a limit: others can only take from it.
fn limit(entries: &[Entry<Who>], who: Who, kind: &str) -> f64 {
    let runs = entries.iter().filter(|e| e.setting == who).flat_map(|e| &e.runs);
    runs.filter_map(|run| run.said["limits"][kind].as_f64()).fold(f64::NAN, f64::max)
}

fn report(entries: &[Entry<Who>], machine: &Machine, options: &Options) -> Result<String, String> {
    let names = entries.iter().find(|e| e.setting == Who::Ours).and_then(|e| e.runs.first()).and_then(cases);
    let names = names.ok_or("our kernels were not measured")?;
    let avx2 = entries.iter().any(|e| e.setting == Who::Avx2);
    let mut rows = Vec::new();
    let mut ratios = [Vec::new(), Vec::new()];
    for name in names.keys() {
        let bf16 = name.contains("bf16");
        let (ours, peer) = (rate(entries, Who::Ours, name), rate(entries, Who::Peer, name));
        let of = |who: Who, rate: f64| 100.0 * rate / limit(entries, who, if bf16 { "bf16" } else { "f32" });
        let mut row =
            vec![name.clone(), short(ours), format!("{:.0} %", of(Who::Ours, ours)), short(peer), short(ours / peer)];
        if (ours / peer).is_finite() {
            ratios[usize::from(bf16)].push(ours / peer);
        }
        if avx2 {
            let rate = rate(entries, Who::Avx2, name);
            row.extend([short(rate), format!("{:.0} %", of(Who::Avx2, rate)), short(rate / peer)]);
        }
        rows.push(row);
    }
    let mut head = vec!["work", "GFLOP/s", "of the limit", "PyTorch", "×"];
    if avx2 {
        head.extend(["AVX2 table", "of its limit", "×"]);
    }
    let versions = entries.iter().flat_map(|e| &e.runs).find_map(|r| r.said["versions"]["torch"].as_str());
    let [f32_ratio, bf16_ratio] = ratios.map(|r| short(median(&r)));
    let limits =
        |who: Who| format!("f32 {} and bf16 {}", short(limit(entries, who, "f32")), short(limit(entries, who, "bf16")));
    let table = if avx2 { format!(" With the AVX2 table: {}.", limits(Who::Avx2)) } else { String::new() };
    Ok(format!(
        "Median of at least five runs of 0.4 s, {} rounds in turn, {} threads. Rival: torch {}. {} Limits that stand beside \
         these runs, GFLOP/s: {}.{table}\n\n{}\nThe median ratio is {f32_ratio} in f32 and {bf16_ratio} in bf16. `nt` is x Wᵀ, \
         `nn` dy W, `tn` dyᵀ x; sizes are m×n×k. Attention is causal: sequences×tokens, query/key heads, head dimension; only \
         pairs that are seen count.{}",
        options.rounds,
        options.threads,
        versions.unwrap_or("?"),
        machine.describe(options.threads),
        limits(Who::Ours),
        render(&head, &rows),
        busy(entries),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cases_meet_by_name_and_are_held_against_the_limit_of_their_type() {
        let entry = |setting, said| Entry {
            setting,
            runs: vec![Run { said, peak_mib: 1.0, foreign_cores: 0.0 }],
            failure: None,
        };
        let entries = [
            entry(
                Who::Ours,
                json!({"limits": {"f32": 100.0, "bf16": 200.0}, "cases": {"nt f32 a": 80.0, "nt bf16 a": 150.0, "nt bf16, weights Q8_0 a": 140.0}}),
            ),
            entry(Who::Peer, json!({"versions": {"torch": "2"}, "cases": {"nt f32 a": 40.0, "nt bf16 a": 100.0}})),
        ];
        let machine = Machine { words: "P".into(), f32_flops: 1e11, bf16_flops: 2e11, dram_bytes_s: 1e10 };
        let text = report(&entries, &machine, &Options::parse(&[]).unwrap()).unwrap();
        for line in [
            "| nt f32 a | 80.0 | 80 % | 40.0 | 2.00 |",
            "| nt bf16 a | 150 | 75 % | 100 | 1.50 |",
            "| nt bf16, weights Q8_0 a | 140 | 70 % | – | – |",
            "The median ratio is 2.00 in f32 and 1.50 in bf16.",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(summary(&Run { said: json!({}), peak_mib: 1.0, foreign_cores: 0.0 }).unwrap_err().contains("no cases"));
    }
}
