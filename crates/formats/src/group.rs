//! The tensors that are used together, read from their files in few large reads: which bytes lie where in one block of memory,
//! and filling it. It knows places in files, not what the tensors are for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::{io, mem};

use crate::OpenError;
use crate::bytes::Place;
use crate::direct::{DirectFile, PAGE};
use crate::meter::Meter;
use crate::restore::Restore;

/// Bytes between two tensors that are rather read along than skipped by a second read.
const GAP: u64 = 128 << 10;

/// A tensor to read.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub name: String,
    pub place: Place,
    /// What its address must be a multiple of.
    pub align: usize,
}

/// Open files, each once.
#[derive(Debug, Default)]
pub struct Files {
    open: BTreeMap<Arc<Path>, Arc<DirectFile>>,
    meter: Arc<Meter>,
}

/// A tensor of which a few rows are read at a time.
#[derive(Debug)]
pub struct Table {
    name: String,
    file: Arc<DirectFile>,
    range: Range<u64>,
}

/// Tensors and the reads that bring them.
#[derive(Debug)]
pub struct Group {
    reads: Vec<Read>,
    places: Vec<Range<usize>>,
    bytes: usize,
}

#[derive(Debug)]
struct Read {
    file: Arc<DirectFile>,
    /// A whole page of the file.
    at: u64,
    /// Whole pages of the block.
    into: Range<usize>,
    /// Bytes up to the end of the last tensor.
    needed: usize,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
struct Piece {
    name: String,
    /// In the file.
    range: Range<u64>,
    /// Where the read puts it, and where it goes from there for its alignment.
    read_to: usize,
    here: usize,
    restore: Restore,
}

/// A tensor that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {tensor} from {path} at byte {at}: {source}")]
pub struct ReadError {
    pub tensor: String,
    pub path: String,
    pub at: u64,
    pub source: io::Error,
}

impl Files {
    /// Counts the calls of all of them, also of those that are opened later.
    pub fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    fn open(&mut self, path: &Arc<Path>) -> Result<Arc<DirectFile>, OpenError> {
        if let Some(file) = self.open.get(path) {
            return Ok(file.clone());
        }
        let file = DirectFile::open(path, self.meter());
        let file = file.map_err(|source| OpenError::Io { path: path.to_path_buf(), source })?;
        Ok(self.open.entry(path.clone()).or_insert(Arc::new(file)).clone())
    }
}

impl Table {
    /// `None` if the rows do not lie in the file as they are used.
    pub fn new(files: &mut Files, tensor: &Wanted) -> Result<Option<Table>, OpenError> {
        if tensor.place.restore != Restore::AsIs {
            return Ok(None);
        }
        let file = files.open(&tensor.place.path)?;
        Ok(Some(Table { name: tensor.name.clone(), file, range: tensor.place.range.clone() }))
    }

    /// Fills `block` with the rows `ids`, ascending, of `row_bytes` each.
    pub fn read(&self, ids: &[u32], row_bytes: usize, block: &mut [u8]) -> Result<(), ReadError> {
        for (row, &id) in block.chunks_exact_mut(row_bytes).zip(ids) {
            let at = self.range.start + u64::from(id) * row_bytes as u64;
            assert!(at + row_bytes as u64 <= self.range.end, "row {id} of {}", self.name);
            self.file.read_few(row, at).map_err(|stopped| {
                let path = self.file.path().display().to_string();
                ReadError { tensor: self.name.clone(), path, at: stopped.at, source: stopped.source }
            })?;
        }
        Ok(())
    }
}

impl Group {
    /// Lays out `tensors`: neighbours in a file come with one read.
    pub fn new(files: &mut Files, tensors: &[Wanted]) -> Result<Group, OpenError> {
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by(|&a, &b| {
            let key = |i: usize| (&tensors[i].place.path, tensors[i].place.range.start);
            key(a).cmp(&key(b))
        });
        let mut group = Group { reads: Vec::new(), places: vec![0..0; tensors.len()], bytes: 0 };
        for i in order {
            let Wanted { name, place, align } = &tensors[i];
            let shift = (place.range.start % *align as u64) as usize;
            let near = group.reads.last().is_some_and(|last| {
                let end = last.at + last.needed as u64;
                // A tensor that must be shifted needs the bytes before it.
                last.file.path() == &*place.path && place.range.start <= end + GAP && shift == 0
            });
            if !near {
                let at = place.range.start / PAGE as u64 * PAGE as u64;
                let file = files.open(&place.path)?;
                group.reads.push(Read { file, at, into: group.bytes..group.bytes, needed: 0, pieces: Vec::new() });
            }
            let read = group.reads.last_mut().expect("there is one now");
            let read_to = read.into.start + (place.range.start - read.at) as usize;
            let (range, restore) = (place.range.clone(), place.restore);
            let length = (range.end - range.start) as usize;
            read.needed = read.needed.max((range.end - read.at) as usize);
            read.into.end = read.into.start + read.needed.next_multiple_of(PAGE);
            group.bytes = read.into.end;
            let here = read_to - shift;
            group.places[i] = here..here + length;
            read.pieces.push(Piece { name: name.clone(), range, read_to, here, restore });
        }
        Ok(group)
    }

