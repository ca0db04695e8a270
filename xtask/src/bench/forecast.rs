//! Forecast against actual: `ounce tune` on the referral notes in settings unlike each other, a few steps each, and what its
//! summaries say. Knows no rivals but needs the folder's models.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::measure::{self, Run};
use super::options::Options;
use super::table::{render, short};
use super::{Entry, Peers, built, busy, in_turn, kept};
use crate::place;

/// What a run is called, and its flags after the common ones; `{bf16}` first: on the directory instead of the file.
const SETTINGS: [(&str, &str); 22] = [
    ("LoRA r=8, Q4_1, 1 × 512", "--batch-size 1"),
    ("LoRA r=8, Q4_1, 4 × 512", "--batch-size 4"),
    ("the same, batch not cut", "--batch-size 4 --set micro_batch_tokens=0"),
    ("LoRA r=16, Q4_1, 4 × 256", "--batch-size 4 --max-length 256 --rank 16"),
    ("LoRA r=8, Q4_1, 8 examples, no packing", "--batch-size 8 --set data.packing=false"),
    ("LoRA r=8, Q4_1, 2 × 512, recomputed", "--batch-size 2 --set activations=recompute"),
    ("LoRA r=8, Q4_1, 1 × 512, f32", "--batch-size 1 --compute f32"),
    ("LoRA r=8, Q4_1, 2 × 512, q and v only", "--batch-size 2 --set lora.target=[q_proj,v_proj]"),
    ("LoRA r=8, Q4_1, 4 × 512, not cut, `--mem 400MiB`", "--batch-size 4 --set micro_batch_tokens=1024 --mem 400MiB"),
    ("LoRA r=64, Q4_1, 2 × 512", "--batch-size 2 --rank 64"),
    ("LoRA r=8, bf16 directory, 2 × 512", "{bf16} --batch-size 2"),
    ("LoRA r=8, bf16 directory, 1 × 512, accumulated twice", "{bf16} --batch-size 1 --gradient-accumulation 2"),
    ("full, Q4_1, 1 × 512", "--method full --batch-size 1"),
    ("full, Q4_1, 1 × 512, f32, SGD", "--method full --batch-size 1 --compute f32 --set optimizer.name=sgd"),
    (
        "full, bf16 directory, 1 × 512, bf16 weights, 8-bit states, updated at once",
        "{bf16} --method full --batch-size 1 --set master_weights=none --set optimizer.state=8bit --set gradients=update_now \
         --set max_grad_norm=0",
    ),
    ("full, Q4_1, 2 × 512, recomputed", "--method full --batch-size 2 --set activations=recompute"),
    ("LoRA r=8, Q4_1, 1 × 2048", "--batch-size 1 --set data.max_length=2048"),
    ("LoRA r=8, Q4_1, 16 × 128", "--batch-size 16 --set data.max_length=128"),
    ("LoRA r=8, bf16 directory, 1 × 512, `--mem 300MiB`", "{bf16} --batch-size 1 --mem 300MiB"),
    ("LoRA r=8, Q4_1, 1 × 512, f16", "--batch-size 1 --compute f16"),
    ("LoRA r=8, Q4_1, 1 × 2048, offloaded", "--batch-size 1 --set data.max_length=2048 --set activations=offload"),
    (
        "full, Q4_1, 1 × 512, updated at once, `--mem 400MiB`",
        "--method full --batch-size 1 --set gradients=update_now --set max_grad_norm=0 --mem 400MiB",
    ),
];

struct Setting {
    name: &'static str,
    flags: Vec<&'static str>,
    model: PathBuf,
    out: PathBuf,
}

pub fn run(options: &Options, peers: &Peers) -> Result<String, String> {
    let [file, directory] = peers.need(["models/SmolLM2-135M-Instruct.Q4_1.gguf", "models/smollm2-135m-hf-bf16"])?;
    let ounce = built("ounce-cli", None)?;
    // Runs of an earlier time would be in the way.
    let folder = kept()?.join("forecast");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|e| format!("cannot remove {}: {e}", folder.display()))?;
    }
    std::fs::create_dir(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    let settings = SETTINGS.iter().enumerate().map(|(i, &(name, flags))| {
        let rest = flags.strip_prefix("{bf16}");
        let model = if rest.is_some() { directory.clone() } else { file.clone() };
        let flags = rest.unwrap_or(flags).split_whitespace().collect();
        Setting { name, flags, model, out: folder.join(i.to_string()) }
    });
    let entries = in_turn(
        settings.collect(),
        1,
        |s| s.name.into(),
        |s| command(s, options, &ounce),
        |r| Figures::of(r).map(|f| f.say()),
    )?;
    report(&entries, options)
}

