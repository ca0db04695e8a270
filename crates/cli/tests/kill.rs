//! A tuning run that is killed, ended or out of room at any moment goes on with `--resume` to the very bytes of the run that
//! nothing interrupted. Through the real binary, with real signals.
#![cfg(unix)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Place, Ran, finish, until};

const KILLS: usize = 20;

/// A kind of run, and the file that is its result.
struct Kind {
    flags: &'static [&'static str],
    result: &'static str,
}

const LORA: Kind = Kind {
    flags: &["--set", "lora.dropout=0.1", "--valid", "v.jsonl", "--set", "eval_every=10", "--set", "patience=50"],
    result: "adapter_model.safetensors",
};
const FULL: Kind = Kind { flags: &["--method", "full", "--gradient-accumulation", "2"], result: "model.safetensors" };

/// Place with a model, texts to train and to evaluate on.
fn place() -> Place {
    let place = Place::new();
    place.tiny_model();
    let row = |i: usize| {
        let letters = "abcdefgh".as_bytes()[i % 8] as char;
        let text = format!("{i}: {}{}", letters.to_string().repeat(3 + i % 5), &" the quick brown fox"[..i * 7 % 20]);
        serde_json::json!({ "text": text }).to_string() + "\n"
    };
    place.write("d.jsonl", &(0..64).map(row).collect::<String>());
    place.write("v.jsonl", &(64..72).map(row).collect::<String>());
    place
}

/// The command of a new run in `out`: 160 steps, a checkpoint every fourth.
fn start(place: &Place, kind: &Kind, out: &str) -> Command {
    let common =
        ["--max-length", "48", "--lr", "5e-3", "--max-steps", "160", "--set", "save_every=4", "--seed", "7", "-q"];
    let head = ["tune", "tiny", "--data", "d.jsonl", "--out", out];
    place.command(&[&head[..], &common, kind.flags].concat())
}

fn resume(place: &Place, out: &str) -> Command {
    place.command(&["tune", "--resume", out, "-q"])
}

/// What a new process has to do for the run in `out`: a run that was killed before its recipe was there never began.
fn go_on(place: &Place, kind: &Kind, out: &str) -> Command {
    if place.path(out).join("recipe.yaml").exists() { resume(place, out) } else { start(place, kind, out) }
}

/// The bytes of the result, and the losses of the log as they are written there.
fn left(place: &Place, kind: &Kind, out: &str) -> (Vec<u8>, Vec<(u64, String)>) {
    let dir = place.path(out);
    let log = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let events = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let steps = events.filter(|e| e["event"] == "step" || e["event"] == "eval");
    let losses = steps.map(|e| (e["step"].as_u64().unwrap(), format!("{} {}", e["event"], e["loss"]))).collect();
    (std::fs::read(dir.join(kind.result)).unwrap(), losses)
}

fn must_succeed(command: Command) -> Ran {
    let ran = finish(command);
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    ran
}

fn log_of(place: &Place, out: &str) -> (u64, Option<std::time::SystemTime>) {
    std::fs::metadata(place.path(out).join("metrics.jsonl")).map_or((0, None), |m| (m.len(), m.modified().ok()))
}

/// Waits until the log changes, which is when training begins; false if the process ends before.
fn wait_for_training(
    child: &mut Child,
    place: &Place,
    out: &str,
    before: &(u64, Option<std::time::SystemTime>),
) -> bool {
    let mut ended = false;
    until("the run begins", || {
        let changed = log_of(place, out) != *before;
        ended = !changed && child.try_wait().unwrap().is_some();
        changed || ended
    });
    !ended
}

