//! What a verb fails with, and how it is shown: what, where, why, what to do.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use crate::codes::{self, Code};
use crate::output::Style;

/// An error as a person reads it. All that is wrong is in it, not the first fault.
#[derive(Debug)]
pub struct CliError {
    pub code: &'static Code,
    /// One sentence, lower case, no full stop.
    pub what: String,
    /// Single faults with their places.
    pub places: Vec<Place>,
    /// Facts that explain it.
    pub details: Vec<String>,
    /// What to do, best first.
    pub help: Vec<String>,
}

#[derive(Debug)]
pub struct Place {
    /// `recipe.yaml:7`, a path, a flag.
    pub at: String,
    pub what: String,
    pub help: Option<String>,
}

pub type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    pub fn new(code: &'static Code, what: impl Into<String>) -> CliError {
        CliError { code, what: what.into(), places: Vec::new(), details: Vec::new(), help: Vec::new() }
    }

    pub fn at(mut self, at: impl Into<String>, what: impl Into<String>) -> CliError {
        self.places.push(Place { at: at.into(), what: what.into(), help: None });
        self
    }

    pub fn detail(mut self, detail: impl Into<String>) -> CliError {
        self.details.push(detail.into());
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> CliError {
        self.help.push(help.into());
        self
    }

    /// A message of a library whose further lines are the single faults.
    pub fn of(code: &'static Code, error: &dyn std::error::Error) -> CliError {
        let text = error.to_string();
        let mut lines = text.lines();
        let mut out = CliError::new(code, lines.next().unwrap_or_default().trim_end_matches(':'));
        out.details = lines.map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
        out
    }

    pub fn read(path: &Path, error: &std::io::Error) -> CliError {
        let out = CliError::new(&codes::READ, format!("cannot read {}", path.display())).detail(reason(error));
        match error.kind() {
            std::io::ErrorKind::NotFound => out.help("check the path; relative paths start at the current directory"),
            std::io::ErrorKind::PermissionDenied => out.help("ask for the right to read it, or copy it"),
            _ => out.help("check the file and its disk"),
        }
    }

    pub fn write(path: &Path, error: &std::io::Error) -> CliError {
        let full = matches!(
            error.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge
        );
        let code = if full { &codes::DISK_FULL } else { &codes::WRITE };
        let help = match error.kind() {
            _ if full => "make room on this disk and run the same command again",
            std::io::ErrorKind::TimedOut => "see to the disk and run the same command again",
            _ => "choose a place that you may write to",
        };
        CliError::new(code, format!("cannot write {}", path.display())).detail(reason(error)).help(help)
    }

    /// The text for a person.
    ///
    /// ```text
    /// error[O0231]: model needs 14.2 GiB, limit is 8.0 GiB
    ///   --> runs/a.yaml:7: method is full
    ///   = weights 3.4 + grads 3.4 + Adam 6.8 GiB
    ///   help: ounce tune … --method lora
    /// ```
    pub fn render(&self, style: Style) -> String {
        let (bold, mark, off) = style.error();
        let mut out = format!("{bold}error[{}]{off}: {}\n", self.code.id, self.what);
        for place in &self.places {
            let _ = write!(out, "  {mark}-->{off} {}", place.at);
            if !place.what.is_empty() {
                let _ = write!(out, ": {}", place.what);
            }
            out.push('\n');
            if let Some(help) = &place.help {
                let _ = writeln!(out, "      {help}");
            }
        }
        for detail in &self.details {
            let _ = writeln!(out, "  {mark}={off} {detail}");
        }
        for help in &self.help {
            let _ = writeln!(out, "  {mark}help:{off} {help}");
        }
        out
    }

    /// The same for a program, with `--json`.
    pub fn json(&self) -> serde_json::Value {
        let places: Vec<_> = self.places.iter().map(|p| json!({"at": p.at, "what": p.what, "help": p.help})).collect();
        json!({"error": {
            "code": self.code.id,
            "what": self.what,
            "places": places,
            "details": self.details,
            "help": self.help,
        }})
    }
}

/// The system's reason without its number: `no such file or directory`.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text).to_owned();
    let mut chars = text.chars();
    chars.next().map(|c| c.to_lowercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

/// `1 row`, `3 rows`.
pub fn plural(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}
