//! Python as a development tool: pip as a downloader of packages that ship model files, and the pinned environment of the
//! peers (PyTorch, transformers, PEFT) that the golden files and the parity tests compare with. Ounce itself never runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{fetch, place, proc};

const MISSING: &str = "the tests need python3 with pip and venv, as tools for fetching and comparing only\n\
hint: on Debian: apt-get install python3 python3-pip python3-venv";

/// `python3`, after a check that it has what `modules` name.
pub fn python3(modules: &[&str]) -> Result<PathBuf, String> {
    let imports = modules.join(", ");
    proc::capture(Command::new("python3").args(["-c", &format!("import {imports}")]))
        .map_err(|e| format!("python3 cannot import {imports}\ncause: {e}\nhint: {MISSING}"))?;
    Ok("python3".into())
}

/// The interpreter of the peers' environment in `assets/venv`; makes it where it is missing or its pins have changed.
pub fn ensure_venv() -> Result<PathBuf, String> {
    let python = ensure_peers()?;
    // These and what they load lie on top, so that a change there does not install PyTorch again.
    for name in ["lm-eval", "guidellm"] {
        let pins_path = place::workspace().join(format!("xtask/golden/requirements-{name}.txt"));
        let stamp = place::assets().join(format!("venv/{name}.sha256"));
        let sha = fetch::sha256_file(&pins_path)?;
        if !fs::read_to_string(&stamp).is_ok_and(|s| s == sha) {
            println!("assets: installing {name}");
            install(&python, &pins_path)?;
            fetch::write_whole(&stamp, sha.as_bytes())?;
        }
    }
    Ok(python)
}

/// Installs what a file lists, and nothing that it does not list.
fn install(python: &Path, pins: &Path) -> Result<(), String> {
    let args = ["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "-r"];
    proc::run(Command::new(python).args(args).arg(pins))
}

fn ensure_peers() -> Result<PathBuf, String> {
    let pins_path = place::workspace().join("xtask/golden/requirements.txt");
    let pins = fs::read(&pins_path).map_err(|e| format!("cannot read {}: {e}", pins_path.display()))?;
    let venv = place::assets().join("venv");
    let python = venv.join("bin/python");
    let stamp = venv.join("pins.sha256");
    let pins_sha = fetch::sha256(&pins);
    if fs::read_to_string(&stamp).is_ok_and(|s| s == pins_sha) && python.exists() {
        return Ok(python);
    }
    println!("assets: installing the Python peers into {}", venv.display());
    let system = python3(&["venv", "ensurepip", "pip"])?;
    fs::create_dir_all(place::assets()).map_err(|e| format!("cannot make {}: {e}", place::assets().display()))?;
    proc::run(Command::new(system).args(["-m", "venv", "--clear"]).arg(&venv))?;
    // The file lists every package with its version, so pip resolves nothing (--no-deps) and leaves out what CPU runs never
    // load, the largest of which is triton (1 GB).
    install(&python, &pins_path)?;
    let seen = "import torch, transformers, peft, gguf, safetensors, numpy, jinja2, ollama, openai, \
        openapi_spec_validator, schemathesis";
    proc::capture(Command::new(&python).args(["-c", seen]))?;
    // The stamp is written last: an install that was cut off is made again.
    fetch::write_whole(&stamp, pins_sha.as_bytes())?;
    Ok(python)
}

/// What the peers compute with the real models, in `assets/reference`; made again when the script that makes it changes.
pub fn ensure_reference() -> Result<(), String> {
    let python = ensure_venv()?;
    let assets = place::assets();
    let script = place::workspace().join("xtask/golden/make_reference.py");
    let stamp = assets.join("reference/script.sha256");
    let sha = fetch::sha256_file(&script)?;
    if fs::read_to_string(&stamp).is_ok_and(|s| s == sha) {
        println!("assets: {} ok", assets.join("reference").display());
        return Ok(());
    }
    println!("assets: running transformers on the real models, which takes some minutes");
    proc::run(Command::new(python).arg(script).arg(&assets))?;
    fetch::write_whole(&stamp, sha.as_bytes())
}

/// Downloads one package by name and version into `folder`, without its dependencies; returns the one file it put there.
pub fn pip_download(python: &Path, package: &str, source: bool, folder: &Path) -> Result<PathBuf, String> {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check", "--dest"]).arg(folder);
    if source {
        // Only this package from source: with `:all:` pip would also compile its build tools.
        pip.args(["--no-binary", package.split("==").next().unwrap_or(package)]);
    }
    proc::run(pip.arg(package)).map_err(|e| {
        format!("cannot fetch the Python package {package}\ncause: {e}\nhint: pip must reach a package index")
    })?;
    let mut files = fetch::files_under(folder)?;
    match (files.pop(), files.is_empty()) {
        (Some(file), true) => Ok(file),
        _ => Err(format!("pip was to put one file for {package} into {}, but did not", folder.display())),
    }
}
