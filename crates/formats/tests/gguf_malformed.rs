//! Files that must be refused, one for each class of llama.cpp's `tests/test-gguf.cpp` and of past vulnerabilities, and
//! the limits of our own. Each case says which error it expects, so a file refused for another reason fails.

use ounce_formats::{
    Bytes,
    gguf::{self, GgufError},
};

/// Builds GGUF bytes by hand, right or wrong.
#[derive(Clone)]
struct Builder {
    magic: [u8; 4],
    version: u32,
    tensors: Option<u64>,
    entries: Option<u64>,
    metadata: Vec<Vec<u8>>,
    headers: Vec<Vec<u8>>,
    alignment: usize,
    data: Vec<u8>,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A metadata entry: a key, a value type, and the value's bytes.
fn entry(key: &str, code: u32, value: &[u8]) -> Vec<u8> {
    [&string(key)[..], &code.to_le_bytes(), value].concat()
}

fn header(name: &str, dimensions: &[u64], code: u32, offset: u64) -> Vec<u8> {
    let mut out = string(name);
    out.extend((dimensions.len() as u32).to_le_bytes());
    dimensions.iter().for_each(|d| out.extend(d.to_le_bytes()));
    out.extend(code.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

const F32: u32 = 0;
const Q4_0: u32 = 2;

impl Builder {
    /// A right file: two entries and two tensors, 4 × 2 f32 and 32 × 1 q4_0.
    fn good() -> Self {
        Builder {
            magic: *b"GGUF",
            version: 3,
            tensors: None,
            entries: None,
            metadata: vec![entry("general.architecture", 8, &string("llama")), entry("a", 4, &7u32.to_le_bytes())],
            headers: vec![header("t.weight", &[4, 2], F32, 0), header("q.weight", &[32], Q4_0, 32)],
            alignment: 32,
            data: (0..64).collect(),
        }
    }

    fn bytes(&self) -> Bytes {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensors.unwrap_or(self.headers.len() as u64).to_le_bytes());
        out.extend(self.entries.unwrap_or(self.metadata.len() as u64).to_le_bytes());
        self.metadata.iter().chain(&self.headers).for_each(|part| out.extend(part));
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        Bytes::copy_of(&out)
    }

    fn error(&self) -> GgufError {
        gguf::parse(&self.bytes()).expect_err("a broken file")
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut builder = Self::good();
        change(&mut builder);
        builder
    }

    /// The good file with its tensors replaced.
    fn tensors(headers: &[(&str, &[u64], u32, u64)]) -> Self {
        let make = |h: &(&str, &[u64], u32, u64)| header(h.0, h.1, h.2, h.3);
        Self::with(|b| b.headers = headers.iter().map(make).collect())
    }
}

/// Asserts which error a builder's file gives.
macro_rules! refused {
    ($builder:expr, $pattern:pat $(if $guard:expr)?) => {{
        let error = $builder.error();
        assert!(matches!(&error, $pattern $(if $guard)?), "{error:?}");
    }};
}

#[test]
fn the_good_file_is_read() {
    let file = gguf::parse(&Builder::good().bytes()).unwrap();
    assert_eq!(file.metadata.str("general.architecture"), Ok(Some("llama")));
    assert_eq!(file.metadata.u32("a"), Ok(Some(7)));
    assert_eq!(file.tensors[0].shape, [2, 4]);
    assert_eq!(&*file.tensors[0].bytes, &(0..32).collect::<Vec<u8>>()[..]);
    assert_eq!(&*file.tensors[1].bytes, &(32..50).collect::<Vec<u8>>()[..]);
    let version_2 = Builder::with(|b| b.version = 2);
    assert_eq!(gguf::parse(&version_2.bytes()).unwrap().version, 2);
    let empty = Builder::with(|b| (b.metadata, b.headers, b.data) = Default::default());
    assert!(gguf::parse(&empty.bytes()).unwrap().tensors.is_empty());
}

#[test]
fn a_custom_alignment_moves_the_data() {
    for alignment in [1u32, 8, 64, 4096, 1 << 20] {
        let file = Builder::with(|b| {
            b.metadata.push(entry("general.alignment", 4, &alignment.to_le_bytes()));
            b.alignment = alignment as usize;
            b.headers.pop();
        });
        let parsed = gguf::parse(&file.bytes()).unwrap();
        assert_eq!(&*parsed.tensors[0].bytes, &(0..32).collect::<Vec<u8>>()[..], "alignment {alignment}");
        assert!(parsed.tensors[0].bytes.as_ptr().addr().is_multiple_of(4));
    }
}

#[test]
fn headers() {
    refused!(Builder::with(|b| b.magic = *b"FUGG"), GgufError::Magic(found) if found == b"FUGG");
    for version in [0, 1, 4, u32::MAX] {
        refused!(Builder::with(|b| b.version = version), GgufError::Version(_));
    }
    refused!(Builder::with(|b| b.version = 3u32.swap_bytes()), GgufError::BigEndian);
    for count in [u64::MAX, 1 << 63, (1 << 18) + 1] {
        refused!(Builder::with(|b| b.tensors = Some(count)), GgufError::Limit { .. });
    }
    for count in [u64::MAX, 1 << 63, (1 << 16) + 1] {
        refused!(Builder::with(|b| b.entries = Some(count)), GgufError::Limit { .. });
    }
    refused!(Builder::with(|b| b.tensors = Some(1 << 18)), GgufError::Truncated { .. });
    refused!(Builder::with(|b| b.entries = Some(1 << 16)), GgufError::Truncated { .. });
}

#[test]
fn keys_and_values() {
    let with = |bytes: Vec<u8>| Builder::with(|b| b.metadata.push(bytes));
    let sized = |size: u64| [&size.to_le_bytes()[..], b"k"].concat();
    for size in [u64::MAX, 1 << 63, (1 << 24) + 1] {
        refused!(with(sized(size)), GgufError::Limit { .. });
    }
    refused!(with(sized(1 << 24)), GgufError::Truncated { .. });
    refused!(with(entry("", 4, &[0; 4])), GgufError::EmptyKey { index: 2 });
    refused!(with(entry("a", 4, &[0; 4])), GgufError::DuplicateKey { key } if key == "a");
    for code in [13, 99, u32::MAX] {
        refused!(with(entry("k", code, &[0; 8])), GgufError::ValueType { .. });
    }
    refused!(with(entry("k", 7, &[2])), GgufError::Bool { byte: 2, .. });
    refused!(with(entry("k", 8, &string("x")[..8])), GgufError::Truncated { .. } | GgufError::Limit { .. });
    let not_utf8 = [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat();
    refused!(with(entry("k", 8, &not_utf8)), GgufError::Utf8 { .. });
    let bad_key = [&not_utf8[..], &4u32.to_le_bytes(), &[0; 4]].concat();
    refused!(with(bad_key), GgufError::Utf8 { .. });
}

#[test]
fn arrays() {
    let array = |code: u32, count: u64, data: &[u8]| {
        let value = [&code.to_le_bytes()[..], &count.to_le_bytes(), data].concat();
        Builder::with(|b| b.metadata.push(entry("k", 9, &value)))
    };
    refused!(array(9, 1, &[0; 12]), GgufError::NestedArray { .. });
    refused!(array(13, 1, &[0; 12]), GgufError::ValueType { .. });
    for code in [0, 4, 6, 8, 12] {
        for count in [u64::MAX, 1 << 63, 1 << 61, (1 << 24) + 1] {
            refused!(array(code, count, &[0; 16]), GgufError::Limit { .. });
        }
        refused!(array(code, 1 << 24, &[0; 16]), GgufError::Truncated { .. });
    }
    refused!(array(7, 2, &[1, 3]), GgufError::Bool { byte: 3, .. });
    let strings = [string("a"), (1u64 << 63).to_le_bytes().to_vec()].concat();
    refused!(array(8, 2, &strings), GgufError::Limit { what, .. } if what.contains("string 1"));
}

#[test]
fn alignments() {
    for alignment in [0, 3, 33, 0x8000_0000, 1 << 21] {
        let value = u32::to_le_bytes(alignment);
        refused!(
            Builder::with(|b| b.metadata.push(entry("general.alignment", 4, &value))),
            GgufError::Alignment(found) if *found == u64::from(alignment)
        );
    }
    for (code, value) in [(10, &32u64.to_le_bytes()[..]), (5, &32i32.to_le_bytes()), (8, &string("32"))] {
        refused!(
            Builder::with(|b| b.metadata.push(entry("general.alignment", code, value))),
            GgufError::WrongType { .. }
        );
    }
    // Offsets that were laid out for another alignment than the file states.
    let value = 64u32.to_le_bytes();
    refused!(
        Builder::with(|b| b.metadata.push(entry("general.alignment", 4, &value))),
        GgufError::Offset { found: 32, expected: 64, .. }
    );
}

#[test]
fn tensors() {
    let long = "n".repeat(64);
    refused!(Builder::tensors(&[(&long, &[4], F32, 0)]), GgufError::Limit { .. });
    refused!(Builder::tensors(&[("", &[4], F32, 0)]), GgufError::EmptyTensorName { index: 0 });
    for count in [0, 5, u32::MAX] {
        let bad = [&string("t")[..], &count.to_le_bytes(), &[0; 64]].concat();
        refused!(Builder::with(|b| b.headers = vec![bad]), GgufError::Dimensions { .. });
    }
    for shape in [&[u64::MAX][..], &[4, 1 << 63], &[1 << 62, 4], &[1 << 32, 1 << 32], &[1 << 21, 1 << 21, 1 << 21, 2]] {
        refused!(Builder::tensors(&[("t", shape, F32, 0)]), GgufError::Shape { .. });
    }
    refused!(Builder::tensors(&[("t", &[4, 0], F32, 0)]), GgufError::Shape { why, .. } if why.contains('0'));
    refused!(Builder::tensors(&[("t", &[33], Q4_0, 0)]), GgufError::Shape { why, .. } if why.contains("32"));
    // 2^64 - 16 bytes: a padding to 32 would wrap to 0.
    refused!(Builder::tensors(&[("t", &[4, (1 << 30) - 1, (1 << 30) + 1], F32, 0)]), GgufError::Shape { .. });
    // Two sizes whose sum wraps.
    let huge = 0x7fff_ffff_ffff_ffc0 / 18 / 32 * 32;
    refused!(Builder::tensors(&[("t", &[huge], Q4_0, 0), ("u", &[huge], Q4_0, 0)]), GgufError::TensorRange { .. });
    refused!(Builder::tensors(&[("t", &[4], F32, 0), ("t", &[4], F32, 32)]), GgufError::DuplicateTensor { .. });
    for offset in [1, 16, 64, 1 << 63, u64::MAX, u64::MAX - 31] {
        refused!(Builder::tensors(&[("t", &[4], F32, 0), ("u", &[4], F32, offset)]), GgufError::Offset { .. });
    }
    refused!(Builder::tensors(&[("t", &[17], F32, 0)]), GgufError::TensorRange { .. });
}

#[test]
fn unsupported_types_are_all_named() {
    let file = Builder::tensors(&[("a", &[256], 10, 0), ("b", &[4], F32, 0), ("c", &[4], 77, 0), ("d", &[32], 39, 0)]);
    let message = file.error().to_string();
    for part in ["3 tensors", "a: q2_k", "c: unknown type 77", "d: mxfp4"] {
        assert!(message.contains(part), "{part} in {message}");
    }
}

#[test]
fn every_truncation_is_refused_or_loses_only_padding() {
    let whole = Builder::good().bytes();
    // 14 bytes of padding follow the last tensor; a file without them is complete.
    let complete = whole.len() - 14;
    for len in 0..whole.len() {
        let result = gguf::parse(&Bytes::copy_of(&whole[..len]));
        assert_eq!(result.is_ok(), len >= complete, "{len} of {} bytes: {result:?}", whole.len());
    }
}

/// What the errors of size bombs cost: no more than the file itself, and no time.
#[test]
fn size_bombs_are_answered_at_once() {
    let start = std::time::Instant::now();
    let before = peak_bytes();
    for _ in 0..1000 {
        let bomb = Builder::with(|b| b.metadata.push(entry("k", 9, &[6u64.to_le_bytes(), [0xff; 8]].concat())));
        assert!(gguf::parse(&bomb.bytes()).is_err());
        assert!(Builder::tensors(&[("t", &[1 << 61], F32, 0)]).error().to_string().contains('t'));
    }
    // Milliseconds; one that is believed takes years.
    assert!(start.elapsed().as_secs_f64() < 60.0, "2,000 bombs took {:?}", start.elapsed());
    let grown = peak_bytes() - before;
    assert!(grown < 16 << 20, "2,000 bombs took {grown} bytes");
}

/// The most memory that this process has had so far, as Linux counts it; elsewhere 0.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok()).unwrap_or(0) * 1024
}
