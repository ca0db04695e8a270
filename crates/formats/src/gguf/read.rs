//! Reading GGUF bytes into checked views. Every length is compared with the bytes that are left before memory is
//! asked for, so a file can cost no more than a small multiple of its own size.

use std::collections::HashSet;

use ounce_spec::DType;

use super::{metadata::*, *};
use crate::bytes::Bytes;

/// A whole file: what it says and where its tensors are.
#[derive(Clone, Debug)]
pub struct File {
    pub version: u32,
    pub metadata: Metadata,
    /// In the file's order.
    pub tensors: Vec<Tensor>,
}

/// One tensor under its GGUF name.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub dtype: DType,
    /// Slowest dimension first (GGUF stores the fastest first).
    pub shape: Vec<usize>,
    pub bytes: Bytes,
}

/// Reads a file's header and checks everything it says against its length. The tensors share `bytes`.
pub fn parse(bytes: &Bytes) -> Result<File, GgufError> {
    let mut cursor = Cursor { bytes, at: 0 };
    if cursor.bytes.get(..4) != Some(b"GGUF") {
        return Err(GgufError::Magic(cursor.bytes[..cursor.bytes.len().min(4)].to_vec()));
    }
    cursor.at = 4;
    let version = cursor.u32("the version")?;
    if version != 0 && version & 0xffff == 0 {
        return Err(GgufError::BigEndian);
    }
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version(version));
    }
    let tensor_count = cursor.count("the number of tensors", MAX_TENSORS)?;
    let entry_count = cursor.count("the number of metadata entries", MAX_ENTRIES)?;
    // The smallest entry is a key length, one byte of key, a type and one byte of value; the smallest tensor a name
    // length, one byte of name, the count of dimensions, one dimension, a type and an offset.
    cursor.must_fit("the metadata", entry_count as u64 * 14)?;
    cursor.must_fit("the tensor list", tensor_count as u64 * 33)?;

    let mut metadata = Metadata::new();
    for index in 0..entry_count {
        let key = cursor.string(&|| format!("metadata key number {index}"))?;
        if key.is_empty() {
            return Err(GgufError::EmptyKey { index });
        }
        if metadata.contains(&key) {
            return Err(GgufError::DuplicateKey { key });
        }
        let value = cursor.value(&key)?;
        metadata.set(key, value);
    }
    let alignment = alignment(&metadata)?;
    let headers = (0..tensor_count).map(|index| cursor.header(index)).collect::<Result<Vec<_>, _>>()?;
    let tensors = place(headers, alignment, cursor)?;
    Ok(File { version, metadata, tensors })
}

/// `general.alignment`, checked. Only the type u32 that the format demands is taken.
fn alignment(metadata: &Metadata) -> Result<usize, GgufError> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(alignment)) if alignment.is_power_of_two() && u64::from(alignment) <= MAX_ALIGNMENT => {
            Ok(alignment as usize)
        }
        Some(&Value::U32(alignment)) => Err(GgufError::Alignment(alignment.into())),
        Some(_) => Err(metadata.wrong("general.alignment", "a u32")),
    }
}

/// What the tensor list says of one tensor, not yet checked against the data.
struct Header {
    name: String,
    /// Fastest dimension first, as in the file.
    dimensions: Vec<u64>,
    code: u32,
    offset: u64,
}

