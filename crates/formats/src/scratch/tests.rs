//! Scratch files on real disks and on one that fails.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

/// A disk in memory of a fixed size. It fails the `fails_at`th write or read, and flips a bit on the way back when told to.
#[derive(Debug, Default)]
struct Faulty {
    memory: Mutex<Vec<u8>>,
    size: u64,
    calls: AtomicUsize,
    fails_at: usize,
    flips: Arc<AtomicBool>,
}

impl Faulty {
    fn call(&self) -> io::Result<()> {
        match self.calls.fetch_add(1, Ordering::Relaxed) == self.fails_at {
            true => Err(io::Error::from_raw_os_error(5)),
            false => Ok(()),
        }
    }
}

impl Disk for Faulty {
    fn allocate(&self, at: u64, bytes: u64) -> io::Result<()> {
        if at + bytes > self.size {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.memory.lock().unwrap().resize((at + bytes) as usize, 0);
        Ok(())
    }
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.size - self.memory.lock().unwrap().len() as u64)
    }
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.call()?;
        self.memory.lock().unwrap()[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn read(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.call()?;
        into.copy_from_slice(&self.memory.lock().unwrap()[at as usize..][..into.len()]);
        if self.flips.load(Ordering::Relaxed) {
            into[into.len() / 3] ^= 4;
        }
        Ok(())
    }
}

fn bytes(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2 * seed + 31) >> 3) as u8).collect()
}

#[test]
fn what_was_written_is_read_by_many_threads_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = ScratchFile::create(dir.path()).unwrap();
    // It has no name.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let file = &file;
            scope.spawn(move || {
                for (i, length) in [1, PAGE, 3 * PAGE + 17, 2 * BOUNCE + PAGE + 9, 0, 5 * PAGE].into_iter().enumerate()
                {
                    let region = file.reserve(length).unwrap();
                    let mut aligned = MmapMut::map_anon(length.max(1) + 8).unwrap();
                    // From memory that begins at a page, and from other memory.
                    for shift in [0, 8] {
                        let content = bytes(10 * thread + i + shift, length);
                        aligned[shift..shift + length].copy_from_slice(&content);
                        file.write(&region, &aligned[shift..shift + length]).unwrap();
                        for shift in [8, 0] {
                            let into = &mut aligned[shift..shift + length];
                            into.fill(0);
                            file.read(&region, into).unwrap();
                            assert!(into == content, "{length} bytes, thread {thread}");
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn places_given_back_are_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = ScratchFile::create(dir.path()).unwrap();
    let regions: Vec<Region> = (0..4).map(|_| file.reserve(100_000).unwrap()).collect();
    let length = file.bytes();
    assert_eq!(length, 4 * 102_400);
    drop(regions);
    let _one = file.reserve(300_000).unwrap();
    let _another = file.reserve(50_000).unwrap();
    assert_eq!(file.bytes(), length);
}

#[test]
fn a_directory_has_room_and_lies_in_memory_or_not() {
    let dir = tempfile::tempdir().unwrap();
    assert!(free_bytes(dir.path()).unwrap() > 0 && free_bytes(&dir.path().join("not there")).is_err());
    assert!(!is_memory(&dir.path().join("not there")));
    let memory = Path::new("/dev/shm");
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    assert_eq!(is_memory(memory), mounts.lines().any(|line| line.contains(" /dev/shm tmpfs ")));
}

#[test]
fn a_full_disk_says_how_much_is_missing_and_what_was_there_stays() {
    let disk = Faulty { size: 10 * PAGE as u64, fails_at: usize::MAX, ..Faulty::default() };
    let file = ScratchFile::on(Box::new(disk), Path::new("runs/a"));
    let first = file.reserve(6 * PAGE).unwrap();
    file.write(&first, &bytes(1, 6 * PAGE)).unwrap();
    let error = file.reserve(5 * PAGE).unwrap_err().to_string();
    assert!(
        error.contains("runs/a") && error.contains("20.0 KiB more") && error.contains("16.0 KiB are free"),
        "{error}"
    );
    let _second = file.reserve(4 * PAGE).unwrap();
    let mut back = vec![0; 6 * PAGE];
    file.read(&first, &mut back).unwrap();
    assert!(back == bytes(1, 6 * PAGE));
}

#[test]
fn a_limit_of_the_process_ends_in_an_error_before_anything_is_written() {
    if std::env::var_os("SCRATCH_UNDER_LIMIT").is_some() {
        let dir = tempfile::tempdir().unwrap();
        let file = ScratchFile::create(dir.path()).unwrap();
        file.reserve(10 << 10).unwrap();
        let error = file.reserve(10 << 20).unwrap_err();
        assert!(matches!(&error, ScratchError::Reserve { source, .. } if source.raw_os_error() == Some(27)), "{error}");
        return;
    }
    // The program ignores this signal, as the shell does here.
    let test = "scratch::tests::a_limit_of_the_process_ends_in_an_error_before_anything_is_written";
    let script = format!(r#"trap '' XFSZ; ulimit -f 128; exec "$0" --exact {test}"#);
    let mut run = std::process::Command::new("sh");
    run.args(["-c", &script]).arg(std::env::current_exe().unwrap()).env("SCRATCH_UNDER_LIMIT", "1");
    let run = run.output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    assert!(String::from_utf8_lossy(&run.stdout).contains("1 passed"));
}

#[test]
fn every_operation_that_fails_is_told_with_its_place() {
    let content = bytes(3, 3 * PAGE + 100);
    for fails_at in 0..6 {
        let disk = Faulty { size: 1 << 20, fails_at, ..Faulty::default() };
        let file = ScratchFile::on(Box::new(disk), Path::new("runs/a"));
        let (_before, region) = (file.reserve(1).unwrap(), file.reserve(content.len()).unwrap());
        let mut memory = MmapMut::map_anon(content.len()).unwrap();
        memory.copy_from_slice(&content);
        // Each in two parts: whole pages, and the rest.
        let written = file.write(&region, &memory);
        let read = written.is_ok().then(|| file.read(&region, &mut memory));
        let (failed, at) = match fails_at {
            0 | 1 => (written.unwrap_err(), 4096 + 3 * 4096 * fails_at),
            2 | 3 => (read.unwrap().unwrap_err(), 4096 + 3 * 4096 * (fails_at - 2)),
            _ => {
                read.unwrap().unwrap();
                assert!(memory[..] == content);
                continue;
            }
        };
        let text = failed.to_string();
        let what = if fails_at < 2 { "write" } else { "read" };
        assert!(
            text.contains(what) && text.contains(&format!("at byte {at} ")) && text.contains("os error 5"),
            "{text}"
        );
        assert!(text.contains("runs/a") && text.contains("resumed"), "{text}");
    }
}

#[test]
fn a_flipped_bit_is_noticed() {
    let flips = Arc::new(AtomicBool::new(true));
    let disk = Faulty { size: 1 << 20, fails_at: usize::MAX, flips: flips.clone(), ..Faulty::default() };
    let file = ScratchFile::on(Box::new(disk), Path::new("runs/a"));
    let region = file.reserve(5000).unwrap();
    file.write(&region, &bytes(7, 5000)).unwrap();
    let mut back = vec![0; 5000];
    let error = file.read(&region, &mut back).unwrap_err();
    assert!(matches!(error, ScratchError::Damaged { at: 0, bytes: 5000, .. }), "{error}");
    flips.store(false, Ordering::Relaxed);
    file.read(&region, &mut back).unwrap();
}
