//! Loss curves of every precision mode against f32: `ounce tune` on the referral notes from one seed, in the same order of
//! data, one mode after the other. A run that is done is not done again, since the whole takes an hour. Knows no rivals but
//! needs the folder's model.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::options::Options;
use super::table::render;
use super::{Peers, built, kept};
use crate::{fetch, place, proc};

mod chart;

/// What is tuned; the flags of every run of it; its modes by name and flags, the first being what the others are held against.
struct Group {
    title: &'static str,
    picture: &'static str,
    flags: &'static str,
    modes: &'static [(&'static str, &'static str)],
}

/// No clipping, because `update_now` has none. Every mode but the first differs from bf16 products with f32 masters in one
/// thing, and the last two in several.
const GROUPS: [Group; 2] = [
    Group {
        title: "full tuning, AdamW, rate 2e-5",
        picture: "docs/precision-full.svg",
        flags: "--method full --lr 2e-5",
        modes: &[
            ("f32", "--compute f32"),
            ("bf16 products, f32 masters", "--compute bf16"),
            ("f16 products, loss scaling", "--compute f16"),
            ("no masters: bf16 weights", "--master-weights none"),
            ("moments in bf16", "--optimizer-state bf16"),
            ("moments in 8 bits", "--optimizer-state 8bit"),
            ("updates during the backward pass", "--gradients update_now"),
            (
                "no masters, 8-bit moments, update_now",
                "--master-weights none --optimizer-state 8bit --gradients update_now",
            ),
        ],
    },
    Group {
        title: "LoRA of rank 8 on the Q4_1 file, AdamW, rate 2e-4",
        picture: "docs/precision-lora.svg",
        flags: "--method lora --rank 8 --lr 2e-4",
        modes: &[
            ("f32", "--compute f32"),
            ("bf16 products", "--compute bf16"),
            ("f16 products, loss scaling", "--compute f16"),
            ("moments in bf16", "--optimizer-state bf16"),
            ("moments in 8 bits", "--optimizer-state 8bit"),
        ],
    },
];

/// What is kept of a run.
const SUMMARY: &str = "summary.json";
const METRICS: &str = "metrics.jsonl";

/// Steps whose mean is compared at the end of a run.
const LAST: usize = 10;

/// What a mode came to.
#[derive(Clone, Debug, PartialEq)]
struct Curve {
    name: &'static str,
    losses: Vec<f64>,
    valid_loss: f64,
    peak_mib: f64,
    skipped_steps: u64,
}

pub fn run(options: &Options, peers: &Peers) -> Result<String, String> {
    let [model] = peers.need(["models/SmolLM2-135M-Instruct.Q4_1.gguf"])?;
    let ounce = built("ounce-cli", None)?;
    let mut text = String::new();
    for (i, group) in GROUPS.iter().enumerate() {
        let mut curves = Vec::new();
        for (j, &(name, flags)) in group.modes.iter().enumerate() {
            let out = kept()?.join(format!("curves-{}-{i}-{j}", options.steps));
            let curve = match Curve::read(name, &out) {
                Ok(curve) => curve,
                Err(_) => {
                    if out.exists() {
                        std::fs::remove_dir_all(&out).map_err(|e| format!("cannot remove {}: {e}", out.display()))?;
                    }
                    proc::run(&mut command(&ounce, &model, group.flags, flags, &out, options))?;
                    let curve = Curve::read(name, &out)?;
                    shrink(&out)?;
                    curve
                }
            };
            println!("{}, {name}: {:.4}, held out {:.4}", group.title, curve.end(), curve.valid_loss);
            curves.push(curve);
        }
        text += &report(group, &curves)?;
        if options.write {
            let lines: Vec<(&str, Vec<f64>)> = curves[1..].iter().map(|c| (c.name, c.difference(&curves[0]))).collect();
            let title = format!("loss minus that of f32: {}", group.title);
            fetch::write_whole(&place::workspace().join(group.picture), chart::draw(&title, &lines).as_bytes())?;
        }
    }
    Ok(format!(
        "Steps of SmolLM2-135M-Instruct (Q4_1 file) on the referral notes: {} of {} × {} tokens, warm-up of {} steps and then a \
         constant rate, no clipping, {} threads.\n\n{text}",
        options.steps, options.batch, options.length, WARM_UP, options.threads
    ))
}

const WARM_UP: usize = 5;

fn command(ounce: &Path, model: &Path, common: &str, flags: &str, out: &PathBuf, options: &Options) -> Command {
    let mut command = Command::new(ounce);
    command.current_dir(place::workspace()).arg("tune").arg(model);
    command.args(["--quiet", "--data", "examples/referral/train.jsonl", "--valid", "examples/referral/valid.jsonl"]);
    command.args(["--seed", "1", "--set", "max_grad_norm=0", "--set", "schedule.name=constant", "--set"]);
    command.arg(format!("schedule.warmup_steps={WARM_UP}"));
    for (flag, value) in [
        ("--threads", options.threads),
        ("--max-steps", options.steps),
        ("--batch-size", options.batch),
        ("--max-length", options.length),
    ] {
        command.arg(flag).arg(value.to_string());
    }
    command.args(common.split_whitespace()).args(flags.split_whitespace()).arg("--out").arg(out);
    command
}

/// Removes all but a run's numbers: full tuning leaves gigabytes.
fn shrink(out: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("cannot remove the weights in {}: {e}", out.display());
    for entry in std::fs::read_dir(out).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let kept = path.file_name().is_some_and(|name| [SUMMARY, METRICS, "recipe.yaml"].iter().any(|k| name == *k));
        if !kept {
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(failed)?;
        }
    }
    Ok(())
}

