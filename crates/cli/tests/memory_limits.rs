//! A limit of memory is kept: whatever runs under it stays below it, the least limit that a refusal names is one, and weights are read
//! from disk only where they would not fit. Through the real binary.

mod common;

use common::Place;

const MIB: u64 = 1 << 20;

/// What a run under a limit did.
struct Limited {
    code: Option<i32>,
    stderr: String,
    /// The largest resident size that was seen.
    peak_bytes: u64,
}

impl Limited {
    fn streams(&self) -> bool {
        self.stderr.contains("read from disk for every step")
    }
}

fn run(place: &Place, args: &[&str], limit_mib: u64) -> Limited {
    let limit = format!("{limit_mib}MiB");
    let mut child = place.command(&[args, &["--mem", &limit]].concat()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak_bytes = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        peak_bytes = peak_bytes.max(kib.unwrap_or(0) * 1024);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let limited = Limited { code: output.status.code(), stderr, peak_bytes };
    assert!(peak_bytes <= limit_mib * MIB || limited.code == Some(2), "{} of {limit}: {args:?}", peak_bytes / MIB);
    limited
}

/// The number of MiB after `before`.
fn number(text: &str, before: &str) -> u64 {
    let (_, after) = text.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {text}"));
    after[..after.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap()
}

/// Goes from nothing to more than enough, and looks at each border from both sides. Returns whether there is a way between.
fn borders(place: &Place, args: &[&str]) -> bool {
    let refused = run(place, args, 1);
    assert_eq!(refused.code, Some(2), "{args:?}: {}", refused.stderr);
    assert!(refused.stderr.contains("error[O0231]: the ") && refused.stderr.contains("limit is 1.0 MiB"));
    let least = number(&refused.stderr, "the least that works is --mem ");
    let just = run(place, args, least);
    assert_eq!(just.code, Some(0), "{least} MiB: {args:?}: {}", just.stderr);
    assert_eq!(run(place, args, least - 3).code, Some(2), "{} MiB suffice, {least} were called the least", least - 3);
    if !just.streams() {
        return false;
    }
    let whole = number(&just.stderr, "") + 2;
    let fits = run(place, args, whole);
    assert!(fits.code == Some(0) && !fits.streams(), "{whole} MiB: {args:?}: {}", fits.stderr);
    // Nor is much more asked for than is taken. On a busy machine the last look may come before the peak: once more then.
    let mut peaks = vec![fits.peak_bytes / MIB];
    while peaks.len() < 5 && peaks.iter().all(|peak| peak + 12 <= whole) {
        peaks.push(run(place, args, whole).peak_bytes / MIB);
    }
    assert!(peaks.iter().any(|peak| peak + 12 > whole), "{peaks:?} of {whole} MiB: {args:?}");
    assert!(run(place, args, whole - 4).streams(), "{} MiB suffice: {args:?}", whole - 4);
    true
}

#[test]
fn answers_stay_within_every_limit_that_is_not_refused() {
    let place = Place::new();
    place.wide_model();
    // As long as the context, so that the cache fills.
    let long = "abcdefgh ".repeat(56);
    let generate = ["generate", "wide", "--raw", &long, "--max-tokens", "4", "--context", "512"];
    assert!(borders(&place, &generate));
    assert!(borders(&place, &[&generate[..], &["--exact", "--speculate", "0"]].concat()));
}

#[test]
fn measuring_stays_within_every_limit_that_is_not_refused() {
    let place = Place::new();
    place.wide_model();
    place.write("v.txt", &"the quick brown fox ".repeat(60));
    place.write("t.jsonl", "{\"prompt\": \"ab\", \"answer\": \"c\"}\n");
    assert!(borders(&place, &["eval", "wide", "--data", "v.txt", "--context", "512"]));
    let both = ["eval", "wide", "--data", "v.txt", "--task", "t.jsonl", "--max-tokens", "4", "--context", "512"];
    // More places would have a cache each, which one question does not fill.
    assert!(borders(&place, &[&both[..], &["--parallel", "1"]].concat()));
}

/// What is measured before there is a plan keeps to it, too.
#[test]
fn tuning_is_refused_below_the_least_limit_that_works_and_runs_at_it() {
    let place = Place::new();
    place.wide_model();
    place.echo_rows("d.jsonl", "abcdefghijklmnop");
    let lora = ["tune", "wide", "--data", "d.jsonl", "--max-length", "32", "--max-steps", "3", "--seed", "3"];
    let lora = [&lora[..], &["--dry-run"]].concat();
    let full = [&lora[..lora.len() - 1], &["--method", "full", "--offload", "none", "--dry-run"]].concat();
    for args in [&lora[..], &full] {
        let limited = |mib: u64| run(&place, args, mib);
        let refused = limited(1);
        assert!(
            refused.code == Some(2) && refused.stderr.contains("error[O0231]: the run needs "),
            "{}",
            refused.stderr
        );
        let least = number(&refused.stderr, "the least that works is --mem ");
        let just = limited(least);
        assert_eq!(just.code, Some(0), "{least} MiB: {args:?}: {}", just.stderr);
        assert_eq!(limited(least - 3).code, Some(2), "{args:?}");
        let out = place.path(&format!("out{}", args.len()));
        let whole = [&args[..args.len() - 1], &["--out", out.to_str().unwrap()]].concat();
        assert_eq!(run(&place, &whole, least).code, Some(0), "{whole:?}");
    }
}

/// A server is asked for what takes most, and refused like all others before it listens.
#[test]
fn a_server_says_what_it_needs_before_it_listens() {
    let place = Place::new();
    place.wide_model();
    let serve = ["serve", "wide", "--port", "0", "--context", "512"];
    let refused = run(&place, &serve, 1);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("error[O0231]: the model needs "), "{}", refused.stderr);
    // Requests may ask for a form, which the vocabulary is sorted for: 97 tokens.
    assert!(refused.stderr.contains(" + forms 42.6 KiB + program "), "{}", refused.stderr);
    let least = number(&refused.stderr, "the least that works is --mem ");
    assert_eq!(run(&place, &serve, least - 3).code, Some(2));
}

/// No `--mem`, but a limit of addresses, which nothing foresees.
#[test]
fn memory_that_the_system_refuses_is_no_fault_of_the_program() {
    let place = Place::new();
    place.wide_model();
    let program = env!("CARGO_BIN_EXE_ounce");
    let limited = format!("ulimit -v 400000; exec '{program}' serve wide --port 0 --context 512 --cache-tokens 400000");
    let mut shell = std::process::Command::new("sh");
    let ran = shell.args(["-c", &limited]).current_dir(place.path("")).output().unwrap();
    let stderr = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error[O0006]: the system gave no memory: "), "{stderr}");
}
