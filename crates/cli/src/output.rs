//! Where things are written: data to stdout, all else to stderr; colour only where a person looks.

pub mod live;
pub mod units;

use std::io::{IsTerminal, Write};

use clap::ValueEnum;

/// `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    #[default]
    Auto,
    Always,
    Never,
}

/// Whether to use colour. Nothing is said by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub colour: bool,
}

impl Style {
    /// (error, mark, reset).
    pub fn error(self) -> (&'static str, &'static str, &'static str) {
        if self.colour { ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m") } else { ("", "", "") }
    }

    pub fn ok(self, text: &str) -> String {
        self.paint("\x1b[32m", text)
    }

    pub fn warn(self, text: &str) -> String {
        self.paint("\x1b[33m", text)
    }

    pub fn bold(self, text: &str) -> String {
        self.paint("\x1b[1m", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.paint("\x1b[2m", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("{code}{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The two streams of a process, as its flags want them.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Data as JSON.
    pub json: bool,
    /// No notes and no progress.
    pub quiet: bool,
    stdout: Style,
    stderr: Style,
    /// Whether stderr is a terminal: live lines need one.
    pub live: bool,
}

impl Output {
    pub fn new(json: bool, quiet: bool, color: ColorChoice, no_color: bool) -> Output {
        let style = |terminal: bool| Style {
            colour: match color {
                ColorChoice::Always => true,
                ColorChoice::Never => false,
                ColorChoice::Auto => terminal && !no_color,
            },
        };
        let live = std::io::stderr().is_terminal();
        let stdout = style(std::io::stdout().is_terminal());
        Output { json, quiet, stdout, stderr: style(live), live: live && !quiet && !json }
    }

    pub fn out_style(&self) -> Style {
        self.stdout
    }

    pub fn err_style(&self) -> Style {
        self.stderr
    }

    /// A line of data.
    pub fn data(&self, line: impl AsRef<str>) {
        self.piece(&format!("{}\n", line.as_ref()));
    }

    /// A part of a line of data, shown at once.
    pub fn piece(&self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        // Whoever closed the pipe (`| head`) has seen enough: that is no error.
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }

    /// A value for a program.
    pub fn value(&self, value: &impl serde::Serialize) {
        self.data(serde_json::to_string_pretty(value).expect("plain data with text keys"));
    }

    /// A note for the person who waits.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
        }
    }

    /// What must be seen, also with `--quiet`.
    pub fn alarm(&self, text: &str) {
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}
