//! Training: `bench_train` of the train crate against PyTorch + transformers + PEFT (`xtask/bench/peer_train.py`), on the
//! same rows of tokens. The work of a token is what our kernels count, without what recomputation adds; both sides' fractions
//! of the limit are of that work.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::machine::Machine;
use super::measure::Run;
use super::options::Options;
use super::table::{median, render, short, spread};
use super::{Entry, Peers, built, busy, in_turn, kept, medians};
use crate::{place, proc};

/// More blocks than a model has: all of them are recomputed.
const ALL_BLOCKS: &str = "1000";

/// Full tuning that holds least: no f32 weights, moments in 8 bits, no buffer of gradients.
const SMALL: &[&str] = &["--master-weights", "none", "--optimizer-state", "8bit", "--gradients", "update_now"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Method {
    Lora,
    Full,
}

/// The type of the products. Settings are compared within a method and a type.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Compute {
    Bf16,
    F32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Setting {
    peer: bool,
    method: Method,
    compute: Compute,
    /// In words, for the table.
    what: &'static str,
    /// Ours: the quantised file instead of the bf16 folder.
    quantised: bool,
    flags: &'static [&'static str],
}

impl Setting {
    fn name(&self) -> String {
        let who = if self.peer { "PyTorch" } else { "Ounce" };
        let method = if self.method == Method::Lora { "LoRA" } else { "full" };
        format!("{who}, {method}, {}", self.what)
    }

    fn same_work(&self, other: &Setting) -> bool {
        (self.method, self.compute) == (other.method, other.compute)
    }
}

/// Ours and the rival's in turn, the comparisons that matter most first.
fn settings(options: &Options) -> Vec<Setting> {
    use Compute::{Bf16, F32};
    use Method::{Full, Lora};
    let ours =
        |method, compute, what, quantised, flags| Setting { peer: false, method, compute, what, quantised, flags };
    let peer = |method, compute, what, flags| Setting { peer: true, method, compute, what, quantised: false, flags };
    let all: &[&str] = &["--recompute", ALL_BLOCKS];
    let whole: &[&str] = &["--micro-batch-tokens", "0"];
    let mut list = vec![
        ours(Lora, Bf16, "bf16, Q4_1 file", true, &[]),
        peer(Lora, Bf16, "bf16", &["--dtype", "bf16"]),
        ours(Lora, Bf16, "bf16, Q4_1 file, batch not cut", true, whole),
        peer(Lora, Bf16, "bf16, checkpointing", &["--dtype", "bf16", "--ckpt"]),
        ours(Lora, Bf16, "bf16, bf16 folder", false, &[]),
    ];
    if !options.quick {
        list.extend([
            ours(Lora, Bf16, "bf16, Q4_1 file, all blocks recomputed", true, all),
            ours(Full, Bf16, "bf16 products, f32 weights", false, &[]),
            peer(Full, Bf16, "pure bf16", &["--dtype", "bf16"]),
            ours(Full, Bf16, "bf16 products, f32 weights, all blocks recomputed", false, all),
            peer(Full, Bf16, "autocast, f32 weights, checkpointing", &["--dtype", "bf16amp", "--ckpt"]),
            peer(Lora, Bf16, "autocast, f32 weights", &["--dtype", "bf16amp"]),
            ours(Lora, F32, "f32, Q4_1 file", true, &[]),
            peer(Lora, F32, "f32", &["--dtype", "f32"]),
            ours(Full, F32, "f32", false, &[]),
            peer(Full, F32, "f32", &["--dtype", "f32"]),
            ours(Lora, F32, "f32, Q4_1 file, AVX2 table", true, &["--table", "Avx2"]),
            ours(Full, F32, "f32, AVX2 table", false, &["--table", "Avx2"]),
            ours(Full, Bf16, "bf16 weights and states, updated at once", false, SMALL),
            peer(Full, Bf16, "autocast, f32 weights", &["--dtype", "bf16amp"]),
        ]);
    }
    if options.compile {
        list.push(peer(Lora, Bf16, "bf16, compiled", &["--dtype", "bf16", "--compile"]));
        if !options.quick {
            list.push(peer(Full, Bf16, "pure bf16, compiled", &["--dtype", "bf16", "--compile"]));
        }
    }
    list
}

