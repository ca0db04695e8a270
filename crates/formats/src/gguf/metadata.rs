//! The key-value part of a GGUF file: typed values and typed ways to ask for them. It knows no key's meaning.

use std::{collections::HashMap, fmt};

use super::GgufError;
use crate::bytes::Bytes;

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of one element type. Arrays of arrays are not supported.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Strings(Strings),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Many strings in the bytes of the file itself: a vocabulary has a quarter of a million of them, and a `String` for
/// each would cost more than the rest of opening a model. They are not known to be UTF-8 until asked for as text.
#[derive(Clone, Default)]
pub struct Strings {
    /// Each string, with its length before it as a little-endian u64.
    region: Bytes,
    /// Where each string's first byte is in `region`.
    starts: Vec<u32>,
}

impl Strings {
    /// Strings whose first bytes are at `starts` of `region`, each after its length; checked by the reader.
    pub(super) fn checked(region: Bytes, starts: Vec<u32>) -> Self {
        Strings { region, starts }
    }

    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The bytes of string `index`, if there are that many.
    pub fn bytes(&self, index: usize) -> Option<&[u8]> {
        let start = *self.starts.get(index)? as usize;
        let length = u64::from_le_bytes(self.region[start - 8..start].try_into().ok()?) as usize;
        Some(&self.region[start..start + length])
    }

    /// String `index`, if there are that many and it is UTF-8.
    pub fn get(&self, index: usize) -> Option<&str> {
        std::str::from_utf8(self.bytes(index)?).ok()
    }

    /// All strings as bytes, in order.
    pub fn iter_bytes(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|index| self.bytes(index).unwrap_or_default())
    }

    /// The strings as they stand in the file: lengths and bytes.
    pub(super) fn encoded(&self) -> &[u8] {
        &self.region
    }
}

impl<S: AsRef<[u8]>> FromIterator<S> for Strings {
    /// # Panics
    /// If the strings take more than 4 GiB together.
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let (mut region, mut starts) = (Vec::new(), Vec::new());
        for string in strings {
            let string = string.as_ref();
            region.extend_from_slice(&(string.len() as u64).to_le_bytes());
            starts.push(u32::try_from(region.len()).expect("strings of at most 4 GiB"));
            region.extend_from_slice(string);
        }
        Strings { region: Bytes::copy_of(&region), starts }
    }
}

impl PartialEq for Strings {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter_bytes().eq(other.iter_bytes())
    }
}

impl fmt::Debug for Strings {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Strings({})", self.len())
    }
}

