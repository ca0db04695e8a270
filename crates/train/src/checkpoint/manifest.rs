//! MANIFEST.json: what a checkpoint consists of, protected by a hash of itself. Touches no file.

use serde::{Deserialize, Serialize};

/// The layout written here. A reader refuses a higher number.
const FORMAT: u32 = 1;

/// The content of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// Updates done.
    pub step: usize,
    /// Processes that trained together; each wrote its own blobs.
    pub world_size: usize,
    /// Version of the program that wrote it.
    pub code_version: String,
    /// Hash of the resolved recipe, so that a run is not continued with other settings by accident.
    pub recipe_hash: String,
    pub files: Vec<FileEntry>,
    /// What the caller wants to know before it reads any file.
    pub meta: serde_json::Value,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    pub name: String,
    pub bytes: u64,
    /// Lower-case hexadecimal BLAKE3 of the file.
    pub blake3: String,
}

// The file is HEAD, 64 hexadecimal digits, NECK and the rest, which the digits are the hash of. So every bit of it is
// either compared with a constant or hashed, and it still is JSON that any tool reads.
const HEAD: &[u8] = b"{\"blake3\": \"";
const DIGITS: usize = 64;
const NECK: &[u8] = b"\",\n\"manifest\": ";
const FOOT: &[u8] = b"\n}\n";

impl Manifest {
    pub fn new(step: usize, world_size: usize, recipe_hash: &str, meta: serde_json::Value) -> Manifest {
        let code_version = env!("CARGO_PKG_VERSION").to_string();
        Manifest {
            format: FORMAT,
            step,
            world_size,
            code_version,
            recipe_hash: recipe_hash.into(),
            files: vec![],
            meta,
        }
    }

    /// The bytes of MANIFEST.json.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut rest = serde_json::to_vec_pretty(self).expect("strings, integers and a JSON value always serialise");
        rest.extend_from_slice(FOOT);
        let digits = blake3::hash(&rest).to_hex();
        [HEAD, digits.as_bytes(), NECK, &rest].concat()
    }

    /// Reads MANIFEST.json.
    ///
    /// # Errors
    /// A sentence: not a manifest, changed since it was written, or of a newer version.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, String> {
        let parts = bytes.strip_prefix(HEAD).and_then(|tail| tail.split_at_checked(DIGITS));
        let Some((digits, rest)) = parts.and_then(|(digits, tail)| Some((digits, tail.strip_prefix(NECK)?))) else {
            return Err("MANIFEST.json does not start as a manifest does".into());
        };
        if blake3::hash(rest).to_hex().as_bytes() != digits {
            return Err("MANIFEST.json does not match its own hash: it was damaged or edited".into());
        }
        let body = rest.strip_suffix(FOOT).ok_or("MANIFEST.json is cut short")?;
        let format: Format = serde_json::from_slice(body).map_err(|e| format!("MANIFEST.json: {e}"))?;
        if format.format > FORMAT {
            return Err(format!(
                "MANIFEST.json has format {}, this program reads up to {FORMAT}: use the version that wrote it",
                format.format
            ));
        }
        serde_json::from_slice(body).map_err(|e| format!("MANIFEST.json: {e}"))
    }
}

/// The one field that every version has.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let mut manifest =
            Manifest::new(30, 1, "abc", serde_json::json!({"loss": 1.25, "cursor": [1, 2], "text": "ünï"}));
        manifest.files.push(FileEntry { name: "state.json".into(), bytes: 12, blake3: "00".repeat(32) });
        manifest
    }

    #[test]
    fn a_manifest_is_json_and_reads_back() {
        let bytes = sample().to_bytes();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["manifest"]["files"][0]["name"], "state.json");
        assert_eq!(Manifest::parse(&bytes).unwrap(), sample());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = sample().to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::parse(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Manifest::parse(&bytes[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let newer = Manifest { format: 2, ..sample() };
        assert!(Manifest::parse(&newer.to_bytes()).unwrap_err().contains("format 2"));
    }
}
