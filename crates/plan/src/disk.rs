//! How fast a disk is past the page cache, measured the way weights are streamed. It knows files, not what is in them.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use ounce_formats::direct::DirectFile;
use ounce_spec::machine::Disk;

/// Bytes of one read or write: many, and no more than the program is reckoned to grow by.
const PIECE: usize = 2 << 20;
/// Pieces that are written before the disk has to have them: together as much as a block of a large model.
const PIECES: usize = 8;
/// Longest time to read or write for.
const TIME: Duration = Duration::from_millis(400);
/// Name of the file that is written and removed again.
const SCRATCH: &str = "disk-probe.tmp";

/// Bytes per second that `path` is read with; `None` if it cannot be read or is too small to tell.
pub fn read_bytes_s(path: &Path) -> Option<f64> {
    let length = std::fs::metadata(path).ok()?.len();
    read(path, length).ok().flatten()
}

/// Measures the disk that `dir` is on with a file that is removed afterwards.
pub fn measure(dir: &Path) -> io::Result<Disk> {
    let path = dir.join(SCRATCH);
    let measured = write(&path).and_then(|(length, write_bytes_s)| {
        let read_bytes_s = read(&path, length)?.unwrap_or(0.0);
        Ok(Disk { read_bytes_s, write_bytes_s })
    });
    std::fs::remove_file(&path)?;
    measured
}

fn read(path: &Path, length: u64) -> io::Result<Option<f64>> {
    let file = DirectFile::open(path, Arc::default())?;
    // Whole pages, for direct reads; a heap would keep them.
    let mut piece = MmapMut::map_anon(PIECE)?;
    let (started, mut at) = (Instant::now(), 0u64);
    while at + PIECE as u64 <= length && (at == 0 || started.elapsed() < TIME) {
        file.read(&mut piece, at, PIECE).map_err(|stopped| stopped.source)?;
        at += PIECE as u64;
    }
    Ok((at > 0).then(|| at as f64 / started.elapsed().as_secs_f64()))
}

/// Length of the file, and bytes per second until they were on the disk.
fn write(path: &Path) -> io::Result<(u64, f64)> {
    let mut file = File::create(path)?;
    // Not zeros, which some disks do not write.
    let mut piece = MmapMut::map_anon(PIECE)?;
    for (i, byte) in (0u64..).zip(piece.iter_mut()) {
        *byte = (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
    }
    let (started, mut length) = (Instant::now(), 0);
    while length == 0 || started.elapsed() < TIME {
        for _ in 0..PIECES {
            file.write_all(&piece)?;
            length += PIECE as u64;
        }
        file.sync_data()?;
    }
    Ok((length, length as f64 / started.elapsed().as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_two_rates_and_nothing_is_left_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = measure(dir.path()).unwrap();
        assert!(disk.read_bytes_s > 1e5 && disk.write_bytes_s > 1e5, "{disk:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(measure(&dir.path().join("not there")).is_err());
    }

    #[test]
    fn small_and_missing_files_tell_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), [0; 10]).unwrap();
        assert_eq!(read_bytes_s(&dir.path().join("a")), None);
        assert_eq!(read_bytes_s(&dir.path().join("b")), None);
    }
}
