//! Running other programs: every failure names the command line and what to do.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// The command line as a person would type it, for messages.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs with our own stdout and stderr; an exit status other than 0 is an error.
pub fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| cannot_start(command, &e))?;
    if status.success() { Ok(()) } else { Err(format!("`{}` failed: {status}", shown(command))) }
}

/// Runs and returns stdout; stderr goes into the error.
pub fn capture(command: &mut Command) -> Result<String, String> {
    let out = command.stdin(Stdio::null()).output().map_err(|e| cannot_start(command, &e))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        return Err(format!("`{}` failed: {}\n{}", shown(command), out.status, stderr.trim_end()));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs, prints stdout as it comes and hands each line to `each`; returns whether the exit status was 0.
pub fn run_seeing_lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool, String> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| cannot_start(command, &e))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.map_err(|e| format!("cannot read the output of `{}`: {e}", shown(command)))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            each(&line);
        }
    }
    let status = child.wait().map_err(|e| format!("lost `{}`: {e}", shown(command)))?;
    Ok(status.success())
}

fn cannot_start(command: &Command, e: &std::io::Error) -> String {
    let program = command.get_program().to_string_lossy();
    match e.kind() {
        std::io::ErrorKind::NotFound => format!("`{program}` is not installed or not on PATH"),
        _ => format!("cannot start `{}`: {e}", shown(command)),
    }
}
