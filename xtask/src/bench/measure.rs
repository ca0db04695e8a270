//! Runs one program that prints a measurement, and watches it from outside: its peak memory and what the rest of the machine
//! did meanwhile. The same for our programs and for the peers'. Knows no settings and no tables.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::proc;

/// How often the peak is read. The system keeps the maximum, so only growth in the last interval of a process is missed.
const INTERVAL: Duration = Duration::from_millis(20);
/// Ticks of `/proc/stat` in a second: `USER_HZ`, 100 on every Linux.
const TICKS_S: f64 = 100.0;

/// What one run of a program gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The JSON it printed.
    pub said: Value,
    /// Its largest resident size.
    pub peak_mib: f64,
    /// Cores that others kept busy, on average over the run; what the hypervisor took counts.
    pub foreign_cores: f64,
}

impl Run {
    /// A number that the program printed.
    pub fn number(&self, name: &str) -> Result<f64, String> {
        self.said[name].as_f64().ok_or_else(|| format!("the measurement has no number `{name}`: {}", self.said))
    }
}

/// Runs to the end. The measurement is all of stdout if that is JSON, else its last line that is.
pub fn run(command: &mut Command) -> Result<Run, String> {
    let started = Instant::now();
    let (all_before, own_before) = (busy_ticks()?, own_ticks()?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start `{}`: {e}", proc::shown(command)))?;
    // Both pipes are emptied beside the watching, or a talkative program would wait for us.
    let out = child.stdout.take().map(drain);
    let err = child.stderr.take().map(drain);
    let mut peak_mib = 0.0;
    let status = loop {
        peak_mib = peak_of(child.id()).unwrap_or(peak_mib);
        match child.try_wait().map_err(|e| format!("lost `{}`: {e}", proc::shown(command)))? {
            Some(status) => break status,
            None => std::thread::sleep(INTERVAL),
        }
    };
    let joined =
        |reader: Option<std::thread::JoinHandle<String>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
    let (out, err) = (joined(out), joined(err));
    if !status.success() {
        let last: Vec<&str> = err.trim_end().lines().rev().take(12).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        return Err(format!("`{}` failed: {status}\n{}", proc::shown(command), last.join("\n")));
    }
    // The child has been waited for, so that its time and its children's is in our own.
    let foreign = (busy_ticks()? - all_before) - (own_ticks()? - own_before);
    let foreign_cores = (foreign / TICKS_S / started.elapsed().as_secs_f64()).max(0.0);
    let said =
        json_in(&out).ok_or_else(|| format!("`{}` printed no JSON:\n{}", proc::shown(command), out.trim_end()))?;
    Ok(Run { said, peak_mib, foreign_cores })
}

fn drain(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before a failure is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn json_in(out: &str) -> Option<Value> {
    let structured = |text: &str| serde_json::from_str::<Value>(text).ok().filter(|v| v.is_object() || v.is_array());
    structured(out).or_else(|| out.lines().rev().find_map(structured))
}

fn busy_ticks() -> Result<f64, String> {
    let text = std::fs::read_to_string("/proc/stat").map_err(|e| format!("cannot read /proc/stat: {e}"))?;
    busy_ticks_of(&text).ok_or_else(|| "/proc/stat does not begin with the times of all cores".into())
}

/// User, nice, system, interrupts and stolen time of all cores; not idle, not waiting for disks.
fn busy_ticks_of(stat: &str) -> Option<f64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let columns: Vec<f64> = line.split_whitespace().map_while(|c| c.parse().ok()).collect();
    [0, 1, 2, 5, 6, 7].iter().map(|&i| columns.get(i)).sum::<Option<f64>>()
}

fn own_ticks() -> Result<f64, String> {
    let text = std::fs::read_to_string("/proc/self/stat").map_err(|e| format!("cannot read /proc/self/stat: {e}"))?;
    own_ticks_of(&text).ok_or_else(|| "/proc/self/stat has no times".into())
}

/// Seconds of processor time that a process that runs has had.
pub fn seconds_of(process: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    own_ticks_of(&stat).map(|ticks| ticks / TICKS_S)
}

/// User and system time of this process and of the children that it has waited for.
fn own_ticks_of(stat: &str) -> Option<f64> {
    // The name in brackets may hold blanks and brackets; the fields after it are counted from the last bracket.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    fields.get(11..15)?.iter().map(|f| f.parse::<f64>().ok()).sum::<Option<f64>>()
}

/// The largest resident size so far of a process that runs.
pub fn peak_of(process: u32) -> Option<f64> {
    peak_mib_of(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

fn peak_mib_of(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_counters_are_read() {
        let stat = "cpu  100 1 20 5000 300 4 5 6 0 0\ncpu0 50 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(busy_ticks_of(stat), Some(136.0));
        assert_eq!(busy_ticks_of("cpu0 50 0 0 0 0 0 0 0\n"), None);
        assert_eq!(busy_ticks_of("cpu  1 2 3\n"), None);
        let own = "7 (a ) b) S 1 7 7 0 -1 0 0 0 0 0 11 12 13 14 20 0 1 0";
        assert_eq!(own_ticks_of(own), Some(50.0));
        assert_eq!(peak_mib_of("VmPeak:\t9 kB\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n"), Some(2.0));
        assert_eq!(peak_mib_of("Name:\tzombie\n"), None);
    }

    #[test]
    fn the_measurement_is_found_among_other_lines() {
        assert_eq!(json_in("loading\n{\"a\":1}\nbye\n").unwrap()["a"], 1);
        assert_eq!(json_in("[\n {\"a\": 1},\n {\"a\": 2}\n]\n").unwrap()[1]["a"], 2);
        assert_eq!(json_in("3\nnothing\n"), None);
    }

    #[test]
    fn a_program_is_watched_while_it_runs() {
        let script = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo '{\"tok_s\": 2.5}'";
        let run = run(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(run.number("tok_s"), Ok(2.5));
        assert!(run.number("losses").unwrap_err().contains("losses"));
        assert!(run.peak_mib > 0.1 && run.foreign_cores >= 0.0, "{run:?}");
    }

    #[test]
    fn a_failing_program_is_named_with_what_it_said() {
        let message = run(Command::new("sh").args(["-c", "echo 'no such model' >&2; exit 3"])).unwrap_err();
        assert!(message.contains("sh -c") && message.contains("no such model"), "{message}");
        assert!(run(Command::new("sh").args(["-c", "echo hello"])).unwrap_err().contains("no JSON"));
    }
}