impl Curve {
    /// Of a run that is done.
    fn read(name: &'static str, out: &Path) -> Result<Curve, String> {
        let text = |file: &str| {
            let path = out.join(file);
            std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))
        };
        let summary: Value = serde_json::from_str(&text(SUMMARY)?).map_err(|e| format!("{SUMMARY}: {e}"))?;
        Curve::of(name, &summary, &text(METRICS)?)
    }

    fn of(name: &'static str, summary: &Value, log: &str) -> Result<Curve, String> {
        let number = |key: &str| summary[key].as_f64().ok_or_else(|| format!("{name}: the summary has no {key}"));
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let steps = events.filter(|e| e["event"] == "step");
        Ok(Curve {
            name,
            losses: steps.map(|e| e["loss"].as_f64().unwrap_or(f64::NAN)).collect(),
            valid_loss: number("valid_loss")?,
            peak_mib: number("peak_memory_bytes")? / f64::from(1 << 20),
            skipped_steps: summary["loss_scale"]["skipped_steps"].as_u64().unwrap_or(0),
        })
    }

    /// Mean loss of the last steps.
    fn end(&self) -> f64 {
        mean(&self.losses[self.losses.len().saturating_sub(LAST)..])
    }

    /// By step, to a run of the same steps.
    fn difference(&self, other: &Curve) -> Vec<f64> {
        self.losses.iter().zip(&other.losses).map(|(a, b)| a - b).collect()
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn report(group: &Group, curves: &[Curve]) -> Result<String, String> {
    let reference = curves.first().ok_or("no mode was run")?;
    let mut rows = Vec::new();
    for curve in curves {
        let away: Vec<f64> = curve.difference(reference).iter().map(|d| d.abs()).collect();
        let away = mean(&away[away.len().saturating_sub(LAST)..]);
        let skipped = match curve.skipped_steps {
            0 => String::new(),
            n => format!(" ({n} skipped)"),
        };
        rows.push(vec![
            format!("{}{skipped}", curve.name),
            format!("{:.4}", mean(&curve.losses[..LAST.min(curve.losses.len())])),
            format!("{:.4}", curve.end()),
            if curve == reference { "–".into() } else { format!("{away:.4}") },
            format!("{:.4}", curve.valid_loss),
            format!("{:+.4}", curve.valid_loss - reference.valid_loss),
            format!("{:.0}", curve.peak_mib),
        ]);
    }
    let title = group.title;
    let head = [title, "loss, first 10", "last 10", "mean away from f32", "held out", "to f32", "peak MiB"];
    let picture = group.picture.trim_start_matches("docs/");
    Ok(format!("{}\n![Loss minus that of f32 by step: {title}]({picture})\n\n", render(&head, &rows)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn curve(name: &'static str, losses: &[f64], skipped: u64) -> Curve {
        let mut summary = json!({"valid_loss": losses[0] - 1.0, "peak_memory_bytes": 3 << 20});
        if skipped > 0 {
            summary["loss_scale"] = json!({"last": 1024.0, "skipped_steps": skipped});
        }
        let log: String = losses.iter().map(|l| format!("{{\"event\": \"step\", \"loss\": {l}}}\n")).collect();
        Curve::of(name, &summary, &format!("{{\"event\": \"start\"}}\n{log}")).unwrap()
    }

    #[test]
    fn a_mode_is_held_against_the_first() {
        let falling: Vec<f64> = (0..20).map(|i| 4.0 - 0.1 * f64::from(i)).collect();
        let away: Vec<f64> =
            falling.iter().enumerate().map(|(i, l)| l + if i % 2 == 0 { 0.02 } else { -0.01 }).collect();
        let text = report(&GROUPS[1], &[curve("f32", &falling, 0), curve("f16", &away, 3)]).unwrap();
        assert!(text.contains("| f32 | 3.5500 | 2.5500 | – | 3.0000 | +0.0000 | 3 |"), "{text}");
        assert!(text.contains("| f16 (3 skipped) | 3.5550 | 2.5550 | 0.0150 | 3.0200 | +0.0200 | 3 |"), "{text}");
        assert!(text.contains("](precision-lora.svg)"));
    }

    #[test]
    fn only_the_numbers_of_a_run_are_kept() {
        let run = tempfile::tempdir().unwrap();
        std::fs::create_dir(run.path().join("checkpoint-50")).unwrap();
        let log = "{\"event\": \"step\", \"loss\": 2.5}\n";
        for (name, text) in [
            ("summary.json", r#"{"valid_loss": 2.0, "peak_memory_bytes": 1048576}"#),
            ("metrics.jsonl", log),
            ("model.gguf", ""),
            ("checkpoint-50/params.safetensors", ""),
        ] {
            std::fs::write(run.path().join(name), text).unwrap();
        }
        shrink(run.path()).unwrap();
        assert_eq!(std::fs::read_dir(run.path()).unwrap().count(), 2);
        let curve = Curve::read("f32", run.path()).unwrap();
        assert_eq!((curve.end(), curve.valid_loss, curve.peak_mib), (2.5, 2.0, 1.0));
    }

    #[test]
    fn a_run_that_is_not_done_has_no_curve() {
        assert!(Curve::of("f32", &json!({"valid_loss": null}), "").unwrap_err().contains("valid_loss"));
        assert!(Curve::read("f32", Path::new("no/such/run")).is_err());
    }
}
