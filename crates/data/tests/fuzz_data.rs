//! Damaged files of every container: whatever the bytes, reading, parsing and tokenising never panic and never drop a
//! row without a word. `OUNCE_FUZZ_ITERS` raises the number of inputs.

mod common;

use common::{ChatMl, words};
use ounce_data::{Batches, Dataset, Example, Format, Settings, SourceFile, read::Container, tokenize};
use ounce_spec::recipe::{DataRecipe, TooLong};

/// Bytes that change the meaning of a file.
const PIECES: [&[u8]; 30] = [
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"\n",
    b"\r\n",
    b"\r",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\xc3",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\0",
    b"null",
    b"1e999",
    b"-0",
    b"18446744073709551616",
    b"[[[[[[[[",
    b"messages",
    b"\"role\":\"assistant\"",
    b"content",
    b"PAR1",
    b";",
    b"\t",
    b"\xf0\x9f\x98\x80",
    b"<|im_end|>",
];

const JSONL: &str = r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], "tools": "[]"}
{"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{\"name\": \"f\"}"}], "system": "s"}
{"instruction": "add", "input": "1", "output": "2", "history": [["a", "b"]]}
{"prompt": "p", "completion": "c"}
{"prompt": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], "completion": [{"role": "assistant", "content": "c"}]}
{"text": "some words"}
"#;

const CSV: &str =
    "prompt,completion,messages,text\n\"a \"\"b\"\"\",c,\"[{\"\"role\"\": \"\"user\"\"}]\",d\r\nx,y,z,w\n";

fn parquet_file() -> Vec<u8> {
    use parquet::{
        data_type::{ByteArray, ByteArrayType},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };
    let schema = "message m { required binary text (UTF8); optional group messages (LIST) { repeated group list {
        optional group element { optional binary role (UTF8); optional binary content (UTF8); } } } }";
    let schema = std::sync::Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let mut out = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut out, schema, properties.into()).expect("a writer");
    let mut group = writer.next_row_group().expect("a row group");
    let texts = |texts: &[&str]| texts.iter().map(|t| ByteArray::from(*t)).collect::<Vec<_>>();
    // The list is in the first row; the second row has none.
    let levels: (&[i16], &[i16]) = (&[4, 4, 0], &[0, 1, 0]);
    let columns = [
        (texts(&["one", "two"]), None),
        (texts(&["user", "assistant"]), Some(levels)),
        (texts(&["q", "a"]), Some(levels)),
    ];
    for (values, levels) in columns {
        let mut column = group.next_column().expect("a column").expect("a column");
        let (definitions, repeats) = levels.unzip();
        column.typed::<ByteArrayType>().write_batch(&values, definitions, repeats).expect("values");
        column.close().expect("closed");
    }
    group.close().expect("closed");
    writer.close().expect("closed");
    out
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(self.0 ^ (self.0 >> 33)) * n.max(1) as u128) >> 64) as usize
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = [0, 0x7f, 0x80, 0xff][self.below(4)],
                2 => drop(bytes.splice(at..at, PIECES[self.below(PIECES.len())].iter().copied())),
                3 => bytes.truncate(at),
                4 => {
                    let end = (at + self.below(12)).min(bytes.len());
                    bytes.drain(at..end);
                }
                _ => {
                    let from = self.below(bytes.len() + 1);
                    let part = bytes[from..(from + self.below(40)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, part);
                }
            }
        }
    }
}

/// Everything that follows reading, for each format that the rows might be.
fn use_rows(container: Container, bytes: Vec<u8>) {
    let empty = bytes.iter().all(u8::is_ascii_whitespace);
    let rows = container.parse(bytes);
    if container == Container::JsonLines && !empty {
        assert!(rows.rows.len() + rows.bad.len() > 0, "no row and no reason");
    }
    let _ = Format::detect(rows.rows.iter().map(|(_, row)| row));
    let mut dataset = Dataset::default();
    dataset.files.push(SourceFile {
        path: "x".into(),
        format: Format::Text,
        because: String::new(),
        rows: 0,
        weight: 1.0,
        blake3: String::new(),
    });
    for (line, row) in &rows.rows {
        for format in Format::ALL {
            match format.parse(row) {
                Ok(turns) => dataset.examples.push(Example { turns, source: (0, *line) }),
                Err(reason) => assert!(!reason.is_empty() && reason.len() < 2000, "{reason}"),
            }
        }
    }
    let recipe = DataRecipe { max_length: 16, too_long: TooLong::Truncate, ..DataRecipe::default() };
    let Ok((tokens, report)) = tokenize(&dataset, &words(), Some(&ChatMl), &recipe) else { return };
    assert_eq!(report.examples, report.used + report.too_long + report.unteaching);
    assert!(tokens.iter().all(|t| t.ids.len() == t.loss.len() && t.ids.len() <= 16 && t.teaches()));
    let settings = Settings { seed: 1, batch_size: 2, max_length: 16, packing: true, shuffle: true, weights: vec![] };
    let mut batches = Batches::new(tokens, settings).expect("sequences make batches");
    let batch = batches.next_batch();
    assert_eq!(batch.ids.len(), batch.targets.len());
    let (rest, held) = dataset.clone().split(0.3, 1);
    assert_eq!(rest.examples.len() + held.examples.len(), dataset.examples.len());
}

fn iterations() -> usize {
    std::env::var("OUNCE_FUZZ_ITERS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

#[test]
fn damaged_files_are_reported_and_never_panic() {
    let rows: Vec<&str> = JSONL.lines().collect();
    let seeds = [
        (Container::JsonLines, JSONL.as_bytes().to_vec()),
        (Container::Json, format!("[{}]", rows.join(",\n")).into_bytes()),
        (Container::Json, format!("{{\"data\": [{}]}}", rows.join(",\n")).into_bytes()),
        (Container::Csv, CSV.as_bytes().to_vec()),
        (Container::Text, b"words\n\nand more words".to_vec()),
    ];
    let mut rng = Rng(1);
    for i in 0..iterations() {
        let (container, mut bytes) = seeds[i % seeds.len()].clone();
        rng.mutate(&mut bytes);
        use_rows(container, bytes);
    }
}

/// The `parquet` crate panics on some of these; what is promised is that none gets out.
#[test]
fn damaged_parquet_files_are_reported_and_never_panic() {
    let whole = parquet_file();
    let good = Container::Parquet.parse(whole.clone());
    assert_eq!((good.rows.len(), good.bad.len()), (2, 0), "{:?}", good.bad);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(|| {
        for cut in 0..whole.len() {
            let rows = Container::Parquet.parse(whole[..cut].to_vec());
            assert!(rows.rows.is_empty() && rows.bad.len() == 1, "cut at {cut}");
        }
        let mut rng = Rng(2);
        for _ in 0..iterations() {
            let mut bytes = whole.clone();
            let at = 4 + rng.below(whole.len() - 8);
            bytes[at] = match rng.below(3) {
                0 => bytes[at] ^ (1 << rng.below(8)),
                1 => 0xff,
                _ => rng.below(256) as u8,
            };
            if rng.below(3) == 0 {
                let at = 4 + rng.below(whole.len() - 8);
                bytes[at] = rng.below(256) as u8;
            }
            use_rows(Container::Parquet, bytes);
        }
    });
    std::panic::set_hook(hook);
    assert!(outcome.is_ok(), "a panic got out");
}