/// Finds the bytes of each tensor: unique names, supported types, whole blocks, offsets without holes or overlap.
fn place(headers: Vec<Header>, alignment: usize, cursor: Cursor) -> Result<Vec<Tensor>, GgufError> {
    let unsupported: Vec<_> =
        headers.iter().filter_map(|header| Some((header.name.clone(), dtype_of_code(header.code).err()?))).collect();
    if !unsupported.is_empty() {
        return Err(GgufError::UnsupportedTypes(unsupported));
    }
    let file = cursor.bytes;
    let data_start = cursor.at.next_multiple_of(alignment);
    let mut seen = HashSet::new();
    let mut expected = 0u64;
    let mut tensors = Vec::with_capacity(headers.len());
    for Header { name, dimensions, code, offset } in headers {
        if !seen.insert(name.clone()) {
            return Err(GgufError::DuplicateTensor { name });
        }
        let Ok(dtype) = dtype_of_code(code) else { continue };
        let refuse = |why: String| GgufError::Shape { name: name.clone(), shape: dimensions.clone(), why };
        if dimensions.contains(&0) {
            return Err(refuse("a dimension is 0".into()));
        }
        if dimensions[0] % dtype.block_len() as u64 != 0 {
            return Err(refuse(format!("rows of {} must be a multiple of {}", dtype.name(), dtype.block_len())));
        }
        let size = dimensions
            .iter()
            .try_fold(1usize, |product, &d| product.checked_mul(usize::try_from(d).ok()?))
            .and_then(|elements| dtype.bytes_of(elements))
            .and_then(|size| i64::try_from(size).ok())
            .ok_or_else(|| refuse("its size overflows".into()))? as u64;
        if offset != expected {
            return Err(GgufError::Offset { name, found: offset, expected });
        }
        // Each size is below 2^63 and the sum before it inside the file, so these cannot overflow.
        let (start, end) = (data_start as u64 + offset, data_start as u64 + offset + size);
        if end > file.len() as u64 {
            return Err(GgufError::TensorRange { name, start, end, len: file.len() });
        }
        expected = (offset + size).next_multiple_of(alignment as u64);
        // An f32 file of alignment 1 is legal; readers of these bytes want whole elements.
        let element = if dtype.is_quantized() { 1 } else { dtype.block_bytes() };
        let bytes = file.slice(start as usize..end as usize).aligned_to(element);
        let shape = dimensions.iter().rev().map(|&d| d as usize).collect();
        tensors.push(Tensor { name, dtype, shape, bytes });
    }
    Ok(tensors)
}

