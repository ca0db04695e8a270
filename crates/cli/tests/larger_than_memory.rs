//! A model that is larger than the memory it may use: the plan streams its weights and says so, and tuning and talking give what
//! they give in memory, byte for byte. The same for activations that wait on disk, and for
//! weights and optimizer state that are trained there. Through the real binary.

mod common;

use common::{FFN, HIDDEN, LAYERS, Place, until};

fn plan(place: &Place, verb: &[&str], rest: &[&str]) -> serde_json::Value {
    let common = ["wide", "--data", "d.jsonl", "--max-length", "32", "--max-steps", "6", "--seed", "3"];
    serde_json::from_str(&place.ok(&[verb, &common, rest].concat()).stdout).unwrap()
}

#[test]
fn a_model_that_does_not_fit_is_streamed_and_tuned_to_the_same_bytes() {
    let place = Place::new();
    place.wide_model();
    place.echo_rows("d.jsonl", "abcdefghijklmnop");
    place.echo_rows("v.jsonl", "abcd");
    let roomy = plan(&place, &["plan", "tune"], &["--json"]);
    assert_eq!(roomy["weights"], "mapped");
    let needed = roomy["memory"]["total_bytes"].as_u64().unwrap();
    // A third of the weights less than that: no activation is worth so much.
    let limit = (needed - (11 << 20)).to_string();
    let tight = plan(&place, &["plan", "tune"], &["--json", "--mem", &limit]);
    assert_eq!(tight["weights"], "streamed");
    assert!(tight["memory"]["total_bytes"].as_u64().unwrap() < needed - (15 << 20), "{tight}");
    let reasons = tight["reasons"].to_string();
    assert!(reasons.contains("read from disk a block ahead"), "{reasons}");
    // Up and down again, but for the blocks where the way turns: they are still there.
    let read = tight["time"]["step_read_bytes"].as_f64().unwrap();
    assert!((5.6e7..5.9e7).contains(&read), "{tight}");

    let tune = ["tune", "wide", "--data", "d.jsonl", "--valid", "v.jsonl", "--set", "eval_every=3"];
    let short = ["--max-length", "32", "--max-steps", "6", "--seed", "3", "-q"];
    place.ok(&[&tune[..], &short, &["--out", "mapped"]].concat());
    place.ok(&[&tune[..], &short, &["--out", "streamed", "--mem", &limit]].concat());
    let adapter = |run: &str| std::fs::read(place.path(run).join("adapter_model.safetensors")).unwrap();
    assert!(adapter("mapped") == adapter("streamed"), "the adapters differ");
    let summary = |run: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(place.path(run).join("summary.json")).unwrap()).unwrap()
    };
    assert_eq!(summary("streamed")["forecast"]["weights"], "streamed");
    assert_eq!(summary("streamed")["valid_loss"], summary("mapped")["valid_loss"]);
}

#[test]
fn activations_on_disk_give_the_same_bytes_and_leave_nothing_there() {
    let place = Place::new();
    place.wide_model();
    place.echo_rows("d.jsonl", "abcdefghijklmnop");
    let kept = plan(&place, &["plan", "tune"], &["--json", "--set", "activations=keep"]);
    let away = plan(&place, &["plan", "tune"], &["--json", "--set", "activations=offload"]);
    let number = |plan: &serde_json::Value, pointer: &str| plan.pointer(pointer).unwrap().as_f64().unwrap();
    assert_eq!(away["activations"], serde_json::json!(vec!["offload"; LAYERS]));
    assert!(number(&away, "/memory/activations_bytes") < 0.7 * number(&kept, "/memory/activations_bytes"), "{away}");
    assert!(number(&away, "/offloaded_bytes") > 0.0 && number(&away, "/time/step_write_bytes") > 0.0, "{away}");
    assert!(away["reasons"].to_string().contains("activations on disk take"), "{away}");
    let tune = ["tune", "wide", "--data", "d.jsonl", "--max-length", "32", "--max-steps", "3", "--seed", "3", "-q"];
    place.ok(&[&tune[..], &["--out", "kept"]].concat());
    place.ok(&[&tune[..], &["--out", "away", "--set", "activations=offload"]].concat());
    let adapter = |run: &str| std::fs::read(place.path(run).join("adapter_model.safetensors")).unwrap();
    assert!(adapter("kept") == adapter("away"), "the adapters differ");
    let names = |run: &str| {
        let mut names: Vec<_> = std::fs::read_dir(place.path(run)).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("kept"), names("away"));
}

