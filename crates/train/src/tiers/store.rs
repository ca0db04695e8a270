//! The scratch file as a training run uses it: one thread writes behind, another reads pieces ahead, and whoever reads a region
//! waits for the writes that are still on their way to it. It knows regions, not what is in them.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use ounce_formats::scratch::{Region, ScratchError, ScratchFile};
use ounce_tensor::{Progress, ReadError, Source, Tensor, Watch};

use super::places::{Place, Places};
use crate::scratch;

/// What goes to or comes from a region: which bytes of a tensor.
pub type Transfer = (Place, Range<usize>);

pub struct Store {
    file: ScratchFile,
    regions: Vec<Region>,
    places: Arc<Places>,
    behind: Mutex<Behind>,
    written: Condvar,
    /// For rows of a table: the piece they are taken from.
    rows: Mutex<Tensor>,
}

struct Behind {
    /// Writes of each region that are not done.
    pending: Vec<usize>,
    /// The first that failed. Nothing in the file is to be trusted then.
    failed: Option<ReadError>,
}

#[derive(Debug, thiserror::Error)]
#[error("a thread that moves optimizer state has ended")]
struct Ended;

fn bytes_of(tensor: &Tensor) -> &[u8] {
    bytemuck::cast_slice(tensor.f32())
}

pub fn bytes_mut(tensor: &mut Tensor) -> &mut [u8] {
    bytemuck::cast_slice_mut(tensor.f32_mut())
}

impl Store {
    /// Takes the room for everything at once: a disk that is too full is found here. `rows` is as large as a piece of a table.
    pub fn new(file: ScratchFile, places: Arc<Places>, rows: Tensor) -> Result<Store, ScratchError> {
        let regions = places.regions.iter().map(|&bytes| file.reserve(bytes)).collect::<Result<Vec<_>, _>>()?;
        let behind = Mutex::new(Behind { pending: vec![0; regions.len()], failed: None });
        Ok(Store { file, regions, places, behind, written: Condvar::new(), rows: Mutex::new(rows) })
    }

    /// Reads a region, after what is on its way to it.
    pub fn read(&self, place: Place, into: &mut [u8]) -> Result<(), ReadError> {
        self.settle(place)?;
        self.file.read(&self.regions[place], into).map_err(ReadError::new)
    }

    /// Writes a region now. None is on its way to it.
    pub fn write(&self, place: Place, bytes: &[u8]) -> Result<(), ReadError> {
        self.file.write(&self.regions[place], bytes).map_err(ReadError::new)
    }

    /// Waits until the region holds what was written last.
    pub fn settle(&self, place: Place) -> Result<(), ReadError> {
        let progress = || self.progress();
        let mut watch = Watch::new("optimizer state on its way to disk", &progress);
        let pending = |behind: &Behind| behind.pending[place] > 0 && behind.failed.is_none();
        let behind = watch.wait_while(&self.written, self.lock(), pending)?;
        behind.failed.clone().map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, Behind> {
        self.behind.lock().expect("lock of the writes")
    }
}

impl Source for Store {
    fn read(&self, segment: usize, block: &mut [u8]) -> Result<(), ReadError> {
        let of = &self.places.blocks[segment];
        if let Some((place, bytes)) = of.own {
            self.read(place, &mut block[..bytes])?;
        }
        for (place, range) in &of.tables {
            self.read(*place, &mut block[range.clone()])?;
        }
        Ok(())
    }

    fn read_rows(&self, table: usize, ids: &[u32], row_bytes: usize, block: &mut [u8]) -> Result<(), ReadError> {
        let matrix = self.places.matrices[table].as_ref().expect("a table is a matrix");
        let mut rows = self.rows.lock().expect("lock of a piece");
        let mut here = None;
        for (row, &id) in block.chunks_exact_mut(row_bytes).zip(ids) {
            let number = id as usize / matrix.rows_per_piece;
            let piece = &matrix.pieces[number];
            let (place, range) = piece.weights.as_ref().expect("a table's weights lie with its pieces");
            let bytes = &mut bytes_mut(&mut rows)[..range.len()];
            if here != Some(number) {
                self.read(*place, bytes)?;
                here = Some(number);
            }
            let at = (id as usize - piece.rows.start) * row_bytes;
            row.copy_from_slice(&bytes[at..at + row_bytes]);
        }
        Ok(())
    }

    fn rows_cost(&self, table: usize, ids: &[u32], _: usize) -> usize {
        rows_cost(&self.places, table, ids)
    }

