//! A data set in memory: its examples, where each came from, and what its files were.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{
    error::{BadRow, DataError},
    paths,
    random::Counter,
    read,
    rows::{Content, Format},
};

/// Which files of a directory are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    #[default]
    Train,
    Valid,
    Test,
}

impl Part {
    pub(crate) fn file_stems(self) -> &'static [&'static str] {
        match self {
            Part::Train => &["train"],
            Part::Valid => &["valid", "validation", "dev"],
            Part::Test => &["test"],
        }
    }
}

/// One example, and the row it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    pub turns: Content,
    /// Index into [`Dataset::files`], and the line (in a Parquet file: the row), from 1.
    pub source: (u32, usize),
}

/// One file of a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceFile {
    pub path: String,
    pub format: Format,
    /// Why this format, in one sentence.
    pub because: String,
    /// Rows that can be used.
    pub rows: usize,
    /// Passes over this file in one epoch: 0.3 visits 30 % of it, another 30 % in the next epoch.
    pub weight: f64,
    /// BLAKE3 of the file, in hex.
    pub blake3: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    pub examples: Vec<Example>,
    pub files: Vec<SourceFile>,
}

/// Reads data sets from files, directories with `train.jsonl`, or entries of a `dataset_info.json` (`dir/name`), each
/// with an optional weight (`a.jsonl:0.3`). `format` is `auto` or the name of one.
///
/// # Errors
/// Where a file cannot be read, where its format cannot be told, or where any row is bad: all bad rows are in the error.
pub fn load(paths: &[String], format: &str, part: Part) -> Result<Dataset, DataError> {
    let (dataset, bad) = load_lenient(paths, format, part)?;
    if !bad.is_empty() {
        return Err(DataError::BadRows { bad });
    }
    if dataset.examples.is_empty() {
        return Err(DataError::Empty { paths: paths.join(", ") });
    }
    Ok(dataset)
}

/// As [`load`], but returns the bad rows beside the good ones.
pub fn load_lenient(paths: &[String], format: &str, part: Part) -> Result<(Dataset, Vec<BadRow>), DataError> {
    let wanted = match format {
        "auto" | "" => None,
        name => Some(Format::from_name(name).ok_or_else(|| DataError::UnknownFormat { name: name.to_owned() })?),
    };
    let mut dataset = Dataset::default();
    let mut bad = Vec::new();
    for input in paths::inputs(paths, part)? {
        let name = input.path.display().to_string();
        let (mut rows, blake3) = read::file(&input.path)?;
        bad.extend(rows.bad_rows(&name));
        if let Some(mapping) = &input.mapping {
            rows.rows = rows.rows.into_iter().map(|(line, row)| (line, mapping.apply(row))).collect();
            rows.rows.truncate(mapping.max_rows.unwrap_or(usize::MAX));
        }
        if rows.rows.is_empty() {
            if rows.bad.is_empty() {
                return Err(DataError::Empty { paths: name });
            }
            continue;
        }
        let (format, because) = match (wanted, &input.mapping) {
            (Some(format), _) => (format, format!("{}: as told", format.name())),
            (None, Some(mapping)) => (mapping.format, format!("{}: as dataset_info.json says", mapping.format.name())),
            (None, None) => Format::detect(rows.rows.iter().map(|(_, row)| row)).map_err(|no| {
                DataError::Undetected { file: name.clone(), fields: no.fields.join(", "), hint: no.hint }
            })?,
        };
        let file = dataset.files.len() as u32;
        let before = dataset.examples.len();
        for (line, row) in rows.rows {
            match format.parse(&row) {
                Ok(turns) => dataset.examples.push(Example { turns, source: (file, line) }),
                Err(reason) => bad.push(BadRow { file: name.clone(), line, reason }),
            }
        }
        let rows = dataset.examples.len() - before;
        dataset.files.push(SourceFile { path: name, format, because, rows, weight: input.weight, blake3 });
    }
    // The reader found its faults first; a person goes through a file from its top.
    let order: HashMap<String, usize> = dataset.files.iter().enumerate().map(|(i, f)| (f.path.clone(), i)).collect();
    bad.sort_by_key(|row: &BadRow| (order.get(&row.file).copied(), row.line));
    Ok((dataset, bad))
}

impl Dataset {
    /// The row that an example came from: file and line.
    pub fn place(&self, example: usize) -> (&str, usize) {
        let (file, line) = self.examples[example].source;
        (&self.files[file as usize].path, line)
    }

    /// BLAKE3 over the contents of all files, their formats and weights, in hex: what a resolved recipe records.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for file in &self.files {
            hasher.update(format!("{} {} {}\n", file.blake3, file.format.name(), file.weight).as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Keeps `n` examples, drawn by seed, in their order.
    pub fn limit(&mut self, n: usize, seed: u64) {
        if n >= self.examples.len() {
            return;
        }
        let mut drawn: Vec<(u64, usize)> =
            (0..self.examples.len()).map(|i| (Counter::new(seed, i as u64).next(), i)).collect();
        drawn.sort_unstable();
        let mut keep: Vec<usize> = drawn[..n].iter().map(|&(_, i)| i).collect();
        keep.sort_unstable();
        self.examples = keep.into_iter().map(|i| self.examples[i].clone()).collect();
        self.recount();
    }

    /// Splits off `share` of the examples (at least one, where there are two) by a hash of their content, so that equal
    /// examples stay together and the same examples are held out whatever their order. Returns (rest, held out).
    pub fn split(self, share: f64, seed: u64) -> (Dataset, Dataset) {
        let n = self.examples.len();
        let target = if share <= 0.0 || n < 2 { 0 } else { ((n as f64 * share).round() as usize).clamp(1, n - 1) };
        let mut by_hash: Vec<([u8; 16], usize)> =
            self.examples.iter().enumerate().map(|(i, e)| (content_hash(&e.turns, seed), i)).collect();
        by_hash.sort_unstable();
        // Copies of the last one held out follow it.
        let mut cut = target;
        while cut > 0 && cut < n && by_hash[cut].0 == by_hash[cut - 1].0 {
            cut += 1;
        }
        let mut held = vec![false; n];
        for &(_, i) in &by_hash[..if cut == n { 0 } else { cut }] {
            held[i] = true;
        }
        let mut rest = Dataset { examples: Vec::new(), files: self.files.clone() };
        let mut out = Dataset { examples: Vec::new(), files: self.files };
        for (example, held) in self.examples.into_iter().zip(held) {
            if held { out.examples.push(example) } else { rest.examples.push(example) }
        }
        rest.recount();
        out.recount();
        (rest, out)
    }

    fn recount(&mut self) {
        for (i, file) in self.files.iter_mut().enumerate() {
            file.rows = self.examples.iter().filter(|e| e.source.0 as usize == i).count();
        }
    }
}

/// A hash of what an example says, wherever it stands.
pub(crate) fn content_hash(content: &Content, seed: u64) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    // Serialising JSON values into memory cannot fail; an empty text would only merge two hashes.
    hasher.update(&serde_json::to_vec(content).unwrap_or_default());
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    out
}
