//! Parquet through the `parquet` crate's row reader, without arrow.
//!
//! That crate panics on some malformed files, so it is called behind `catch_unwind`, file by file.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ::parquet::{
    basic::Compression,
    errors::ParquetError,
    file::{reader::FileReader, serialized_reader::SerializedFileReader},
    record::Field,
};
use bytes::Bytes;
use serde_json::{Map, Number, Value};

use super::Rows;

pub fn rows(bytes: Vec<u8>) -> Rows {
    let mut rows = Rows::default();
    if let Err(reason) = plausible(&bytes) {
        rows.bad(1, reason);
        return rows;
    }
    let bytes = Bytes::from(bytes);
    // What was read before a panic stays in `rows`, which is only ever pushed to: nothing is left half done.
    let outcome = catch_unwind(AssertUnwindSafe(|| read(bytes, &mut rows)));
    let next = rows.rows.len() + rows.bad.len() + 1;
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => rows.bad(next, reason),
        Err(_) => rows.bad(next, "not Parquet: the file is damaged"),
    }
    rows
}

/// The cheap checks before anything is allocated: both magics, and a footer that fits.
fn plausible(bytes: &[u8]) -> Result<(), String> {
    let n = bytes.len();
    if n < 12 || &bytes[..4] != b"PAR1" || &bytes[n - 4..] != b"PAR1" {
        return Err("not Parquet: the file does not start and end with PAR1; is it complete?".into());
    }
    let footer = u32::from_le_bytes([bytes[n - 8], bytes[n - 7], bytes[n - 6], bytes[n - 5]]) as usize;
    if footer > n - 12 {
        return Err(format!("not Parquet: a footer of {footer} bytes in a file of {n}"));
    }
    Ok(())
}

fn read(bytes: Bytes, rows: &mut Rows) -> Result<(), String> {
    let length = bytes.len() as u64;
    let wrong = |e: ParquetError| format!("not Parquet: {e}");
    let reader = SerializedFileReader::new(bytes).map_err(wrong)?;
    let metadata = reader.metadata();
    for group in metadata.row_groups() {
        for column in group.columns() {
            let (start, size) = (column.data_page_offset(), column.compressed_size());
            let fits = start >= 0 && size >= 0 && (start as u64).saturating_add(size as u64) <= length;
            let name = column.column_path().string();
            if !fits {
                return Err(format!("not Parquet: column {name} lies outside the file"));
            }
            let codec = column.compression();
            if !matches!(codec, Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_)) {
                let codec = format!("{codec:?}");
                let codec = codec.split('(').next().unwrap_or_default().to_lowercase();
                return Err(format!(
                    "column {name} is compressed with {codec}; save it with snappy, zstd or no compression"
                ));
            }
        }
    }
    for row in reader.get_row_iter(None).map_err(wrong)? {
        let row = row.map_err(wrong)?;
        let fields = row.into_columns();
        // A file without columns may claim any number of rows.
        if fields.is_empty() {
            return Err("not Parquet: it has no columns".into());
        }
        let line = rows.rows.len() + rows.bad.len() + 1;
        match object(fields) {
            Ok(row) => rows.rows.push((line, row)),
            Err(reason) => rows.bad(line, reason),
        }
    }
    Ok(())
}

fn object(fields: Vec<(String, Field)>) -> Result<Map<String, Value>, String> {
    fields.into_iter().map(|(name, field)| Ok((name, value(field)?))).collect()
}

fn value(field: Field) -> Result<Value, String> {
    let float = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(x) => Value::Bool(x),
        Field::Byte(x) => x.into(),
        Field::Short(x) => x.into(),
        Field::Int(x) => x.into(),
        Field::Long(x) => x.into(),
        Field::UByte(x) => x.into(),
        Field::UShort(x) => x.into(),
        Field::UInt(x) => x.into(),
        Field::ULong(x) => x.into(),
        Field::Float(x) => float(x.into()),
        Field::Double(x) => float(x),
        Field::Float16(x) => float(x.to_f64()),
        Field::Str(text) => Value::String(text),
        // Old writers do not mark strings as text.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => return Err("a binary field that is not text".into()),
        },
        Field::Group(row) => Value::Object(object(row.into_columns())?),
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().cloned().map(value).collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let entry = |(key, item): &(Field, Field)| match value(key.clone())? {
                Value::String(key) => Ok((key, value(item.clone())?)),
                _ => Err("a map with keys that are not text".to_owned()),
            };
            Value::Object(map.entries().iter().map(entry).collect::<Result<_, _>>()?)
        }
        Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => Value::String(field.to_string()),
    })
}