/// The run, and then its summary on stdout for the measurement to read; the run itself, of up to 3 GB, is not kept.
fn command(setting: &Setting, options: &Options, ounce: &Path) -> Command {
    let mut command = Command::new("sh");
    command.current_dir(place::workspace());
    command
        .args(["-c", r#"out=$1; shift; "$@" >/dev/null && cat "$out/summary.json" && rm -r "$out""#, "sh"])
        .arg(&setting.out);
    command.arg(ounce).arg("tune").arg(&setting.model).args(["--quiet", "--data", "examples/referral/train.jsonl"]);
    command.args(["--set", "data.valid_share=0", "--set", "data.max_length=512", "--threads"]);
    command.arg(options.threads.to_string()).args(["--max-steps", &options.steps.to_string()]);
    command.args(&setting.flags).arg("--out").arg(&setting.out);
    command
}

/// Memory in MiB and seconds of a step: forecast, actual.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figures {
    memory: (f64, f64),
    step: (f64, f64),
}

impl Figures {
    fn of(run: &Run) -> Result<Figures, String> {
        let number = |path: &str| {
            let value: Option<&Value> = run.said.pointer(path);
            value.and_then(Value::as_f64).ok_or_else(|| format!("the summary has no number at {path}"))
        };
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        Ok(Figures {
            memory: (mib(number("/forecast/memory/total_bytes")?), mib(number("/peak_memory_bytes")?)),
            step: (number("/forecast/time/step_s")?, number("/step_s")?),
        })
    }
    /// By how much the forecast was too high, in percent.
    fn off((forecast, actual): (f64, f64)) -> f64 {
        100.0 * (forecast / actual - 1.0)
    }
    fn say(&self) -> String {
        format!("memory {:+.1} %, time {:+.1} %", Figures::off(self.memory), Figures::off(self.step))
    }
}

fn report(entries: &[Entry<Setting>], options: &Options) -> Result<String, String> {
    let mut rows = Vec::new();
    let (mut memory, mut time) = (Vec::new(), Vec::new());
    for entry in entries {
        let run: &measure::Run = entry.runs.first().ok_or("a setting was not run")?;
        let f = Figures::of(run)?;
        let (m, t) = (Figures::off(f.memory), Figures::off(f.step));
        memory.push(m.abs());
        time.push(t.abs());
        rows.push(vec![
            entry.setting.name.into(),
            short(f.memory.0),
            short(f.memory.1),
            format!("{m:+.1} %"),
            short(f.step.0),
            short(f.step.1),
            format!("{t:+.1} %"),
            format!("{:.2}", run.foreign_cores),
        ]);
    }
    let head = ["run", "forecast MiB", "actual", "", "forecast s/step", "actual", "", "others, cores"];
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len().max(1) as f64;
    let most = |v: &[f64]| v.iter().copied().fold(0.0, f64::max);
    Ok(format!(
        "Steps of SmolLM2-135M on the referral notes, {} each, median step, {} threads. Memory is off by {:.1} % on average and \
         {:.1} % at most, time by {:.1} % and {:.1} %.\n\n{}{}",
        options.steps,
        options.threads,
        mean(&memory),
        most(&memory),
        mean(&time),
        most(&time),
        render(&head, &rows),
        busy(entries),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn summary(forecast_s: f64) -> Run {
        let said = json!({
            "step_s": 2.0, "peak_memory_bytes": 100 << 20,
            "forecast": {"memory": {"total_bytes": 110 << 20}, "time": {"step_s": forecast_s}},
        });
        Run { said, peak_mib: 100.0, foreign_cores: 0.0 }
    }

    #[test]
    fn a_summary_becomes_a_row_with_its_errors() {
        let setting = Setting { name: "a run", flags: vec!["--rank", "4"], model: "m".into(), out: "o".into() };
        let options = Options::parse(&["--steps", "3"]).unwrap();
        let shown = crate::proc::shown(&command(&setting, &options, Path::new("ounce")));
        assert!(shown.contains("--max-steps 3 --rank 4 --out o"), "{shown}");
        let entries = [Entry { setting, runs: vec![summary(1.5)], failure: None }];
        let text = report(&entries, &options).unwrap();
        assert!(text.contains("| a run | 110 | 100 | +10.0 % | 1.50 | 2.00 | -25.0 % | 0.00 |"), "{text}");
        assert!(text.contains("10.0 % on average and 10.0 % at most, time by 25.0 % and 25.0 %"), "{text}");
        let broken = Run { said: json!({}), peak_mib: 0.0, foreign_cores: 0.0 };
        assert!(Figures::of(&broken).unwrap_err().contains("/forecast/memory/total_bytes"));
    }
}
