//! LLaMA-Factory's `dataset_info.json`: where a data set lies, its layout, and what its columns and roles are called.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{
    error::DataError,
    rows::{Format, Row},
};

pub const FILE: &str = "dataset_info.json";

/// How the fields of a file map to those of a known format.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub format: Format,
    /// Canonical field, field in the file.
    columns: Vec<(&'static str, String)>,
    /// Fields of a turn: role and content.
    turn: [String; 2],
    /// Role in the file, canonical `from`.
    roles: Vec<(String, &'static str)>,
    pub max_rows: Option<usize>,
}

/// LLaMA-Factory's column names and the fields they stand for, by layout.
const ALPACA: [(&str, &str); 6] = [
    ("prompt", "instruction"),
    ("query", "input"),
    ("response", "output"),
    ("history", "history"),
    ("system", "system"),
    ("tools", "tools"),
];
const SHAREGPT: [(&str, &str); 3] = [("messages", "conversations"), ("system", "system"), ("tools", "tools")];
const ROLES: [(&str, &str); 5] = [
    ("user_tag", "human"),
    ("assistant_tag", "gpt"),
    ("observation_tag", "observation"),
    ("function_tag", "function_call"),
    ("system_tag", "system"),
];

/// The data set called `name` in a `dataset_info.json`.
pub fn entry(file: &Path, name: &str) -> Result<(PathBuf, Mapping), DataError> {
    let entries = open(file)?;
    match entries.get(name) {
        Some(entry) => read(file, name, entry),
        None => {
            let names: Vec<&str> = entries.keys().map(String::as_str).collect();
            Err(DataError::NotFound {
                path: file.with_file_name(name).display().to_string(),
                beside: format!("in {}: {}", file.display(), names.join(", ")),
            })
        }
    }
}

/// The data set of a `dataset_info.json` that describes one.
pub fn only_entry(file: &Path) -> Result<(PathBuf, Mapping), DataError> {
    let entries = open(file)?;
    let mut all = entries.iter();
    match (all.next(), all.next()) {
        (Some((name, entry)), None) => read(file, name, entry),
        (None, _) => Err(wrong(file, "it describes no data set".into())),
        _ => {
            let names: Vec<&str> = entries.keys().map(String::as_str).collect();
            let first = file.with_file_name(names[0]);
            let reason = format!("it describes {}; choose one, as in {}", names.join(", "), first.display());
            Err(wrong(file, reason))
        }
    }
}

fn wrong(file: &Path, reason: String) -> DataError {
    DataError::NotADataset { path: file.display().to_string(), reason }
}

fn open(file: &Path) -> Result<Map<String, Value>, DataError> {
    let bytes = std::fs::read(file)
        .map_err(|e| DataError::Unreadable { path: file.display().to_string(), reason: e.to_string() })?;
    parse(file, &bytes)
}

fn parse(file: &Path, bytes: &[u8]) -> Result<Map<String, Value>, DataError> {
    // Editors on some systems begin a file with a byte order mark.
    match serde_json::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)) {
        Ok(Value::Object(entries)) => Ok(entries),
        Ok(_) => Err(wrong(file, "not an object of data sets by name".into())),
        Err(error) => Err(wrong(file, format!("not JSON: {error}"))),
    }
}