/// The files that runs read.
struct Files {
    bench: PathBuf,
    python: PathBuf,
    script: PathBuf,
    folder: PathBuf,
    quantised: PathBuf,
    tokens: PathBuf,
    init: PathBuf,
}

pub fn run(options: &Options, peers: &Peers) -> Result<String, String> {
    let [python, folder, quantised, tokens] = peers.need([
        "venv/bin/python",
        "models/smollm2-135m-hf-bf16",
        "models/SmolLM2-135M-Instruct.Q4_1.gguf",
        "data/train.u16.bin",
    ])?;
    let ounce = built("ounce-cli", None)?;
    let bench = built("ounce-train", Some("bench_train"))?;
    let script = place::workspace().join("xtask/bench/peer_train.py");
    let init = first_adapter(&python, &script, &folder)?;
    let files = Files { bench, python, script, folder, quantised, tokens, init };
    let before = Machine::measure(&ounce, options.threads)?;
    let entries = in_turn(settings(options), options.rounds, Setting::name, |s| command(s, options, &files), summary)?;
    let machine = before.best(Machine::measure(&ounce, options.threads)?);
    report(&entries, &machine, options)
}

/// The adapter that both sides begin with; PEFT makes it once.
fn first_adapter(python: &Path, script: &Path, model: &Path) -> Result<PathBuf, String> {
    let init = kept()?.join("lora-init");
    // The folder gets its name when it is whole: one that was cut off is made again.
    if !init.exists() {
        let part = init.with_extension("tmp");
        proc::capture(Command::new(python).arg(script).arg(model).arg("--save-init").arg(&part))?;
        std::fs::rename(&part, &init).map_err(|e| format!("cannot name {}: {e}", init.display()))?;
    }
    Ok(init)
}

fn command(setting: &Setting, options: &Options, files: &Files) -> Command {
    let lora = setting.method == Method::Lora;
    let method = if lora { "lora" } else { "full" };
    let mut command = if setting.peer {
        let mut command = Command::new(&files.python);
        command.arg(&files.script).arg(&files.folder).arg(&files.tokens).args(["--mode", method]);
        // The thread pools of OpenMP and MKL are made before a script can say their size.
        command.env("OMP_NUM_THREADS", options.threads.to_string());
        command
    } else {
        let mut command = Command::new(&files.bench);
        command.arg(if setting.quantised { &files.quantised } else { &files.folder }).arg(&files.tokens);
        let compute = if setting.compute == Compute::Bf16 { "bf16" } else { "f32" };
        command.args(["--method", method, "--compute", compute]);
        command
    };
    if lora {
        command.arg("--init").arg(&files.init);
    }
    command.args(setting.flags);
    let Options { batch, length, steps, threads, .. } = options;
    for (name, value) in [("--batch", batch), ("--length", length), ("--steps", steps), ("--threads", threads)] {
        command.args([name, &value.to_string()]);
    }
    command
}

/// Also the check that a run has every number that the table needs.
fn summary(run: &Run) -> Result<String, String> {
    let (first, last) = losses(run).ok_or_else(|| format!("the measurement has no losses: {}", run.said))?;
    Ok(format!("{} tokens/s, loss {first:.4} → {last:.4}", short(run.number("tok_s")?)))
}

fn losses(run: &Run) -> Option<(f64, f64)> {
    let losses = run.said["losses"].as_array()?;
    Some((losses.first()?.as_f64()?, losses.last()?.as_f64()?))
}

fn tok_s(run: &Run) -> f64 {
    run.number("tok_s").unwrap_or(f64::NAN)
}

/// Floating-point operations of a token, from the cheapest of our settings of that method: the one that recomputes least.
fn flop_of_a_token(entries: &[Entry<Setting>], method: Method, options: &Options) -> f64 {
    let ours = entries.iter().filter(|e| !e.setting.peer && e.setting.method == method).flat_map(|e| &e.runs);
    let counted = ours.filter_map(|run| {
        let kernels = run.said["work"].as_object()?.values();
        Some(kernels.filter_map(|k| k["gflop"].as_f64()).sum::<f64>() * 1e9)
    });
    counted.min_by(f64::total_cmp).unwrap_or(f64::NAN) / (options.batch * options.length) as f64
}