    /// Length of the block in bytes, whole pages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where each tensor lies in the block, in the order they were given.
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.places
    }

    /// Fills the block.
    pub fn read(&self, block: &mut [u8]) -> Result<(), ReadError> {
        let mut moved = Vec::new();
        for read in &self.reads {
            read.file.read(&mut block[read.into.clone()], read.at, read.needed).map_err(|stopped| {
                let hit = read.pieces.iter().find(|p| stopped.at < p.range.end).or(read.pieces.last());
                let tensor = hit.map_or_else(String::new, |p| p.name.clone());
                let path = read.file.path().display().to_string();
                ReadError { tensor, path, at: stopped.at, source: stopped.source }
            })?;
            for piece in &read.pieces {
                let length = (piece.range.end - piece.range.start) as usize;
                let stored = piece.read_to..piece.read_to + length;
                if piece.restore == Restore::AsIs {
                    if piece.here != piece.read_to {
                        block.copy_within(stored, piece.here);
                    }
                    continue;
                }
                let mut out = mem::take(&mut moved);
                out.resize(length, 0);
                piece.restore.apply(&mut out, &block[stored]);
                block[piece.here..piece.here + length].copy_from_slice(&out);
                moved = out;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bytes;

    /// A file of `bytes` bytes whose byte `i` follows from `i`.
    fn file(dir: &Path, name: &str, bytes: usize) -> Bytes {
        let path = dir.join(name);
        std::fs::write(&path, (0..bytes).map(|i| (i * 31 / 7) as u8).collect::<Vec<u8>>()).unwrap();
        Bytes::map(&path).unwrap()
    }

    fn wanted(name: &str, bytes: &Bytes, align: usize) -> Wanted {
        Wanted { name: name.into(), place: bytes.place().unwrap(), align }
    }

    #[test]
    fn tensors_of_two_files_have_the_bytes_of_the_maps() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (file(dir.path(), "a", 3_000_000), file(dir.path(), "b", 50_000));
        let order = Restore::Halves { rows: 8, head_dim: 4 };
        let parts = [
            // Neighbours, one apart by more than a gap, an odd start, a restored one, the last bytes of a file.
            (a.slice(4096..9000), 4),
            (a.slice(9000..9400).restored(order), 1),
            (a.slice(2_000_001..2_000_401), 4),
            (b.slice(48_000..50_000), 2),
            (a.slice(9403..9407), 4),
            (a.slice(10_000..10_040), 2),
        ];
        let tensors: Vec<Wanted> = parts.iter().map(|(bytes, align)| wanted("t", bytes, *align)).collect();
        let group = Group::new(&mut Files::default(), &tensors).unwrap();
        assert_eq!(group.reads.len(), 4);
        let mut block = memmap2::MmapMut::map_anon(group.bytes()).unwrap();
        group.read(&mut block).unwrap();
        for (i, (bytes, align)) in parts.iter().enumerate() {
            assert_eq!(&block[group.ranges()[i].clone()], &**bytes, "tensor {i}");
            assert!(group.ranges()[i].start.is_multiple_of(*align), "tensor {i}");
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error_that_names_tensor_and_byte() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = file(dir.path(), "a", 100_000);
        let tensors = [wanted("first", &bytes.slice(0..50_000), 1), wanted("second", &bytes.slice(50_000..100_000), 1)];
        let group = Group::new(&mut Files::default(), &tensors).unwrap();
        let open = std::fs::File::options().write(true).open(dir.path().join("a")).unwrap();
        open.set_len(60_000).unwrap();
        let mut block = memmap2::MmapMut::map_anon(group.bytes()).unwrap();
        let error = group.read(&mut block).unwrap_err();
        assert_eq!((error.tensor.as_str(), error.at), ("second", 60_000));
        assert!(error.to_string().contains("at byte 60000") && error.to_string().contains("40000 more"), "{error}");
        let mut files = Files::default();
        let table = Table::new(&mut files, &tensors[1]).unwrap().unwrap();
        table.read(&[0, 99], 100, &mut block[..200]).unwrap();
        assert_eq!((&block[..100], &block[100..200]), (&bytes[50_000..50_100], &bytes[59_900..60_000]));
        assert_eq!(table.read(&[100], 100, &mut block[..100]).unwrap_err().at, 60_000);
    }
}
