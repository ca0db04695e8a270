//! Files to rows: the container (JSON Lines, JSON, CSV, Parquet, plain text), not the meaning of the fields.
//!
//! Files come from strangers. A row that cannot be read becomes a [`BadRow`] with its line, the rows after it are still
//! read; nothing here panics, whatever the bytes.

mod csv;
mod json;
mod parquet;

use std::path::Path;

use serde_json::{Map, Value};

use crate::{
    error::{BadRow, DataError},
    rows::Row,
};

/// Longest row in bytes. A longer one is a mistake (a binary file, a lost quote), and would fill the memory.
pub const MAX_ROW_BYTES: usize = 16 << 20;

/// How rows are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    JsonLines,
    Json,
    Csv,
    Parquet,
    /// The whole file is one document.
    Text,
}

/// The rows of one file, each with its line, and those that could not be read.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub rows: Vec<(usize, Row)>,
    /// Line and reason.
    pub bad: Vec<(usize, String)>,
}

impl Rows {
    fn bad(&mut self, line: usize, reason: impl Into<String>) {
        self.bad.push((line, reason.into()));
    }

    /// The bad rows, with the file's name.
    pub fn bad_rows(&self, file: &str) -> Vec<BadRow> {
        let named =
            |(line, reason): &(usize, String)| BadRow { file: file.into(), line: *line, reason: reason.clone() };
        self.bad.iter().map(named).collect()
    }
}

impl Container {
    /// By the file's extension.
    pub fn of(path: &Path) -> Result<Container, DataError> {
        let name = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
        let refuse =
            |reason: &str| Err(DataError::NotADataset { path: path.display().to_string(), reason: reason.to_owned() });
        match name.as_str() {
            "jsonl" | "ndjson" => Ok(Container::JsonLines),
            "json" => Ok(Container::Json),
            "csv" | "tsv" => Ok(Container::Csv),
            "parquet" => Ok(Container::Parquet),
            "txt" | "md" | "text" => Ok(Container::Text),
            "gz" | "zst" | "zip" | "bz2" | "xz" => refuse("it is compressed; unpack it first"),
            "arrow" | "feather" => refuse("arrow files are not read; save it as .parquet or .jsonl"),
            "" => refuse("it has no extension; known: .jsonl, .json, .csv, .tsv, .parquet, .txt"),
            other => refuse(&format!("unknown extension .{other}; known: .jsonl, .json, .csv, .tsv, .parquet, .txt")),
        }
    }

    /// Reads rows from the bytes of a file.
    pub fn parse(self, bytes: Vec<u8>) -> Rows {
        if matches!(bytes.get(..2), Some([0xff, 0xfe] | [0xfe, 0xff])) {
            let mut rows = Rows::default();
            rows.bad(1, "the file is UTF-16; save it as UTF-8");
            return rows;
        }
        match self {
            Container::JsonLines => json::lines(without_bom(&bytes)),
            Container::Json => json::document(without_bom(&bytes)),
            Container::Csv => csv::rows(without_bom(&bytes)),
            Container::Parquet => parquet::rows(bytes),
            Container::Text => text(without_bom(&bytes)),
        }
    }
}

/// Reads a file; also returns the BLAKE3 of its bytes in hex.
pub fn file(path: &Path) -> Result<(Rows, String), DataError> {
    let container = Container::of(path)?;
    let bytes = std::fs::read(path)
        .map_err(|e| DataError::Unreadable { path: path.display().to_string(), reason: e.to_string() })?;
    let hash = blake3::hash(&bytes).to_hex().to_string();
    Ok((container.parse(bytes), hash))
}

fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

fn text(bytes: &[u8]) -> Rows {
    let mut rows = Rows::default();
    match std::str::from_utf8(bytes) {
        Ok(text) if text.trim().is_empty() => {}
        Ok(text) => {
            // One spelling of line ends, so that a file's tokens do not depend on the system that saved it.
            let text = if text.contains('\r') { text.replace("\r\n", "\n") } else { text.to_owned() };
            rows.rows.push((1, Map::from_iter([("text".to_owned(), Value::String(text))])));
        }
        Err(error) => {
            let line = 1 + newlines(&bytes[..error.valid_up_to()]);
            rows.bad(line, not_utf8(bytes, error));
        }
    }
    rows
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&b| b == b'\n').count()
}

fn not_utf8(bytes: &[u8], error: std::str::Utf8Error) -> String {
    let at = error.valid_up_to();
    let byte = bytes.get(at).copied().unwrap_or(0);
    let start = bytes[..at].iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
    format!("not UTF-8: byte 0x{byte:02x} at column {}; save the file as UTF-8", at - start + 1)
}