fn read(file: &Path, name: &str, entry: &Value) -> Result<(PathBuf, Mapping), DataError> {
    let fail = |reason: String| Err(wrong(file, format!("`{name}`: {reason}")));
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    if entry.get("ranking").and_then(Value::as_bool) == Some(true) {
        return fail("it holds preference pairs (`ranking`), which tuning on answers cannot use".into());
    }
    let Some(path) = text(entry, "file_name") else {
        return fail("no `file_name`; a data set on a hub has to be downloaded first".into());
    };
    let layout = text(entry, "formatting").unwrap_or_else(|| "alpaca".into());
    let (format, known): (Format, &[(&str, &'static str)]) = match layout.as_str() {
        "alpaca" => (Format::Alpaca, &ALPACA),
        "sharegpt" | "openai" => (Format::Sharegpt, &SHAREGPT),
        other => return fail(format!("unknown `formatting` `{other}`; known: alpaca, sharegpt")),
    };
    let nothing = Value::Object(Map::new());
    let (columns, tags) = (entry.get("columns").unwrap_or(&nothing), entry.get("tags").unwrap_or(&nothing));
    let columns: Vec<(&'static str, String)> =
        known.iter().filter_map(|(theirs, ours)| Some((*ours, text(columns, theirs)?))).collect();
    // A pre-training set names only its text column.
    let plain = format == Format::Alpaca && columns.len() == 1 && columns[0].0 == "instruction";
    let mapping = Mapping {
        format: if plain { Format::Text } else { format },
        columns: if plain { vec![("text", columns[0].1.clone())] } else { columns },
        turn: [
            text(tags, "role_tag").unwrap_or_else(|| if layout == "openai" { "role" } else { "from" }.into()),
            text(tags, "content_tag").unwrap_or_else(|| if layout == "openai" { "content" } else { "value" }.into()),
        ],
        roles: ROLES.iter().filter_map(|(tag, ours)| Some((text(tags, tag)?, *ours))).collect(),
        max_rows: entry.get("num_samples").and_then(Value::as_u64).map(|n| n as usize),
    };
    Ok((file.with_file_name(path), mapping))
}

impl Mapping {
    /// Renames a row's fields, turns and roles to those of the format.
    pub fn apply(&self, mut row: Row) -> Row {
        for (ours, theirs) in &self.columns {
            if ours != theirs
                && let Some(value) = row.shift_remove(theirs.as_str())
            {
                row.insert((*ours).to_owned(), value);
            }
        }
        if let Some(Value::Array(turns)) = row.get_mut("conversations") {
            for turn in turns.iter_mut().filter_map(Value::as_object_mut) {
                for (theirs, ours) in self.turn.iter().zip(["from", "value"]) {
                    if theirs != ours
                        && let Some(value) = turn.shift_remove(theirs.as_str())
                    {
                        turn.insert(ours.to_owned(), value);
                    }
                }
                let role = turn.get("from").and_then(Value::as_str).unwrap_or_default();
                if let Some((_, ours)) = self.roles.iter().find(|(theirs, _)| theirs == role) {
                    turn.insert("from".to_owned(), Value::String((*ours).to_owned()));
                }
            }
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutated descriptions end in a mapping or an error, and a mapping can be applied to any row. `OUNCE_FUZZ_ITERS` sets the
    /// number of inputs.
    #[test]
    fn mutated_descriptions_do_no_harm() {
        let iterations = std::env::var("OUNCE_FUZZ_ITERS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
        let seed = br#"{"a": {"file_name": "a.json", "columns": {"prompt": "q", "response": "r", "history": "h"}},
            "b": {"file_name": "b.json", "formatting": "sharegpt", "num_samples": 3, "columns": {"messages": "turns"},
            "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "U", "assistant_tag": "A"}},
            "c": {"file_name": "c.json", "ranking": false, "formatting": "openai"}}"#;
        let words: [&[u8]; 12] =
            [b"\"", b"{", b"}", b"[", b"null", b"-1", b"1e999", b"conversations", b"from", b"\\ud800", b"..", b"\xff"];
        let rows = [
            r#"{"q": "x", "r": "y", "turns": [{"who": "U", "says": "x"}, 3, null], "conversations": {"from": 1}}"#,
            r#"{"conversations": [{"from": "U", "value": 1}, {"who": []}], "h": null}"#,
        ];
        let rows: Vec<Row> = rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
        let mut state = 7u64;
        let mut random = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) as usize) % n
        };
        let (mut mapped, mut refused) = (0, 0);
        for _ in 0..iterations {
            let mut bytes = seed.to_vec();
            for _ in 0..1 + random(3) {
                let at = random(bytes.len() + 1);
                match random(4) {
                    0 => drop(bytes.splice(at..at, words[random(words.len())].iter().copied())),
                    1 if at < bytes.len() => bytes[at] = random(256) as u8,
                    2 => bytes.truncate(at.max(1)),
                    _ => drop(bytes.drain(at..(at + random(20)).min(bytes.len()))),
                }
            }
            let file = Path::new("dataset_info.json");
            let Ok(entries) = parse(file, &bytes) else {
                refused += 1;
                continue;
            };
            for (name, entry) in &entries {
                let Ok((_, mapping)) = read(file, name, entry) else { continue };
                mapped += 1;
                for row in &rows {
                    let _ = mapping.format.parse(&mapping.apply(row.clone()));
                }
            }
        }
        assert!(mapped > refused / 20 && refused > 0, "{mapped} mapped, {refused} refused");
    }
}
