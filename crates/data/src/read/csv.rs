//! CSV with a header line. The separator is the one that occurs most in the header: comma, semicolon or tab.

use serde_json::{Map, Value};

use super::{MAX_ROW_BYTES, Rows, newlines};

pub fn rows(bytes: &[u8]) -> Rows {
    let mut rows = Rows::default();
    let header_line = bytes.split(|&b| b == b'\n').find(|l| !l.trim_ascii().is_empty()).unwrap_or_default();
    let count = |separator: u8| header_line.iter().filter(|&&b| b == separator).count();
    let separator = [b',', b';', b'\t'].into_iter().rev().max_by_key(|&s| count(s)).unwrap_or(b',');
    // Rows of another length than the header are reported here, not by the reader, which would stop at the first.
    let mut reader = csv::ReaderBuilder::new().delimiter(separator).flexible(true).from_reader(bytes);
    let header = match reader.byte_headers() {
        Ok(header) => header.clone(),
        Err(error) => {
            rows.bad(1, format!("not CSV: {error}"));
            return rows;
        }
    };
    let mut names = Vec::new();
    for (i, name) in header.iter().enumerate() {
        match std::str::from_utf8(name) {
            Ok(name) => names.push(name.trim().to_owned()),
            Err(_) => {
                rows.bad(1, format!("the name of column {} is not UTF-8; save the file as UTF-8", i + 1));
                return rows;
            }
        }
    }
    let mut record = csv::ByteRecord::new();
    let (mut line, mut seen) = (1, 0);
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(false) => break,
            Err(error) => {
                rows.bad(reader.position().line() as usize, format!("not CSV: {error}"));
                break;
            }
            Ok(true) => {}
        }
        // The reader's own line is one short after CRLF and blank lines: a record starts after all line ends before it.
        let mut at = record.position().map_or(seen, |p| p.byte() as usize).clamp(seen, bytes.len());
        at += bytes[at..].iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        line += newlines(&bytes[seen..at]);
        seen = at;
        match one(&names, &record) {
            Ok(row) => rows.rows.push((line, row)),
            Err(reason) => rows.bad(line, reason),
        }
    }
    rows
}

fn one(names: &[String], record: &csv::ByteRecord) -> Result<Map<String, Value>, String> {
    if record.len() != names.len() {
        return Err(format!("{} fields, but the header has {}; is a quote missing?", record.len(), names.len()));
    }
    if record.as_slice().len() > MAX_ROW_BYTES {
        return Err(format!("the row has {} bytes, more than {MAX_ROW_BYTES}", record.as_slice().len()));
    }
    let mut row = Map::new();
    for (name, field) in names.iter().zip(record) {
        let text = std::str::from_utf8(field)
            .map_err(|_| format!("`{name}` is not UTF-8; save the file as UTF-8"))?
            .replace("\r\n", "\n");
        // Structured columns are written as JSON in the cell.
        let structured = matches!(name.as_str(), "messages" | "conversations" | "history" | "tools");
        let value = match serde_json::from_str::<Value>(&text) {
            Ok(list @ Value::Array(_)) if structured => list,
            _ => Value::String(text),
        };
        row.insert(name.clone(), value);
    }
    Ok(row)
}
