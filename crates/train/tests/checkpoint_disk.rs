//! Checkpoints on the real file system: links, pipes, a file size limit.

use std::{fs, path::Path, process::Command};

use ounce_train::{
    checkpoint::{CheckpointError, Snapshot, load, load_latest, save},
    vfs::Disk,
};

fn snapshot(step: usize, bytes: usize) -> Snapshot<'static> {
    Snapshot {
        step,
        world_size: 1,
        recipe_hash: String::new(),
        meta: serde_json::Value::Null,
        blobs: vec![("params.safetensors".into(), vec![step as u8; bytes].into())],
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn checkpoints_are_saved_pruned_and_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("new/run");
    for step in [10, 20, 30] {
        let saved = save(&Disk, &runs, &snapshot(step, 100_000), 2).unwrap();
        assert_eq!((saved.path, saved.warnings), (runs.join(format!("checkpoint-{step}")), vec![]));
        assert!(saved.bytes > 100_000);
    }
    assert_eq!(names(&runs), ["checkpoint-20", "checkpoint-30", "latest"]);
    assert_eq!(fs::read_to_string(runs.join("latest")).unwrap(), "checkpoint-30\n");
    let loaded = load_latest(&Disk, &runs).unwrap().unwrap();
    assert_eq!(loaded.blob(&Disk, "params.safetensors").unwrap(), vec![30; 100_000]);
}

/// Saves in this process, which may have a file size limit: without one it must work, with one below the file's size it
/// must say that there is no room. `a_file_size_limit_is_a_full_disk` runs it again with a limit.
#[cfg(unix)]
#[test]
fn a_save_respects_the_limit_of_its_process() {
    const BYTES: usize = 256 << 10;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    let dir = tempfile::tempdir().unwrap();
    save(&Disk, dir.path(), &snapshot(1, 1000), 2).unwrap();
    let result = save(&Disk, dir.path(), &snapshot(2, BYTES), 2);
    let newest = load_latest(&Disk, dir.path()).unwrap().unwrap().step;
    if limit.is_none_or(|limit| limit > BYTES as u64) {
        result.unwrap();
        assert_eq!(newest, 2);
    } else {
        let error = result.unwrap_err();
        assert!(matches!(error, CheckpointError::DiskFull { .. }), "{error}");
        assert_eq!(newest, 1);
        assert_eq!(names(dir.path()), ["checkpoint-1", "latest"]);
    }
}

#[cfg(unix)]
#[test]
fn a_file_size_limit_is_a_full_disk() {
    // 128 blocks of 512 or 1024 bytes, both below the test's file and above what the test itself writes.
    let script = r#"trap '' XFSZ; ulimit -f 128; exec "$0" --exact a_save_respects_the_limit_of_its_process"#;
    let output = Command::new("sh").arg("-c").arg(script).arg(std::env::current_exe().unwrap()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[cfg(unix)]
#[test]
fn links_and_pipes_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = save(&Disk, dir.path(), &snapshot(10, 50), 2).unwrap().path;
    // A link to a whole checkpoint is not one of this run's.
    std::os::unix::fs::symlink(&path, dir.path().join("checkpoint-20")).unwrap();
    assert_eq!(load_latest(&Disk, dir.path()).unwrap().unwrap().step, 10);
    // Opening a pipe would wait for ever.
    let file = path.join("params.safetensors");
    fs::remove_file(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    let error = load(&Disk, &path).unwrap_err().to_string();
    assert!(error.contains("params.safetensors is not a plain file"), "{error}");
}
