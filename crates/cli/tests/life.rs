//! A model's life through the real binary: tune, stop, resume, evaluate, talk, merge, convert, look back.

mod common;

use std::process::Stdio;

use common::{Place, finish, until};

const TUNE: [&str; 13] = [
    "--max-length",
    "32",
    "--batch-size",
    "2",
    "--lr",
    "3e-2",
    "--max-steps",
    "40",
    "--set",
    "save_every=5",
    "--seed",
    "3",
    "-q",
];

fn tune<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    ["tune", "tiny", "--data", "d.jsonl"].into_iter().chain(rest.iter().copied()).chain(TUNE).collect()
}

#[test]
fn from_tuning_to_talking() {
    let place = Place::new();
    place.tiny_model();
    place.echo_rows("d.jsonl", "abcdefghijklmnop");
    place.echo_rows("v.jsonl", "abcd");
    place.ok(&tune(&["--out", "runs/a", "--valid", "v.jsonl"]));
    for file in
        ["adapter_model.safetensors", "adapter_config.json", "recipe.yaml", "summary.json", "loss.svg", "metrics.jsonl"]
    {
        assert!(place.path("runs/a").join(file).is_file(), "{file}");
    }
    let summary: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("runs/a/summary.json")).unwrap()).unwrap();
    assert_eq!((summary["steps"].as_u64(), summary["reason"].as_str()), (Some(40), Some("done")));
    assert!(summary["forecast"]["memory"]["total_bytes"].as_u64() > Some(0));
    let (first, last) = (loss_at(&place, 0), summary["train_loss"].as_f64().unwrap());
    assert!(last < first * 0.8, "the loss fell from {first} to {last} only");

    // The tuned model is better at its task, on all three ways to say so.
    let args = [
        "eval",
        "tiny",
        "--adapter",
        "runs/a",
        "--data",
        "v.jsonl",
        "--task",
        "v.jsonl",
        "--compare",
        "base",
        "--context",
        "64",
        "--max-tokens",
        "4",
        "--json",
    ];
    let result: serde_json::Value = serde_json::from_str(&place.ok(&args).stdout).unwrap();
    let loss = |model: usize| result["models"][model]["perplexities"][0][1]["loss"].as_f64().unwrap();
    assert!(loss(0) < loss(1), "tuned {} base {}", loss(0), loss(1));
    assert_eq!(result["models"][0]["tasks"][0]["results"].as_array().unwrap().len(), 4);
    assert!(result["comparisons"][0]["records"]["p_value"].as_f64().unwrap() <= 1.0);
    let missed =
        place.run(&["eval", "tiny", "--task", "v.jsonl", "--context", "64", "--max-tokens", "4", "--at-least", "101"]);
    assert_eq!(missed.code, Some(3), "{}", missed.stderr);

    // Merged and unmerged say the same, and so does what GGUF makes of it.
    let generate = |args: &[&str]| {
        let args: Vec<&str> =
            ["generate"].iter().chain(args).copied().chain(["b", "--context", "64", "--exact"]).collect();
        place.ok(&args).stdout
    };
    let answer = |model: &[&str]| generate(&[model, &["--max-tokens", "5"]].concat());
    let tuned = answer(&["tiny", "--adapter", "runs/a"]);
    place.ok(&["merge", "tiny", "--adapter", "runs/a", "--out", "merged"]);
    assert_eq!(answer(&["merged"]), tuned);
    place.ok(&["convert", "merged", "--to", "gguf", "--dtype", "f32", "--out", "m.gguf"]);
    assert_eq!(answer(&["m.gguf"]), tuned);
    // And back, tokenizer and all; or merged into another form in one go.
    place.ok(&["convert", "m.gguf", "--to", "hf", "--out", "back"]);
    assert_eq!(answer(&["back"]), tuned);
    place.ok(&["convert", "tiny", "--to", "gguf", "--dtype", "f32", "--out", "tiny.gguf"]);
    place.ok(&["merge", "tiny.gguf", "--adapter", "runs/a", "--to", "hf", "--out", "merged-hf"]);
    assert_eq!(answer(&["merged-hf"]), tuned);
    let generation = std::fs::read_to_string(place.path("merged-hf/generation_config.json")).unwrap();
    assert!(generation.contains("\"eos_token_id\": 2"), "{generation}");
    for wrong in [
        ["convert", "m.gguf", "--to", "gguf", "--tokenizer", "tiny", "--out", "x"],
        ["convert", "m.gguf", "--to", "hf", "--tokenizer", "runs/a", "--out", "x"],
        ["convert", "tiny", "--to", "hf", "--tokenizer", "tiny", "--out", "x"],
    ] {
        let ran = place.run(&wrong);
        assert!(ran.code == Some(2) && ran.stderr.contains("leave --tokenizer out"), "{wrong:?}: {}", ran.stderr);
    }
    assert!(!place.path("x").exists());
    let greedy = place.ok(&["generate", "tiny", "b", "--max-tokens", "5", "--context", "64", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&greedy.stdout).unwrap();
    assert_eq!(json["prompt_tokens"], 6, "u:b</s>a:");
    // An end of turn that is typed is four letters, and ends no turn.
    let typed = place.ok(&["generate", "tiny", "b</s>", "--max-tokens", "1", "--context", "64", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&typed.stdout).unwrap();
    assert_eq!(json["prompt_tokens"], 10, "u:b and < / s > and </s>a:");

    // Whoever guesses ahead, the answer is the same.
    let guessed = |more: &[&str]| generate(&[&["tiny", "--max-tokens", "40"], more].concat());
    let plain = guessed(&["--speculate", "0"]);
    for more in
        [&["--speculate", "8"][..], &["--draft-model", "merged"], &["--draft-model", "tiny.gguf", "--speculate", "3"]]
    {
        assert_eq!(guessed(more), plain, "{more:?}");
    }

    let chat = place.run_with_input(
        &["chat", "tiny", "--context", "64", "--max-tokens", "3"],
        "b\n/stats\n/adapter runs/a\n/reset\nb\n/save said.jsonl\n/nothing\n/quit\n",
    );
    assert_eq!(chat.code, Some(0), "{}", chat.stderr);
    assert!(chat.stderr.contains("last answer: 6 prompt tokens"), "{}", chat.stderr);
    let saved = std::fs::read_to_string(place.path("said.jsonl")).unwrap();
    assert!(saved.contains(r#"{"role":"user","content":"b"}"#), "{saved}");

    assert!(place.ok(&["runs", "list"]).stdout.contains("done"));
    assert!(place.ok(&["runs", "show", "runs/a"]).stdout.contains("step 40 of 40"));
    assert_eq!(place.ok(&["runs", "export", "runs/a"]).stdout.lines().count(), 41);
    let diff = place.ok(&["runs", "diff", "runs/a", "runs/a"]).stdout;
    assert!(!diff.contains("optimizer."), "{diff}");
}

#[test]
fn data_check_names_every_row_that_needs_a_look() {
    let place = Place::new();
    place.tiny_model();
    let row = |user: &str, answer: &str| {
        let turns = serde_json::json!([{"role": "user", "content": user}, {"role": "assistant", "content": answer}]);
        serde_json::json!({ "messages": turns }).to_string() + "\r\n"
    };
    let rows = [row("a", "b"), "{no\n".into(), row("a", "b"), row("a</s>", "b"), row("c", ""), row("</s>d", "</s>")];
    place.write("d.jsonl", &format!("\u{feff}{}", rows.concat()));
    let ran = place.run(&["data", "check", "d.jsonl", "--model", "tiny", "--max-length", "8"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    for part in [
        "rows that cannot be used: 1\n  d.jsonl:2: not JSON",
        "duplicates: 1\n  d.jsonl:3 repeats d.jsonl:1\n",
        "empty answers: 1\n  d.jsonl:5\n",
        "examples longer than 8 tokens: 2\n  d.jsonl:4: 9 tokens\n  d.jsonl:6: 9 tokens\n",
        "rows whose text writes out special tokens: 2\n  d.jsonl: lines 4, 6: </s>\n  the model reads these",
    ] {
        assert!(ran.stdout.contains(part), "{part:?} is not in\n{}", ran.stdout);
    }
}

#[test]
fn a_stopped_and_resumed_run_ends_with_the_same_bytes() {
    let place = Place::new();
    place.tiny_model();
    place.echo_rows("d.jsonl", "abcdefghijklmnop");
    place.ok(&tune(&["--out", "runs/whole"]));
    let killed = place.command(&tune(&["--out", "runs/killed"])).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut killed = killed.unwrap();
    // As soon as there is something to go on from.
    until("there is a checkpoint", || place.path("runs/killed/checkpoint-5").exists());
    killed.kill().unwrap();
    killed.wait().unwrap();
    let resumed = place.ok(&["tune", "--resume", "runs/killed"]);
    assert!(resumed.stderr.contains("saved"), "{}", resumed.stderr);
    let bytes = |run: &str| std::fs::read(place.path(run).join("adapter_model.safetensors")).unwrap();
    assert!(bytes("runs/whole") == bytes("runs/killed"), "the weights differ");
    assert_eq!(loss_at(&place, 39).to_bits(), loss_in(&place, "runs/killed", 39).to_bits());
}

#[test]
fn full_tuning_leaves_a_model_that_others_read() {
    let place = Place::new();
    place.tiny_model();
    place.echo_rows("d.jsonl", "abcdefgh");
    place.ok(&[
        "tune",
        "tiny",
        "--data",
        "d.jsonl",
        "--method",
        "full",
        "--out",
        "full",
        "--max-length",
        "32",
        "--max-steps",
        "3",
        "-q",
    ]);
    assert!(place.path("full/model.safetensors").is_file() && place.path("full/tokenizer.json").is_file());
    place.ok(&["generate", "full", "b", "--max-tokens", "3", "--context", "64"]);
}

/// The scale of an f16 run in all that is said of it: each step of the log, skipped ones, the summary, the last lines.
#[test]
fn a_run_in_f16_says_its_loss_scale() {
    let place = Place::new();
    place.tiny_model();
    place.echo_rows("d.jsonl", "abcdefghijklmnop");
    let quiet = tune(&["--method", "full", "--compute", "f16", "--out", "runs/f16"]);
    let args: Vec<&str> = quiet.into_iter().filter(|a| *a != "-q").collect();
    let said = place.ok(&args).stderr;
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let read = |file: &str| std::fs::read_to_string(place.path("runs/f16").join(file)).unwrap();
    let scale = &json(&read("summary.json"))["loss_scale"];
    let log: Vec<serde_json::Value> = read("metrics.jsonl").lines().map(json).collect();
    let of = |event: &str| log.iter().filter(|e| e["event"] == event).collect::<Vec<_>>();
    let (steps, skipped) = (of("step"), of("skipped"));
    assert_eq!(scale["skipped_steps"].as_u64(), Some(skipped.len() as u64));
    assert_eq!(steps.len() + skipped.len(), 40);
    assert_eq!(steps[steps.len() - 1]["loss_scale"], scale["last"]);
    let last = 65536.0 / f64::from(1 << skipped.len());
    assert_eq!(scale["last"].as_f64(), Some(last));
    assert!(said.contains(&format!("loss scale {last}; {} step", skipped.len())), "{said}");
    let refused = place.run(&["tune", "tiny", "--data", "d.jsonl", "--compute", "f16", "--gradients", "update_now"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("set compute: bf16"), "{}", refused.stderr);
}

#[test]
fn a_run_that_cannot_fit_is_refused_before_it_starts() {
    let place = Place::new();
    place.tiny_model();
    place.echo_rows("d.jsonl", "abcdefgh");
    let refused =
        place.run(&["tune", "tiny", "--data", "d.jsonl", "--max-length", "32", "--mem", "1MiB", "--out", "x"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("error[O0231]: the run needs "), "{}", refused.stderr);
    assert!(!place.path("x").exists());
    // Adapters that no machine could hold are counted, not made.
    let rank = ["--rank", "100000000"];
    let refused =
        place.run(&[&["tune", "tiny", "--data", "d.jsonl", "--max-length", "32", "--out", "x"][..], &rank].concat());
    assert!(
        refused.code == Some(2) && refused.stderr.contains("help: smaller adapters: a lower --rank"),
        "{}",
        refused.stderr
    );
    let plan = place.ok(&["plan", "tune", "tiny", "--data", "d.jsonl", "--max-length", "32", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap();
    assert!(plan["memory"]["activations_bytes"].as_u64() > Some(0) && plan["time"]["steps"] == 1, "{plan}");
    let dry = place.ok(&["tune", "tiny", "--data", "d.jsonl", "--max-length", "32", "--out", "x", "--dry-run"]);
    assert!(dry.stdout.contains("max_length: 32") && !place.path("x").exists());
}

#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let place = Place::new();
    place.tiny_model();
    place.echo_rows("d.jsonl", "abcdefghijklmnop");
    let mut args = tune(&["--out", "runs/c"]);
    args.extend(["--set", "max_steps=null", "--epochs", "100000"]);
    let args: Vec<&str> = args.into_iter().filter(|a| !["--max-steps", "40"].contains(a)).collect();
    let child = place.command(&args).spawn().unwrap();
    until("there is a checkpoint", || place.path("runs/c/checkpoint-5").exists());
    let mut kill = std::process::Command::new("kill");
    kill.args(["-INT", &child.id().to_string()]);
    assert_eq!(finish(kill).code, Some(0));
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("help: go on with: ounce tune --resume runs/c"), "{stderr}");
}

fn loss_at(place: &Place, index: usize) -> f64 {
    let run = if place.path("runs/a").exists() { "runs/a" } else { "runs/whole" };
    loss_in(place, run, index)
}

/// The loss of the step with this index in a run's log.
fn loss_in(place: &Place, run: &str, index: usize) -> f64 {
    let log = std::fs::read_to_string(place.path(run).join("metrics.jsonl")).unwrap();
    let steps = log.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    steps.filter(|e| e["event"] == "step").nth(index).unwrap()["loss"].as_f64().unwrap()
}