    fn progress(&self) -> Progress {
        scratch::progress(&self.file)
    }
}

/// Whole pieces are read, whatever few rows of them are wanted: their checksums are those of pieces.
pub fn rows_cost(places: &Places, table: usize, ids: &[u32]) -> usize {
    let matrix = places.matrices[table].as_ref().expect("a table is a matrix");
    let mut pieces: Vec<usize> = ids.iter().map(|id| *id as usize / matrix.rows_per_piece).collect();
    pieces.dedup();
    pieces.iter().map(|&piece| matrix.pieces[piece].weights.as_ref().map_or(0, |(_, range)| range.len())).sum()
}

/// The two threads, and what is on its way.
pub struct Threads {
    pub store: Arc<Store>,
    to_writer: Sender<(Tensor, Vec<Transfer>)>,
    to_reader: Sender<(Tensor, Vec<Transfer>)>,
    from_reader: Receiver<Result<Tensor, ReadError>>,
}

impl Threads {
    pub fn start(store: Store) -> std::io::Result<Threads> {
        let store = Arc::new(store);
        let (to_writer, writes) = channel();
        let (to_reader, asked) = channel();
        let (answers, from_reader) = channel();
        let writer = Writer(store.clone());
        std::thread::Builder::new().name("state-writer".into()).spawn(move || writer.serve(writes))?;
        let of_reader = store.clone();
        std::thread::Builder::new().name("state-reader".into()).spawn(move || {
            for (mut tensor, transfers) in asked {
                let mut read = Ok(());
                for (place, range) in transfers {
                    read = read.and_then(|()| of_reader.read(place, &mut bytes_mut(&mut tensor)[range]));
                }
                if answers.send(read.map(|()| tensor)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Threads { store, to_writer, to_reader, from_reader })
    }

    /// Asks for regions; [`Threads::answer`] gives the tensors back in the order in which they were asked for.
    pub fn ask(&self, tensor: Tensor, transfers: Vec<Transfer>) -> Result<(), ReadError> {
        self.to_reader.send((tensor, transfers)).map_err(|_| ReadError::new(Ended))
    }

    pub fn answer(&self) -> Result<Tensor, ReadError> {
        let progress = || self.store.progress();
        let answer = Watch::new("optimizer state from disk", &progress).receive(&self.from_reader)?;
        answer.ok_or_else(|| ReadError::new(Ended))?
    }

    /// Writes now, and gives the tensor back. Nothing is on its way to these regions.
    pub fn put(&self, tensor: Tensor, transfers: Vec<Transfer>) -> Result<Tensor, ReadError> {
        self.apart(tensor, move |store, tensor| {
            transfers.iter().try_for_each(|(place, range)| store.write(*place, &bytes_of(tensor)[range.clone()]))
        })
    }

    /// Reads a region now, after what is on its way to it.
    pub fn fetch(&self, tensor: Tensor, place: Place, bytes: usize) -> Result<Tensor, ReadError> {
        self.apart(tensor, move |store, tensor| store.read(place, &mut bytes_mut(tensor)[..bytes]))
    }

    /// Has `work` done with `tensor` by a thread of its own, which can be left behind where the disk hangs.
    fn apart(
        &self,
        mut tensor: Tensor,
        work: impl FnOnce(&Store, &mut Tensor) -> Result<(), ReadError> + Send + 'static,
    ) -> Result<Tensor, ReadError> {
        let (answer, answers) = channel();
        let store = self.store.clone();
        let apart = move || {
            let done = work(&store, &mut tensor);
            // Who does not wait any more needs no answer.
            let _ = answer.send(done.map(|()| tensor));
        };
        std::thread::Builder::new().name("state-copier".into()).spawn(apart).map_err(ReadError::new)?;
        let progress = || self.store.progress();
        let answer = Watch::new("a copy of what is on disk", &progress).receive(&answers)?;
        answer.ok_or_else(|| ReadError::new(Ended))?
    }

    /// Writes when it can be done; [`Store::settle`] says when it is.
    pub fn write(&self, tensor: Tensor, transfers: Vec<Transfer>) -> Result<(), ReadError> {
        {
            let mut behind = self.store.lock();
            transfers.iter().for_each(|(place, _)| behind.pending[*place] += 1);
        }
        self.to_writer.send((tensor, transfers)).map_err(|_| ReadError::new(Ended))
    }
}

struct Writer(Arc<Store>);

impl Writer {
    fn serve(self, writes: Receiver<(Tensor, Vec<Transfer>)>) {
        for (tensor, transfers) in writes {
            let mut written = Ok(());
            for (place, range) in &transfers {
                written = written.and_then(|()| self.0.write(*place, &bytes_of(&tensor)[range.clone()]));
            }
            // Before anyone hears of it: who waited may want to write to it.
            drop(tensor);
            let mut behind = self.0.lock();
            transfers.iter().for_each(|(place, _)| behind.pending[*place] -= 1);
            if let Err(error) = written {
                behind.failed.get_or_insert(error);
            }
            drop(behind);
            self.0.written.notify_all();
        }
    }
}

impl Drop for Writer {
    /// Also when a write panics: nobody waits for a thread that is gone.
    fn drop(&mut self) {
        let Ok(mut behind) = self.0.behind.lock() else { return };
        behind.failed.get_or_insert_with(|| ReadError::new(Ended));
        drop(behind);
        self.0.written.notify_all();
    }
}
