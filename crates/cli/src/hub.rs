//! The Hugging Face hub: what a repository holds, which of its files a model needs, and where they lie in the cache.
//! Everything that a server says is checked before it becomes a path.

pub mod client;
pub mod download;

use std::path::{Path, PathBuf};

use ounce_formats::hub::plain_file_name;
use serde::Deserialize;

use crate::codes;
use crate::error::{CliError, Result, plural};

/// A model repository at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// `org/name`.
    pub name: String,
    /// 40 hexadecimal digits.
    pub commit: String,
    /// Paths of files, all of them safe to join to a directory.
    pub files: Vec<String>,
}

/// What the hub's API says, as far as it is read.
#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// Most files of a repository that are listed.
const MAX_FILES: usize = 100_000;

impl Repository {
    /// Reads the API's answer. A repository with a single path that would lead out of its directory is refused as a whole.
    pub fn parse(name: &str, json: &[u8]) -> Result<Repository> {
        let bad = |what: String| {
            CliError::new(&codes::HUB_ANSWER, format!("the hub's answer about {name} {what}")).help("check HF_ENDPOINT")
        };
        let info: Info = serde_json::from_slice(json).map_err(|e| bad(format!("cannot be read: {e}")))?;
        if !is_commit(&info.sha) {
            return Err(bad(format!("names the commit {:?}", clipped(&info.sha))));
        }
        if info.siblings.len() > MAX_FILES {
            return Err(bad(format!("lists {} files", info.siblings.len())));
        }
        let files: Vec<String> = info.siblings.into_iter().map(|s| s.rfilename).collect();
        let unsafe_names: Vec<&String> = files.iter().filter(|f| !is_safe_path(f)).collect();
        if !unsafe_names.is_empty() {
            let mut out = CliError::new(
                &codes::HUB_ANSWER,
                format!("{name} has {} with unsafe names; nothing was downloaded", plural(unsafe_names.len(), "file")),
            );
            out.details = unsafe_names.iter().map(|n| format!("{:?}", clipped(n))).collect();
            return Err(out.help("do not use this repository, and report it to the hub"));
        }
        Ok(Repository { name: name.into(), commit: info.sha, files })
    }

    /// The files that a model needs: configuration, tokenizer, templates and safetensors; or exactly those that are asked
    /// for. In the order of the repository.
    pub fn wanted(&self, asked: &[String]) -> Result<Vec<String>> {
        if !asked.is_empty() {
            let missing: Vec<&String> = asked.iter().filter(|f| !self.files.contains(f)).collect();
            if missing.is_empty() {
                return Ok(asked.to_vec());
            }
            let mut out = CliError::new(&codes::HUB_REFUSED, format!("{} lacks files that were asked for", self.name));
            for name in missing {
                let near = crate::recipe::nearest(name, self.files.iter().map(String::as_str));
                let help = near.first().map(|n| format!("; did you mean {n}?")).unwrap_or_default();
                out = out.detail(format!("{name}{help}"));
            }
            return Err(out.help("name files as the repository does: --file NAME"));
        }
        let wanted: Vec<String> = self.files.iter().filter(|f| is_model_file(f)).cloned().collect();
        if wanted.iter().any(|f| f.ends_with(".safetensors")) {
            return Ok(wanted);
        }
        let gguf: Vec<&String> = self.files.iter().filter(|f| f.ends_with(".gguf")).collect();
        let mut out = CliError::new(&codes::HUB_REFUSED, format!("{} has no safetensors weights", self.name));
        out.details = gguf.iter().map(|f| format!("GGUF: {f}")).collect();
        Err(match gguf.first() {
            Some(first) => out.help(format!("choose one of its GGUF files: ounce pull {} --file {first}", self.name)),
            None => out.help("choose another repository; pickled weights (.bin, .pt) can run code and are not read"),
        })
    }
}

/// Files of a model that this program reads, in the root of the repository (templates may have a directory).
fn is_model_file(path: &str) -> bool {
    const NAMES: [&str; 11] = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
        "adapter_config.json",
        "README.md",
        "LICENSE",
    ];
    let weights = path.ends_with(".safetensors")
        && !path.contains('/')
        && (path == "model.safetensors" || path == "adapter_model.safetensors" || path.starts_with("model-"));
    NAMES.contains(&path) || weights || (path.starts_with("additional_chat_templates/") && path.ends_with(".jinja"))
}

