//! What can be wrong with a data set. A fault in a row never hides the next one: all of them are listed.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// A row that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    pub file: String,
    /// Line of the file, from 1; in a Parquet file, or a JSON list with several rows on a line, the row from 1.
    pub line: usize,
    pub reason: String,
}

/// Why a data set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("cannot read {path}: {reason}")]
    Unreadable { path: String, reason: String },
    #[error("{path} does not exist; known beside it: {beside}")]
    NotFound { path: String, beside: String },
    #[error("{path} is not a data set: {reason}")]
    NotADataset { path: String, reason: String },
    #[error("no data: name at least one file or directory")]
    NoPaths,
    #[error("{paths} holds no rows")]
    Empty { paths: String },
    #[error("unknown data format `{name}`; known: auto, messages, alpaca, sharegpt, prompt_completion, text")]
    UnknownFormat { name: String },
    #[error("{file}: the format cannot be told from the fields {fields}; {hint}")]
    Undetected { file: String, fields: String, hint: String },
    #[error("{} cannot be used:{}", rows(bad.len()), listing(bad))]
    BadRows { bad: Vec<BadRow> },
    #[error("{} longer than max_length {max_length}:{}; raise max_length, or set too_long to drop or truncate", rows(bad.len()), listing(bad))]
    TooLong { max_length: usize, bad: Vec<BadRow> },
    #[error(
        "chat data needs a chat template and this model has none; use prompt and completion fields instead, or give a template"
    )]
    NoTemplate,
    #[error("nothing is left to learn from: {reason}")]
    NothingLeft { reason: String },
    #[error("{name} is {value}: {reason}")]
    Setting { name: &'static str, value: String, reason: &'static str },
    #[error("the saved position does not belong to this data: {reason}")]
    WrongCursor { reason: String },
}

fn rows(n: usize) -> String {
    if n == 1 { "1 row".into() } else { format!("{n} rows") }
}

/// All bad rows, those of one file and reason on one line: `a.jsonl: lines 3, 7–9: no `messages``.
pub fn listing(bad: &[BadRow]) -> String {
    let mut groups: Vec<(&str, &str, Vec<usize>)> = Vec::new();
    let mut index = std::collections::HashMap::new();
    for row in bad {
        let key = (row.file.as_str(), row.reason.as_str());
        let at = *index.entry(key).or_insert_with(|| {
            groups.push((key.0, key.1, Vec::new()));
            groups.len() - 1
        });
        groups[at].2.push(row.line);
    }
    let mut out = String::new();
    for (file, reason, lines) in groups {
        let word = if lines.len() == 1 { "line" } else { "lines" };
        let _ = write!(out, "\n  {file}: {word} {}: {reason}", ranges(&lines));
    }
    out
}

/// `3, 7–9` for 3, 7, 8, 9.
fn ranges(lines: &[usize]) -> String {
    let mut lines = lines.to_vec();
    lines.sort_unstable();
    lines.dedup();
    let mut out = String::new();
    let mut i = 0;
    while i < lines.len() {
        let start = i;
        while i + 1 < lines.len() && lines[i + 1] == lines[i] + 1 {
            i += 1;
        }
        if !out.is_empty() {
            out.push_str(", ");
        }
        let _ = match i - start {
            0 => write!(out, "{}", lines[start]),
            1 => write!(out, "{}, {}", lines[start], lines[i]),
            _ => write!(out, "{}–{}", lines[start], lines[i]),
        };
        i += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_rows_are_grouped_and_none_is_left_out() {
        let bad: Vec<BadRow> = [(9, "b"), (3, "a"), (7, "a"), (8, "a"), (9, "a"), (12, "a"), (13, "a")]
            .map(|(line, reason)| BadRow { file: "x.jsonl".into(), line, reason: reason.into() })
            .into();
        let text = DataError::BadRows { bad }.to_string();
        assert_eq!(text, "7 rows cannot be used:\n  x.jsonl: line 9: b\n  x.jsonl: lines 3, 7–9, 12, 13: a");
    }
}