fn report(entries: &[Entry<Setting>], machine: &Machine, options: &Options) -> Result<String, String> {
    let mut rows = Vec::new();
    for method in [Method::Lora, Method::Full] {
        let flop = flop_of_a_token(entries, method, options);
        for compute in [Compute::Bf16, Compute::F32] {
            let limit = if compute == Compute::Bf16 { machine.bf16_flops } else { machine.f32_flops };
            let group = entries.iter().filter(|e| (e.setting.method, e.setting.compute) == (method, compute));
            for entry in group {
                rows.push(row(entry, entries, flop / limit)?);
            }
        }
    }
    let head = [
        "setting",
        "tokens/s",
        "× rival's best",
        "peak MiB",
        "× rival's lowest",
        "of the limit",
        "loss",
        "others, cores",
    ];
    let Options { batch, length, steps, rounds, threads, .. } = options;
    let versions = entries.iter().flat_map(|e| &e.runs).find_map(|r| r.said["versions"].as_object());
    let versions: Vec<String> =
        versions.into_iter().flatten().map(|(k, v)| format!("{k} {}", v.as_str().unwrap_or("?"))).collect();
    let profile = profile(entries, machine);
    let per_token = |method| short(flop_of_a_token(entries, method, options) / 1e9);
    Ok(format!(
        "SmolLM2-135M, AdamW, {batch} × {length} tokens a step, median of {steps} steps after one, {rounds} rounds in turn \
         (median and range), {threads} threads. Rival: {}. {}\n\n{}\nThe limit is the measured rate for the type of the \
         products; the work is {} GFLOP a token with LoRA and {} in full, recomputation not counted. Losses: first and last \
         step; LoRA begins at the same adapter on both sides. `others` is the load from outside, at worst.{}\n\n{profile}",
        versions.join(", "),
        machine.describe(*threads),
        render(&head, &rows),
        per_token(Method::Lora),
        per_token(Method::Full),
        busy(entries),
    ))
}

/// Where our time goes, by kind of work: the last step of each of our settings.
fn profile(entries: &[Entry<Setting>], machine: &Machine) -> String {
    let mut rows = Vec::new();
    for entry in entries.iter().filter(|e| !e.setting.peer) {
        let Some(said) = entry.runs.last().map(|r| &r.said) else { continue };
        let limit = if entry.setting.compute == Compute::Bf16 { machine.bf16_flops } else { machine.f32_flops };
        let step_s = said["last_step_s"].as_f64().unwrap_or(f64::NAN);
        let mut row = vec![entry.setting.name(), short(step_s)];
        let mut rest_s = step_s;
        for kinds in [&["MatmulF32", "MatmulBf16"][..], &["Attention", "AttentionBwd"], &["Skinny"]] {
            let sum = |what: &str| kinds.iter().filter_map(|k| said["work"][*k][what].as_f64()).sum::<f64>();
            let (gflop, seconds) = (sum("gflop"), sum("s"));
            rest_s -= seconds;
            let share = 100.0 * seconds / step_s;
            row.push(format!("{share:.0} % at {:.0} %", 100.0 * gflop * 1e9 / seconds.max(1e-12) / limit));
        }
        row.push(format!("{:.0} %", 100.0 * rest_s / step_s));
        rows.push(row);
    }
    let head = ["where the time goes", "step, s", "products", "attention", "adapters", "all else"];
    format!("{}\nEach as its share of the step, at this share of the limit.", render(&head, &rows))
}