/// Whether every component of a relative path is a plain name.
pub fn is_safe_path(path: &str) -> bool {
    path.len() <= 1024 && path.split('/').all(plain_file_name)
}

pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A blob's name from an `ETag` header: without quotes and the mark of weakness; `None` where it could be no file name.
pub fn etag(header: &str) -> Option<String> {
    let name = header.strip_prefix("W/").unwrap_or(header).trim_matches('"');
    let plain =
        !name.is_empty() && name.len() <= 128 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    plain.then(|| name.to_owned())
}

/// The sha256 that an LFS file's `ETag` is; `None` for other files, whose tag is a git hash.
pub fn sha256_of_etag(etag: &str) -> Option<&str> {
    (etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit())).then_some(etag)
}

/// The cache of one repository: `models--org--name/{blobs,refs,snapshots}`.
#[derive(Clone, Debug)]
pub struct Cache {
    pub root: PathBuf,
}

impl Cache {
    pub fn of(cache: &Path, name: &str) -> Cache {
        Cache { root: cache.join(format!("models--{}", name.replace('/', "--"))) }
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{etag}.incomplete"))
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub fn reference(&self, revision: &str) -> PathBuf {
        self.root.join("refs").join(revision)
    }
}

/// A text from a server, short enough to print.
fn clipped(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn answer(files: &[&str]) -> Vec<u8> {
        let siblings: Vec<_> = files.iter().map(|f| serde_json::json!({"rfilename": f})).collect();
        serde_json::to_vec(&serde_json::json!({"sha": COMMIT, "siblings": siblings, "more": 1})).unwrap()
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        let long = "x".repeat(5000);
        for path in ["../x", "/x", "a/../x", "C:\\x", "C:x", "a\\b", "a\0b", "", "a//b", ".", "a/.", "..", &long] {
            assert!(!is_safe_path(path), "{path:?}");
            let error = Repository::parse("o/n", &answer(&["config.json", path])).unwrap_err();
            assert_eq!((error.code, error.details.len()), (&codes::HUB_ANSWER, 1), "{path:?}");
        }
        for path in ["config.json", "a/b.jinja", "model-00001-of-00002.safetensors", ".gitattributes", "é.txt"] {
            assert!(is_safe_path(path), "{path:?}");
        }
        for sha in ["../../etc", "", "0123", &"g".repeat(40)] {
            let json = serde_json::json!({"sha": sha, "siblings": []}).to_string();
            assert_eq!(Repository::parse("o/n", json.as_bytes()).unwrap_err().code, &codes::HUB_ANSWER);
        }
    }

    #[test]
    fn tags_become_names_only_if_they_are_plain() {
        assert_eq!(etag("\"abc-1\""), Some("abc-1".into()));
        assert_eq!(etag("W/\"abc\""), Some("abc".into()));
        for bad in ["", "\"\"", "\"../x\"", "a/b", "a.b", "a b", &"x".repeat(129)] {
            assert_eq!(etag(bad), None, "{bad:?}");
        }
        assert_eq!(sha256_of_etag(&"a".repeat(64)), Some("a".repeat(64).as_str()));
        assert_eq!(sha256_of_etag(&"a".repeat(40)), None);
    }

    #[test]
    fn a_model_needs_its_weights_tokenizer_and_templates() {
        let files = [
            ".gitattributes",
            "README.md",
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "onnx/model.onnx",
            "tokenizer.json",
            "sub/model.safetensors",
            "additional_chat_templates/rag.jinja",
            "consolidated.safetensors",
        ];
        let repository = Repository::parse("o/n", &answer(&files)).unwrap();
        let expected =
            ["README.md", "config.json", "model.safetensors", "tokenizer.json", "additional_chat_templates/rag.jinja"];
        assert_eq!(repository.wanted(&[]).unwrap(), expected);
        assert_eq!(repository.wanted(&["onnx/model.onnx".into()]).unwrap(), ["onnx/model.onnx"]);
        let error = repository.wanted(&["tokenizer.jsn".into()]).unwrap_err();
        assert_eq!(error.details, ["tokenizer.jsn; did you mean tokenizer.json?"]);
        let gguf = Repository::parse("o/n", &answer(&["a.Q4_0.gguf", "b.Q8_0.gguf"])).unwrap();
        let error = gguf.wanted(&[]).unwrap_err();
        assert!(error.help[0].contains("--file a.Q4_0.gguf"), "{error:?}");
    }
}