/// The metadata of a file, in its order.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    pub fn contains(&self, key: &str) -> bool {
        self.index.contains_key(key)
    }

    /// Sets a key, in its old place if it was there.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.index.get(&key) {
            Some(&i) => self.entries[i].1 = value,
            None => {
                self.index.insert(key.clone(), self.entries.len());
                self.entries.push((key, value));
            }
        }
    }

    /// Removes a key and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let i = self.index.remove(key)?;
        for position in self.index.values_mut().filter(|position| **position > i) {
            *position -= 1;
        }
        Some(self.entries.remove(i).1)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A whole number of any integer type; `None` if the key is absent.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "a whole number of 0 or more", |value| match *value {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            Value::I8(v) => v.try_into().ok(),
            Value::I16(v) => v.try_into().ok(),
            Value::I32(v) => v.try_into().ok(),
            Value::I64(v) => v.try_into().ok(),
            _ => None,
        })
    }

    /// As [`Metadata::u64`], below 2³².
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        let Some(value) = self.u64(key)? else { return Ok(None) };
        u32::try_from(value).map(Some).map_err(|_| self.wrong(key, "a whole number below 2^32"))
    }

    /// As [`Metadata::u32`], as a size.
    pub fn usize(&self, key: &str) -> Result<Option<usize>, GgufError> {
        Ok(self.u32(key)?.map(|value| value as usize))
    }

    /// A finite or infinite float of either width.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a float", |value| match *value {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        })
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a bool", |value| match *value {
            Value::Bool(v) => Some(v),
            _ => None,
        })
    }

    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::String(v) => Some(v.as_str()),
            _ => None,
        })
    }

    /// An array of strings, not yet known to be UTF-8.
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>, GgufError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::Strings(v)) => Some(v),
            _ => None,
        })
    }

    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>, GgufError> {
        self.typed(key, "an array of f32", |value| match value {
            Value::Array(Array::F32(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// An array of any integer type whose values fit i32.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        fn narrow<T: Copy + TryInto<i32>>(values: &[T]) -> Option<Vec<i32>> {
            values.iter().map(|&v| v.try_into().ok()).collect()
        }
        self.typed(key, "an array of whole numbers", |value| match value {
            Value::Array(Array::I32(v)) => Some(v.clone()),
            Value::Array(Array::U32(v)) => narrow(v),
            Value::Array(Array::I64(v)) => narrow(v),
            Value::Array(Array::U64(v)) => narrow(v),
            Value::Array(Array::I16(v)) => narrow(v),
            Value::Array(Array::U16(v)) => narrow(v),
            Value::Array(Array::I8(v)) => narrow(v),
            Value::Array(Array::U8(v)) => narrow(v),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.wrong(key, expected)),
        }
    }

    pub(super) fn wrong(&self, key: &str, expected: &'static str) -> GgufError {
        let found = self.get(key).map_or_else(|| "absent".into(), describe);
        GgufError::WrongType { key: key.into(), expected, found }
    }
}

/// A value in a few words, for messages.
fn describe(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().count() > 40 => format!("a string of {} bytes", text.len()),
        Value::Array(array) => format!("an array of {} {}", array.len(), array.element()),
        other => format!("{other:?}"),
    }
}

impl Array {
    pub fn len(&self) -> usize {
        match self {
            Array::U8(v) => v.len(),
            Array::I8(v) => v.len(),
            Array::U16(v) => v.len(),
            Array::I16(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::Strings(v) => v.len(),
            Array::U64(v) => v.len(),
            Array::I64(v) => v.len(),
            Array::F64(v) => v.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of the element type.
    pub fn element(&self) -> &'static str {
        match self {
            Array::U8(_) => "u8",
            Array::I8(_) => "i8",
            Array::U16(_) => "u16",
            Array::I16(_) => "i16",
            Array::U32(_) => "u32",
            Array::I32(_) => "i32",
            Array::F32(_) => "f32",
            Array::Bool(_) => "bool",
            Array::Strings(_) => "strings",
            Array::U64(_) => "u64",
            Array::I64(_) => "i64",
            Array::F64(_) => "f64",
        }
    }
}

macro_rules! value_from {
    ($($from:ty => $value:expr;)*) => { $(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                let make: fn($from) -> Value = $value;
                make(value)
            }
        }
    )* };
}

value_from! {
    u32 => Value::U32;
    u64 => Value::U64;
    f32 => Value::F32;
    bool => Value::Bool;
    String => Value::String;
    &str => |text| Value::String(text.to_owned());
    Strings => |strings| Value::Array(Array::Strings(strings));
    Vec<i32> => |values| Value::Array(Array::I32(values));
    Vec<u32> => |values| Value::Array(Array::U32(values));
    Vec<f32> => |values| Value::Array(Array::F32(values));
    Array => Value::Array;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn getters_convert_integers_and_name_wrong_types() {
        let mut metadata = Metadata::new();
        metadata.set("a", Value::I64(7));
        metadata.set("b", Value::I32(-1));
        metadata.set("c", "text");
        metadata.set("d", 1u64 << 40);
        assert_eq!(metadata.u32("a"), Ok(Some(7)));
        assert_eq!(metadata.u32("nothing"), Ok(None));
        for (key, found) in [("b", "I32(-1)"), ("c", "String(\"text\")"), ("d", "U64(1099511627776)")] {
            let message = metadata.u32(key).unwrap_err().to_string();
            assert!(message.contains(found) && message.contains(key), "{message}");
        }
    }

    #[test]
    fn removing_a_key_keeps_the_others() {
        let mut metadata = Metadata::new();
        for (i, key) in ["a", "b", "c"].into_iter().enumerate() {
            metadata.set(key, i as u32);
        }
        assert_eq!(metadata.remove("b"), Some(Value::U32(1)));
        metadata.set("a", 9u32);
        let left: Vec<_> = metadata.iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
        assert_eq!(left, [("a".to_owned(), Value::U32(9)), ("c".to_owned(), Value::U32(2))]);
        assert_eq!(metadata.u32("c"), Ok(Some(2)));
    }

    #[test]
    fn strings_keep_their_bytes() {
        let strings: Strings = [&b"a"[..], b"", b"\xff\xfe", "é".as_bytes()].into_iter().collect();
        assert_eq!(strings.iter_bytes().collect::<Vec<_>>(), [&b"a"[..], b"", b"\xff\xfe", "é".as_bytes()]);
        assert_eq!(
            (strings.get(0), strings.get(2), strings.get(3), strings.get(4)),
            (Some("a"), None, Some("é"), None)
        );
    }
}