/// A person whose disk is slow, or not to be worn, hears what is missing instead, and nothing is written.
#[test]
fn a_run_that_may_not_use_the_disk_is_refused_with_the_numbers() {
    let place = Place::new();
    place.wide_model();
    place.echo_rows("d.jsonl", "abcdefghijklmnop");
    let full: &[&str] = &["--method", "full", "--gradients", "update_now", "--set", "max_grad_norm=0"];
    let methods: [(&[&str], u64, &str); 2] = [(&[], 11, "streamed"), (full, 40, "tiered")];
    for (method, less_mib, way) in methods {
        let roomy = plan(&place, &["plan", "tune"], &[method, &["--json", "--offload", "none"]].concat());
        assert_eq!(roomy["weights"], "mapped");
        let limit = (roomy["memory"]["total_bytes"].as_u64().unwrap() - (less_mib << 20)).to_string();
        let tight = plan(&place, &["plan", "tune"], &[method, &["--json", "--mem", &limit]].concat());
        assert_eq!(tight["weights"], way);
        let tune = ["tune", "wide", "--data", "d.jsonl", "--max-length", "32", "--max-steps", "6", "--seed", "3"];
        let never = ["--out", "run", "--mem", &limit, "--offload", "none"];
        let ran = place.run(&[&tune[..], method, &never].concat());
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(
            ran.stderr.contains("error[O0231]: the run needs ") && ran.stderr.contains(", limit is "),
            "{}",
            ran.stderr
        );
        assert!(ran.stderr.contains("help: let what does not fit wait on disk: --offload disk"), "{}", ran.stderr);
        assert!(!place.path("run").exists(), "the run has begun");
        // A file system in memory is no way out either, and that is said.
        let shm = tempfile::tempdir_in("/dev/shm").unwrap();
        let there = shm.path().join("run");
        let ran = place.run(&[&tune[..], method, &["--out", there.to_str().unwrap(), "--mem", &limit]].concat());
        match way {
            "tiered" => {
                assert!(ran.code == Some(2) && ran.stderr.contains("nothing can wait on disk"), "{}", ran.stderr)
            }
            // The base model lies on a disk all the same.
            _ => assert_eq!(ran.code, Some(0), "{}", ran.stderr),
        }
    }
}

/// A limit on the length of files stands for a full disk.
#[test]
fn a_disk_without_room_is_found_before_training() {
    let place = Place::new();
    place.wide_model();
    place.echo_rows("d.jsonl", "abcdefghijklmnop");
    let script = format!(
        "ulimit -f 64; exec {} tune wide --data d.jsonl --max-length 32 --max-steps 3 --out run --set activations=offload",
        env!("CARGO_BIN_EXE_ounce")
    );
    let mut command = std::process::Command::new("sh");
    let ran = command.args(["-c", &script]).current_dir(place.dir.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(75), "{stderr}");
    assert!(stderr.contains("more for the scratch file in") && stderr.contains("activations=recompute"), "{stderr}");
    assert!(!place.path("run").exists(), "the run has begun");
    // And for what is trained: 80 MB here.
    let script = format!(
        "ulimit -f 64; exec {} tune wide --data d.jsonl --max-length 32 --max-steps 3 --out run --mem 60MiB --method full \
         --gradients update_now --set max_grad_norm=0",
        env!("CARGO_BIN_EXE_ounce")
    );
    let mut command = std::process::Command::new("sh");
    let ran = command.args(["-c", &script]).current_dir(place.dir.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(75), "{stderr}");
    assert!(
        stderr.contains("more for the scratch file in") && stderr.contains("help: choose an --out on a larger disk"),
        "{stderr}"
    );
    assert!(!place.path("run").exists(), "the run has begun");
}