/// A place in the file from which things are read one after the other.
struct Cursor<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Cursor<'_> {
    fn must_fit(&self, what: &str, needs: u64) -> Result<(), GgufError> {
        if needs <= (self.bytes.len() - self.at) as u64 {
            return Ok(());
        }
        Err(GgufError::Truncated { what: what.into(), offset: self.at, needs, len: self.bytes.len() })
    }

    fn take<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        self.must_fit(what, N as u64)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        self.take(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        self.take(what).map(u64::from_le_bytes)
    }

    /// A count of at most `limit`, which is below 2³².
    fn count(&mut self, what: &str, limit: u64) -> Result<usize, GgufError> {
        let value = self.u64(what)?;
        if value > limit {
            return Err(GgufError::Limit { what: what.into(), value, limit });
        }
        Ok(value as usize)
    }

    /// Steps over a string and returns where its bytes are.
    fn string_range(&mut self, what: &dyn Fn() -> String) -> Result<std::ops::Range<usize>, GgufError> {
        // The messages are only made when they are needed: a vocabulary has 10^5 strings.
        let length = match self.bytes.get(self.at..self.at + 8) {
            Some(raw) => u64::from_le_bytes(raw.try_into().unwrap_or_default()),
            None => return self.must_fit(&what(), 8).map(|()| 0..0),
        };
        if length > MAX_STRING {
            return Err(GgufError::Limit {
                what: format!("the length of {}", what()),
                value: length,
                limit: MAX_STRING,
            });
        }
        let start = self.at + 8;
        let end = start + length as usize;
        if end > self.bytes.len() {
            return Err(GgufError::Truncated { what: what(), offset: start, needs: length, len: self.bytes.len() });
        }
        self.at = end;
        Ok(start..end)
    }

    fn string(&mut self, what: &dyn Fn() -> String) -> Result<String, GgufError> {
        let range = self.string_range(what)?;
        match std::str::from_utf8(&self.bytes[range.clone()]) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(GgufError::Utf8 { what: what(), offset: range.start }),
        }
    }

    fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let what = format!("the value of {key:?}");
        Ok(match self.u32(&what)? {
            0 => Value::U8(u8::from_le_bytes(self.take(&what)?)),
            1 => Value::I8(i8::from_le_bytes(self.take(&what)?)),
            2 => Value::U16(u16::from_le_bytes(self.take(&what)?)),
            3 => Value::I16(i16::from_le_bytes(self.take(&what)?)),
            4 => Value::U32(self.u32(&what)?),
            5 => Value::I32(i32::from_le_bytes(self.take(&what)?)),
            6 => Value::F32(f32::from_le_bytes(self.take(&what)?)),
            7 => Value::Bool(boolean(key, self.take::<1>(&what)?[0])?),
            8 => Value::String(self.string(&|| what.clone())?),
            9 => Value::Array(self.array(key, &what)?),
            10 => Value::U64(self.u64(&what)?),
            11 => Value::I64(i64::from_le_bytes(self.take(&what)?)),
            12 => Value::F64(f64::from_le_bytes(self.take(&what)?)),
            code => return Err(GgufError::ValueType { key: key.into(), code }),
        })
    }

    fn array(&mut self, key: &str, what: &str) -> Result<Array, GgufError> {
        let code = self.u32(what)?;
        match code {
            9 => return Err(GgufError::NestedArray { key: key.into() }),
            13.. => return Err(GgufError::ValueType { key: key.into(), code }),
            _ => {}
        }
        let count = self.count(&format!("the number of elements of {key:?}"), MAX_ARRAY)?;
        Ok(match code {
            0 => Array::U8(self.elements(count, what, u8::from_le_bytes)?),
            1 => Array::I8(self.elements(count, what, i8::from_le_bytes)?),
            2 => Array::U16(self.elements(count, what, u16::from_le_bytes)?),
            3 => Array::I16(self.elements(count, what, i16::from_le_bytes)?),
            4 => Array::U32(self.elements(count, what, u32::from_le_bytes)?),
            5 => Array::I32(self.elements(count, what, i32::from_le_bytes)?),
            6 => Array::F32(self.elements(count, what, f32::from_le_bytes)?),
            7 => {
                let raw = self.elements(count, what, u8::from_le_bytes)?;
                Array::Bool(raw.into_iter().map(|byte| boolean(key, byte)).collect::<Result<_, _>>()?)
            }
            8 => Array::Strings(self.strings(count, what)?),
            10 => Array::U64(self.elements(count, what, u64::from_le_bytes)?),
            11 => Array::I64(self.elements(count, what, i64::from_le_bytes)?),
            _ => Array::F64(self.elements(count, what, f64::from_le_bytes)?),
        })
    }

    fn elements<const N: usize, T>(
        &mut self,
        count: usize,
        what: &str,
        read: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, GgufError> {
        self.must_fit(what, (count * N) as u64)?;
        let raw = &self.bytes[self.at..self.at + count * N];
        self.at += raw.len();
        Ok(raw.as_chunks::<N>().0.iter().map(|&chunk| read(chunk)).collect())
    }

    fn strings(&mut self, count: usize, what: &str) -> Result<Strings, GgufError> {
        self.must_fit(what, count as u64 * 8)?;
        let first = self.at;
        let mut starts = Vec::with_capacity(count);
        for index in 0..count {
            let range = self.string_range(&|| format!("string {index} of {what}"))?;
            let start = (range.start - first) as u64;
            starts.push(u32::try_from(start).map_err(|_| GgufError::Limit {
                what: format!("the bytes before string {index} of {what}"),
                value: start,
                limit: u32::MAX.into(),
            })?);
        }
        Ok(Strings::checked(self.bytes.slice(first..self.at), starts))
    }

    fn header(&mut self, index: usize) -> Result<Header, GgufError> {
        let name = self.string(&|| format!("the name of tensor number {index}"))?;
        if name.is_empty() {
            return Err(GgufError::EmptyTensorName { index });
        }
        if name.len() > MAX_TENSOR_NAME {
            let what = format!("the length of the name of tensor number {index}");
            return Err(GgufError::Limit { what, value: name.len() as u64, limit: MAX_TENSOR_NAME as u64 });
        }
        let what = format!("the description of tensor {name:?}");
        let count = self.u32(&what)?;
        if count == 0 || count > MAX_DIMENSIONS {
            return Err(GgufError::Dimensions { name, count });
        }
        let dimensions = (0..count).map(|_| self.u64(&what)).collect::<Result<_, _>>()?;
        Ok(Header { name, dimensions, code: self.u32(&what)?, offset: self.u64(&what)? })
    }
}

fn boolean(key: &str, byte: u8) -> Result<bool, GgufError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        byte => Err(GgufError::Bool { key: key.into(), byte }),
    }
}