fn spawn(mut command: Command) -> Child {
    // Nobody reads while the process lives, and a full pipe would stop it.
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn checkpoints(dir: &Path) -> Vec<PathBuf> {
    let names = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut all: Vec<PathBuf> = names.filter(|p| p.display().to_string().contains("checkpoint-")).collect();
    all.sort();
    all
}

/// Kills runs at random moments, from the start of the process to its end, and resumes them. A run that ends is compared,
/// and another one is begun, until there were enough kills.
fn killed_runs_are_uninterrupted_runs(kind: &Kind, seed: u64) {
    let place = place();
    let mut child = spawn(start(&place, kind, "whole"));
    wait_for_training(&mut child, &place, "whole", &(0, None));
    let begun = Instant::now();
    assert!(child.wait().unwrap().success());
    let length = begun.elapsed().as_secs_f64();
    let want = left(&place, kind, "whole");
    assert!(want.0.len() > 1000 && want.1.len() >= 160);

    let mut state = seed;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let (mut kills, mut within, mut runs) = (0, 0, 1);
    while kills < KILLS {
        let out = format!("killed-{runs}");
        let before = log_of(&place, &out);
        let mut child = spawn(go_on(&place, kind, &out));
        // A quarter is killed while it starts; the others so that about twenty make a run.
        let training = kills % 4 != 0 && wait_for_training(&mut child, &place, &out, &before);
        let moment = if training { 0.12 * length * random() } else { 0.02 * random() };
        std::thread::sleep(Duration::from_secs_f64(moment));
        match child.try_wait().unwrap() {
            Some(status) => {
                assert!(status.success(), "{out} ended with {status}");
                assert!(left(&place, kind, &out) == want, "{out} differs from the run that was not killed");
                runs += 1;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
                within += usize::from(training);
            }
        }
    }
    assert!(within >= KILLS / 2, "only {within} kills hit training");
    let out = format!("killed-{runs}");
    must_succeed(go_on(&place, kind, &out));
    let (result, losses) = left(&place, kind, &out);
    assert_eq!(losses, want.1, "the log of {out}");
    assert!(result == want.0, "{} of {out} differs from that of the run that was not killed", kind.result);
    // Nothing of the interrupted saves is left.
    assert_eq!(checkpoints(&place.path(&out)).len(), 2, "{:?}", checkpoints(&place.path(&out)));
}

#[test]
fn a_killed_lora_run_ends_with_the_same_bytes() {
    killed_runs_are_uninterrupted_runs(&LORA, 1);
}

#[test]
fn a_killed_full_run_ends_with_the_same_bytes() {
    killed_runs_are_uninterrupted_runs(&FULL, 2);
}

fn terminate(child: &Child) {
    let status = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap();
    assert!(status.success());
}

#[test]
fn sigterm_saves_and_ends_with_75_and_a_size_limit_ends_with_75() {
    let place = place();
    must_succeed(start(&place, &FULL, "whole"));
    let want = left(&place, &FULL, "whole");

    let terminated = || {
        let mut child = start(&place, &FULL, "a").stdout(Stdio::null()).spawn().unwrap();
        wait_for_training(&mut child, &place, "a", &(0, None));
        std::thread::sleep(Duration::from_millis(100));
        terminate(&child);
        child.wait_with_output().unwrap()
    };
    let mut output = terminated();
    // On a busy machine the run may be over before this process is there to end it.
    for _ in 0..4 {
        if output.status.success() {
            std::fs::remove_dir_all(place.path("a")).unwrap();
            output = terminated();
        }
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(75), "{text}");
    assert!(text.contains("error[O0306]: stopped after step ") && text.contains("ounce tune --resume a"), "{text}");
    let saved = checkpoints(&place.path("a"));
    assert!(!saved.is_empty() && !place.path("a/model.safetensors").exists());

    // The optimizer's state is larger than the limit: the next checkpoint cannot be written.
    let ran = finish(limited(&place, 64, "tune --resume a -q"));
    assert_eq!(ran.code, Some(75), "{}", ran.stderr);
    assert!(ran.stderr.contains("error[O0005]: disk full: cannot save a/checkpoint-"), "{}", ran.stderr);
    assert!(ran.stderr.contains("ounce tune --resume a"), "{}", ran.stderr);
    assert_eq!(
        checkpoints(&place.path("a")),
        saved,
        "older checkpoints are touched, or something is left of the new one"
    );

    must_succeed(resume(&place, "a"));
    assert!(left(&place, &FULL, "a") == want);
}

/// An evaluation of thousands of rows is not waited for; it is done first when the run goes on.
#[test]
fn sigterm_breaks_off_an_evaluation() {
    let place = place();
    let rows: String = (0..20_000).map(|i| format!("{{\"text\":\"{i} the quick brown fox jumps\"}}\n")).collect();
    place.write("many.jsonl", &rows);
    let line = "tune tiny --data d.jsonl --valid many.jsonl --max-length 48 --max-steps 2 --out a -q";
    let mut child = place.command(&line.split(' ').collect::<Vec<_>>()).stdout(Stdio::null()).spawn().unwrap();
    let log = || std::fs::read_to_string(place.path("a/metrics.jsonl")).unwrap_or_default();
    until("the run reaches step 2", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended before");
        log().contains(r#""event":"step","step":2"#)
    });
    terminate(&child);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(75), "{text}");
    assert!(text.contains("error[O0306]: stopped after step 2 of 2"), "{text}");
    assert!(!log().contains(r#""event":"eval""#) && !place.path("a/adapter_model.safetensors").exists(), "{}", log());
    must_succeed(resume(&place, "a"));
    assert!(log().contains(r#""event":"eval","step":2"#) && place.path("a/adapter_model.safetensors").exists());
}

/// A base model that was moved is the same one; another of the same shapes in its place is refused, and named as a reason.
#[test]
fn another_base_model_is_refused() {
    let place = place();
    must_succeed(start(&place, &LORA, "a"));
    let want = left(&place, &LORA, "a");
    let weights = place.path("tiny/model.safetensors");
    let good = std::fs::read(&weights).unwrap();
    let mut other = good.clone();
    // Past the header: about the last bits of some values.
    let middle = other.len() / 2;
    other[middle..].iter_mut().step_by(64).for_each(|byte| *byte ^= 1);
    std::fs::write(&weights, &other).unwrap();
    let ran = finish(resume(&place, "a"));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("error[O0304]: a/checkpoint-160: ") && ran.stderr.contains("the base model"),
        "{}",
        ran.stderr
    );
    std::fs::write(&weights, &good).unwrap();
    must_succeed(resume(&place, "a"));
    assert!(left(&place, &LORA, "a") == want);
}

/// Not even the recipe fits: nothing has begun, and the same command may be given again.
#[test]
fn a_size_limit_below_the_recipe_leaves_nothing_in_the_way() {
    let place = place();
    let line = "tune tiny --data d.jsonl --out b --max-length 48 --max-steps 4";
    let ran = finish(limited(&place, 0, line));
    assert_eq!(ran.code, Some(75), "{}", ran.stderr);
    assert!(ran.stderr.contains("error[O0005]: cannot write b/"), "{}", ran.stderr);
    place.ok(&line.split(' ').collect::<Vec<_>>());
}

/// `ounce` under `ulimit -f`, which counts in 512 or, in some shells, 1024 bytes.
fn limited(place: &Place, blocks: usize, line: &str) -> Command {
    let program = env!("CARGO_BIN_EXE_ounce");
    let script = format!("ulimit -f {blocks}; exec {program} {line}");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(place.dir.path()).env_clear().env("HOME", place.dir.path());
    shell.stdin(Stdio::null());
    shell
}
