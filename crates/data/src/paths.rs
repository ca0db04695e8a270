//! What a person may write as a data set: a file, a directory, an entry of a `dataset_info.json`, each with a weight.

use std::path::{Path, PathBuf};

use crate::{
    dataset::Part,
    error::DataError,
    info::{self, Mapping},
};

/// One file to read.
#[derive(Clone, Debug)]
pub struct Input {
    pub path: PathBuf,
    /// Passes over this file per epoch.
    pub weight: f64,
    /// How its fields are called, where `dataset_info.json` says so.
    pub mapping: Option<Mapping>,
}

/// Splits `file.jsonl:0.3` into path and weight. A colon that belongs to the name stays there.
pub fn weighted(text: &str) -> Result<(&str, f64), DataError> {
    if Path::new(text).exists() {
        return Ok((text, 1.0));
    }
    match text.rsplit_once(':') {
        Some((path, weight)) if !path.is_empty() => match weight.parse::<f64>() {
            Ok(w) if w.is_finite() && w > 0.0 && w <= 1000.0 => Ok((path, w)),
            Ok(_) => Err(DataError::Setting {
                name: "the weight of a data set",
                value: weight.to_owned(),
                reason: "it is the number of passes over the file per epoch, above 0 and at most 1000",
            }),
            Err(_) => Ok((text, 1.0)),
        },
        _ => Ok((text, 1.0)),
    }
}

/// All files that the paths name, in their order.
pub fn inputs(paths: &[String], part: Part) -> Result<Vec<Input>, DataError> {
    if paths.is_empty() {
        return Err(DataError::NoPaths);
    }
    let mut out = Vec::new();
    for text in paths {
        let (text, weight) = weighted(text)?;
        let path = Path::new(text);
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if path.is_dir() {
            for (path, mapping) in directory(path, part)? {
                out.push(Input { path, weight, mapping });
            }
        } else if path.file_name().is_some_and(|n| n == info::FILE) {
            let (path, mapping) = info::only_entry(path)?;
            out.push(Input { path, weight, mapping: Some(mapping) });
        } else if path.exists() {
            out.push(Input { path: path.to_owned(), weight, mapping: None });
        } else if let (true, Some(name)) =
            (parent.join(info::FILE).is_file(), path.file_name().and_then(|n| n.to_str()))
        {
            let (path, mapping) = info::entry(&parent.join(info::FILE), name)?;
            out.push(Input { path, weight, mapping: Some(mapping) });
        } else {
            return Err(DataError::NotFound { path: text.to_owned(), beside: listing(parent) });
        }
    }
    Ok(out)
}

/// The files of one part in a directory: `train.jsonl`, also `train-00000-of-00002.parquet`.
fn directory(dir: &Path, part: Part) -> Result<Vec<(PathBuf, Option<Mapping>)>, DataError> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map_err(|e| DataError::Unreadable { path: dir.display().to_string(), reason: e.to_string() })?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    const KNOWN: [&str; 7] = ["jsonl", "ndjson", "json", "csv", "tsv", "parquet", "txt"];
    let belongs = |name: &String| {
        let Some((stem, extension)) = name.rsplit_once('.') else { return false };
        let stem = stem.split_once("-0").map_or(stem, |(first, _)| first);
        KNOWN.contains(&extension) && part.file_stems().contains(&stem)
    };
    let files: Vec<(PathBuf, Option<Mapping>)> =
        names.iter().filter(|n| belongs(n)).map(|n| (dir.join(n), None)).collect();
    if !files.is_empty() {
        return Ok(files);
    }
    if part == Part::Train && names.iter().any(|n| n == info::FILE) {
        let (path, mapping) = info::only_entry(&dir.join(info::FILE))?;
        return Ok(vec![(path, Some(mapping))]);
    }
    let reason = format!("no {}.jsonl in it; it holds {}", part.file_stems()[0], some(names));
    Err(DataError::NotADataset { path: dir.display().to_string(), reason })
}

fn listing(dir: &Path) -> String {
    let names = std::fs::read_dir(dir).map(|entries| {
        let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        names
    });
    names.map_or_else(|_| format!("nothing, {} is no readable directory", dir.display()), some)
}

fn some(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(12);
    names.truncate(12);
    match (names.is_empty(), more) {
        (true, _) => "nothing".into(),
        (_, 0) => names.join(", "),
        _ => format!("{} and {more} more", names.join(", ")),
    }
}

/// Those of the training paths that are directories with a validation file.
pub fn with_validation(train: &[String]) -> Vec<String> {
    let has = |text: &&String| {
        let dir = weighted(text).map_or(Path::new(text.as_str()), |(path, _)| Path::new(path));
        dir.is_dir() && directory(dir, Part::Valid).is_ok()
    };
    train.iter().filter(has).cloned().collect()
}