/// Weights and moments of full tuning, three times the file: killed twice on the way, and once it goes on in memory.
#[test]
fn full_tuning_on_disk_gives_the_same_bytes_through_kills() {
    let place = Place::new();
    place.wide_model();
    place.echo_rows("d.jsonl", "abcdefghijklmnop");
    place.echo_rows("v.jsonl", "abcd");
    let full = ["--method", "full", "--gradients", "update_now", "--set", "max_grad_norm=0"];
    let roomy = plan(&place, &["plan", "tune"], &[&full[..], &["--json"]].concat());
    assert_eq!(roomy["weights"], "mapped");
    let needed = roomy["memory"]["total_bytes"].as_u64().unwrap();
    let limit = (needed - (40 << 20)).to_string();
    let tight = plan(&place, &["plan", "tune"], &[&full[..], &["--json", "--mem", &limit]].concat());
    assert_eq!(tight["weights"], "tiered");
    let reasons = tight["reasons"].to_string();
    assert!(reasons.contains("trained weights and optimizer state") && reasons.contains("are on disk"), "{reasons}");
    let written = tight["time"]["step_write_bytes"].as_f64().unwrap();
    let state = (12 * 97 * HIDDEN * 2 + 12 * LAYERS * (3 * HIDDEN * FFN + 3 * HIDDEN * HIDDEN)) as f64;
    assert!((state..1.01 * state).contains(&written), "{written} of {state}");

    let tune =
        ["tune", "wide", "--data", "d.jsonl", "--valid", "v.jsonl", "--set", "eval_every=3", "--set", "patience=9"];
    let short = ["--max-length", "32", "--max-steps", "6", "--seed", "3", "-q", "--set", "save_every=2"];
    place.ok(&[&tune[..], &short, &full, &["--out", "here"]].concat());
    place.ok(&[&tune[..], &short, &full, &["--out", "there", "--mem", &limit]].concat());
    let start = [&tune[..], &short, &full, &["--out", "killed", "--mem", &limit]].concat();
    for kill in 0..3u64 {
        let command = match place.path("killed/recipe.yaml").exists() {
            true => place.command(&["tune", "--resume", "killed", "-q", "--mem", &limit]),
            false => place.command(&start),
        };
        let mut command = command;
        let mut child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let before = log_length(&place);
        until("the run begins", || log_length(&place) != before || child.try_wait().unwrap().is_some());
        std::thread::sleep(std::time::Duration::from_millis(90 * kill));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    place.ok(&["tune", "--resume", "killed", "-q"]);
    let read = |run: &str, name: &str| std::fs::read(place.path(run).join(name)).unwrap();
    for run in ["there", "killed"] {
        for name in ["model.safetensors", "checkpoint-6/optimizer.safetensors", "best.safetensors"] {
            assert!(read("here", name) == read(run, name), "{name} of {run} differs");
        }
    }
    let summary = |run: &str| -> serde_json::Value { serde_json::from_slice(&read(run, "summary.json")).unwrap() };
    assert_eq!(summary("there")["forecast"]["weights"], "tiered");
    assert_eq!(summary("there")["valid_loss"], summary("here")["valid_loss"]);
    assert!(summary("there")["peak_memory_bytes"].as_u64() < summary("here")["peak_memory_bytes"].as_u64());
}

fn log_length(place: &Place) -> u64 {
    std::fs::metadata(place.path("killed/metrics.jsonl")).map_or(0, |m| m.len())
}

#[test]
fn a_model_that_does_not_fit_answers_and_is_measured_all_the_same() {
    let place = Place::new();
    place.wide_model();
    place.echo_rows("v.jsonl", "abcd");
    let generate = ["generate", "wide", "--raw", "the quick", "--max-tokens", "8", "--context", "64"];
    let eval = ["eval", "wide", "--data", "v.jsonl", "--context", "64", "--json"];
    for verb in [&generate[..], &eval] {
        let refused = place.run(&[verb, &["--mem", "1MiB"]].concat()).stderr;
        let least = refused.split("--mem ").nth(1).and_then(|rest| rest.split(',').next()).expect("the least limit");
        let (mapped, streamed) = (place.ok(verb), place.ok(&[verb, &["--mem", least]].concat()));
        assert_eq!(mapped.stdout, streamed.stdout);
        assert!(streamed.stderr.contains("read from disk for every step"), "{}", streamed.stderr);
        assert!(!mapped.stderr.contains("read from disk"), "{}", mapped.stderr);
    }
}