/// `seconds` is what a token takes at the limit.
fn row(entry: &Entry<Setting>, entries: &[Entry<Setting>], seconds: f64) -> Result<Vec<String>, String> {
    let rival = |s: &Setting| s.peer && s.same_work(&entry.setting);
    let best = medians(entries, rival, tok_s).into_iter().fold(f64::NAN, f64::max);
    let lowest = medians(entries, rival, |r| r.peak_mib).into_iter().fold(f64::NAN, f64::min);
    let speeds: Vec<f64> = entry.runs.iter().map(tok_s).collect();
    let peaks: Vec<f64> = entry.runs.iter().map(|r| r.peak_mib).collect();
    let others = entry.runs.iter().map(|r| r.foreign_cores).fold(0.0, f64::max);
    let (first, last) = entry.runs.last().and_then(losses).ok_or("a setting was not run")?;
    Ok(vec![
        entry.setting.name(),
        spread(&speeds),
        short(median(&speeds) / best),
        short(median(&peaks)),
        short(median(&peaks) / lowest),
        format!("{:.0} %", 100.0 * median(&speeds) * seconds),
        format!("{first:.4} → {last:.4}"),
        format!("{others:.2}"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn options(args: &[&str]) -> Options {
        Options::parse(args).unwrap()
    }

    fn entry(setting: Setting, tok_s: f64, peak_mib: f64, gflop: f64) -> Entry<Setting> {
        let mut said = json!({"tok_s": tok_s, "losses": [3.0, 2.5]});
        if gflop > 0.0 {
            said["work"] = json!({"MatmulBf16": {"gflop": gflop}, "Softmax": {"gflop": 0.0}});
        }
        Entry { setting, runs: vec![Run { said, peak_mib, foreign_cores: 0.1 }], failure: None }
    }

    #[test]
    fn ours_and_the_rivals_alternate() {
        for args in [&["--quick"][..], &[], &["--compile"]] {
            let list = settings(&options(args));
            let in_turn = list.windows(2).filter(|w| w[0].peer != w[1].peer).count();
            assert!(in_turn >= list.len() / 2 && !list[0].peer, "{args:?}");
            // Each of ours has a rival to be held against.
            let rival = |o: &Setting| list.iter().any(|p| p.peer && p.same_work(o));
            assert!(list.iter().all(rival), "{args:?}");
        }
        let compiled = |args: &[&str]| settings(&options(args)).iter().any(|s| s.flags.contains(&"--compile"));
        assert!(compiled(&["--compile"]) && !compiled(&[]));
    }

    #[test]
    fn both_sides_get_the_same_rows_steps_and_adapter() {
        let path = PathBuf::from;
        let files = Files {
            bench: path("bench"),
            python: path("python"),
            script: path("peer.py"),
            folder: path("hf"),
            quantised: path("q.gguf"),
            tokens: path("t.bin"),
            init: path("init"),
        };
        let options = options(&["--steps", "1", "--length", "8"]);
        let list = settings(&options);
        let shown = |s: &Setting| proc::shown(&command(s, &options, &files));
        let tail = "--batch 4 --length 8 --steps 1 --threads 2";
        assert_eq!(shown(&list[0]), format!("bench q.gguf t.bin --method lora --compute bf16 --init init {tail}"));
        assert_eq!(shown(&list[1]), format!("python peer.py hf t.bin --mode lora --init init --dtype bf16 {tail}"));
        let full = list.iter().find(|s| s.method == Method::Full).unwrap();
        assert!(!shown(full).contains("--init") && shown(full).starts_with("bench hf "));
    }

    #[test]
    fn ratios_are_to_the_rivals_best_and_the_work_is_that_without_recomputation() {
        let options = options(&["--batch", "1", "--length", "100"]);
        let list = settings(&options);
        // 100 GFLOP a step are 1 GFLOP a token; the recomputing run counts more.
        let entries = [
            entry(list[0], 500.0, 400.0, 100.0),
            entry(list[1], 250.0, 1000.0, 0.0),
            entry(list[2], 400.0, 200.0, 130.0),
            entry(list[3], 200.0, 800.0, 0.0),
        ];
        let machine = Machine { words: "P".into(), f32_flops: 5e11, bf16_flops: 1e12, dram_bytes_s: 1e10 };
        let text = report(&entries, &machine, &options).unwrap();
        let lines: Vec<&str> =
            text.lines().filter(|l| l.starts_with("| Ounce") || l.starts_with("| PyTorch")).collect();
        assert_eq!(
            lines[0],
            "| Ounce, LoRA, bf16, Q4_1 file | 500 | 2.00 | 400 | 0.50 | 50 % | 3.0000 → 2.5000 | 0.10 |"
        );
        assert!(lines[1].contains("| 250 | 1.00 | 1000 | 1.25 | 25 % |"), "{}", lines[1]);
        assert!(lines[2].contains("| 400 | 1.60 | 200 | 0.25 | 40 % |"), "{}", lines[2]);
    }

    #[test]
    fn a_run_without_its_figures_is_refused() {
        let run = |said| Run { said, peak_mib: 1.0, foreign_cores: 0.0 };
        assert!(summary(&run(json!({"tok_s": 2.0, "losses": [3.0, 2.0]}))).unwrap().contains("3.0000 → 2.0000"));
        assert!(summary(&run(json!({"losses": [3.0]}))).unwrap_err().contains("tok_s"));
        assert!(summary(&run(json!({"tok_s": 2.0}))).unwrap_err().contains("losses"));
    }
}
