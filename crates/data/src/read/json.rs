//! JSON Lines, and JSON documents that are a list of objects (or an object that holds one list of objects).

use rayon::prelude::*;
use serde_json::{Value, value::RawValue};

use super::{MAX_ROW_BYTES, Rows, newlines, not_utf8};
use crate::rows::{Row, kind};

/// One object per line. Blank lines are skipped; CRLF is a line end.
pub fn lines(bytes: &[u8]) -> Rows {
    let numbered: Vec<(usize, &[u8])> = bytes.split(|&b| b == b'\n').enumerate().map(|(i, l)| (i + 1, l)).collect();
    let parsed: Vec<(usize, Option<Result<Row, String>>)> =
        numbered.into_par_iter().map(|(line, bytes)| (line, one(bytes))).collect();
    collect(parsed)
}

fn one(line: &[u8]) -> Option<Result<Row, String>> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return None;
    }
    if line.len() > MAX_ROW_BYTES {
        return Some(Err(format!("the line has {} bytes, more than {MAX_ROW_BYTES}", line.len())));
    }
    Some(match std::str::from_utf8(line) {
        Ok(text) => object(text),
        Err(error) => Err(not_utf8(line, error)),
    })
}

fn object(text: &str) -> Result<Row, String> {
    // The parser limits nesting to 128 levels itself.
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(other) => Err(format!("{}, not an object", kind(&other))),
        Err(error) => Err(reason(&error)),
    }
}

/// The parser's reason, without its line: that is 1 for every row.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    format!("not JSON: {text} (column {})", error.column())
}

fn collect(parsed: Vec<(usize, Option<Result<Row, String>>)>) -> Rows {
    let mut rows = Rows::default();
    for (line, row) in parsed {
        match row {
            Some(Ok(row)) => rows.rows.push((line, row)),
            Some(Err(reason)) => rows.bad(line, reason),
            None => {}
        }
    }
    rows
}

/// A `.json` file. Many of them are JSON Lines under another name, so that is tried where it is not one document.
pub fn document(bytes: &[u8]) -> Rows {
    let mut rows = Rows::default();
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            rows.bad(1 + newlines(&bytes[..error.valid_up_to()]), not_utf8(bytes, error));
            return rows;
        }
    };
    match text.trim_start().as_bytes().first() {
        None => rows,
        Some(b'[') => list(text, text, &mut rows).map_or_else(
            |error| {
                // Lines that are lists each land here too; they are no objects, which is then the better reason.
                let as_lines = lines(bytes);
                if as_lines.rows.is_empty() {
                    let mut rows = Rows::default();
                    rows.bad(error.line(), reason(&error));
                    rows
                } else {
                    as_lines
                }
            },
            |()| std::mem::take(&mut rows),
        ),
        Some(_) => object_document(text).unwrap_or_else(|| lines(bytes)),
    }
}

/// The elements of a list as rows, each with the line where it starts; where two start on one line, each with its place
/// in the list, from 1.
fn list(text: &str, whole: &str, rows: &mut Rows) -> Result<(), serde_json::Error> {
    let items: Vec<&RawValue> = serde_json::from_str(text)?;
    let base = whole.as_ptr() as usize;
    let (mut line, mut seen) = (1, 0);
    let mut starts: Vec<usize> = Vec::with_capacity(items.len());
    for item in &items {
        let at = item.get().as_ptr() as usize - base;
        line += newlines(&whole.as_bytes()[seen..at]);
        seen = at;
        starts.push(line);
    }
    if starts.windows(2).any(|pair| pair[0] == pair[1]) {
        starts = (1..=items.len()).collect();
    }
    for (item, line) in items.into_iter().zip(starts) {
        if item.get().len() > MAX_ROW_BYTES {
            rows.bad(line, format!("the row has {} bytes, more than {MAX_ROW_BYTES}", item.get().len()));
            continue;
        }
        match object(item.get()) {
            Ok(row) => rows.rows.push((line, row)),
            Err(reason) => rows.bad(line, reason),
        }
    }
    Ok(())
}

/// `{"data": [{…}, …]}`, or one row alone. `None`: not one document.
fn object_document(text: &str) -> Option<Rows> {
    let fields: std::collections::BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    let mut rows = Rows::default();
    let wrapped = ["data", "rows", "train", "examples"].iter().find_map(|name| fields.get(*name));
    if let (Some(inner), 1) = (wrapped, fields.len()) {
        list(inner.get(), text, &mut rows).ok()?;
    } else {
        let line = 1 + newlines(&text.as_bytes()[..text.len() - text.trim_start().len()]);
        match object(text) {
            Ok(row) => rows.rows.push((line, row)),
            Err(reason) => rows.bad(line, reason),
        }
    }
    Some(rows)
}
