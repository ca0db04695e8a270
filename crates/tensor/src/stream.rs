//! [`Stream`]: weights that are in memory only while their segment runs. A thread reads the next segment's bytes while this one
//! computes; who trains them takes a block, changes it and puts it back. It knows segments and bytes; where the bytes come from is for a [`Source`] to know.

use std::error::Error;
use std::ops::{Deref, Range};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::device::Device;
use crate::memory::Purpose;
use crate::patience::{Progress, Watch};
use crate::tensor::{Elem, Tensor};

/// Gives the bytes of a segment's weights.
pub trait Source: Send + Sync {
    /// Fills `block`, which has the length that the stream was made with for `segment`. Called from a thread of its own.
    fn read(&self, segment: usize, block: &mut [u8]) -> Result<(), ReadError>;
    /// Fills `block` with the rows `ids` of table number `table`, `row_bytes` each. Called from the same thread.
    fn read_rows(&self, table: usize, ids: &[u32], row_bytes: usize, block: &mut [u8]) -> Result<(), ReadError>;
    /// Bytes that these rows cost to read.
    fn rows_cost(&self, _table: usize, ids: &[u32], row_bytes: usize) -> usize {
        ids.len() * row_bytes
    }
    /// For who waits.
    fn progress(&self) -> Progress {
        Progress::default()
    }
}

/// Bytes that did not come from outside memory, or did not get there: what the source or the store says of it.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct ReadError(Arc<dyn Error + Send + Sync>);

impl ReadError {
    pub fn new(error: impl Error + Send + Sync + 'static) -> ReadError {
        ReadError(Arc::new(error))
    }
}

/// Bytes of a weight for as long as they are needed.
pub trait Stored: Send + Sync {
    fn hold(&self) -> HeldBytes<'_>;
    /// The same for one reading: nothing that has to be made for it stays.
    fn hold_once(&self) -> HeldBytes<'_> {
        self.hold()
    }
    /// Gives memory back that this part of the bytes takes, where they can be read again.
    fn forget(&self, _range: Range<usize>) {}
    /// Only the rows `ids`, of `row_bytes` each, where holding everything is not worth it; and where each of `ids` is among
    /// them.
    fn hold_rows(&self, _: &Device, _ids: &[u32], _row_bytes: usize) -> Option<(HeldBytes<'static>, Vec<u32>)> {
        None
    }
}

/// Bytes that stay where they are while this lives.
pub enum HeldBytes<'a> {
    Here(&'a [u8]),
    Block(Tensor, Range<usize>),
    /// Made for this reading.
    Made(Box<dyn Deref<Target = [u8]> + Send + 'a>),
}

impl Deref for HeldBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            HeldBytes::Here(bytes) => bytes,
            HeldBytes::Made(bytes) => bytes,
            HeldBytes::Block(block, range) => &bytemuck::cast_slice::<f32, u8>(block.f32())[range.clone()],
        }
    }
}

/// What is always there.
impl<T: AsRef<[u8]> + Send + Sync> Stored for T {
    fn hold(&self) -> HeldBytes<'_> {
        HeldBytes::Here(self.as_ref())
    }
}

/// The weights of a model's segments as they come and go: at most those of two segments are in memory.
pub struct Stream {
    device: Device,
    /// Of each segment's block; 0 where nothing is streamed.
    bytes: Vec<usize>,
    shared: Arc<Shared>,
    source: Arc<dyn Source>,
    /// To the reader; none on the dry device, where blocks are counted and never filled.
    requests: Option<Sender<Request>>,
}

struct Shared {
    blocks: Mutex<Vec<Block>>,
    arrived: Condvar,
    /// Rows that could not be read since the last segment was entered.
    lost: Mutex<Option<ReadError>>,
}

/// What the reader is to fill.
enum Request {
    Block(usize, Tensor),
    Rows(Rows),
}

struct Rows {
    table: usize,
    ids: Vec<u32>,
    row_bytes: usize,
    block: Tensor,
    answer: Sender<Result<Tensor, ReadError>>,
}

enum Block {
    Away,
    Coming,
    Here(Tensor),
    Failed(ReadError),
}

#[derive(Debug, thiserror::Error)]
#[error("the thread that reads weights has ended")]
struct Ended;

impl Stream {
    /// `bytes[s]`: length of the block of segment `s`.
    pub fn new(device: &Device, bytes: Vec<usize>, source: Arc<dyn Source>) -> std::io::Result<Stream> {
        let blocks = bytes.iter().map(|_| Block::Away).collect();
        let shared = Arc::new(Shared { blocks: Mutex::new(blocks), arrived: Condvar::new(), lost: Mutex::new(None) });
        let mut requests = None;
        if !device.is_dry() {
            let (sender, receiver) = channel();
            let reader = Reader { shared: shared.clone(), source: source.clone() };
            std::thread::Builder::new().name("weights".into()).spawn(move || reader.serve(receiver))?;
            requests = Some(sender);
        }
        Ok(Stream { device: device.clone(), bytes, shared, source, requests })
    }

    /// Waits until the weights of `segment` are in memory. Those of `next` are read meanwhile and from now on; all others are
    /// let go. Also fails if rows that an earlier segment asked for did not come.
    pub fn enter(&self, segment: usize, next: Option<usize>) -> Result<(), ReadError> {
        if let Some(error) = self.shared.lost.lock().expect("lock of an error").take() {
            return Err(error);
        }
        let mut blocks = self.shared.lock();
        for (s, block) in blocks.iter_mut().enumerate() {
            if s != segment && Some(s) != next && !matches!(block, Block::Coming) {
                *block = Block::Away;
            }
        }
        for s in [segment].into_iter().chain(next) {
            self.request(&mut blocks, s);
        }
        let progress = || self.source.progress();
        let mut watch = Watch::new("the weights of a block", &progress);
        blocks = watch.wait_while(&self.shared.arrived, blocks, |blocks| matches!(blocks[segment], Block::Coming))?;
        let Block::Failed(error) = &blocks[segment] else { return Ok(()) };
        let error = error.clone();
        // Whoever enters again has it read again.
        blocks[segment] = Block::Away;
        Err(error)
    }

    /// The block of the segment that was entered last, to be changed. Nothing may hold a part of it.
    pub fn take(&self, segment: usize) -> Tensor {
        match std::mem::replace(&mut self.shared.lock()[segment], Block::Away) {
            Block::Here(block) => block,
            _ => panic!("segment {segment} has not been entered"),
        }
    }

    /// Puts a changed block back. The source must give what it holds from now on.
    pub fn put(&self, segment: usize, block: Tensor) {
        self.shared.lock()[segment] = Block::Here(block);
    }

    /// Lets every block go: what the source gives has changed.
    pub fn forget(&self) -> Result<(), ReadError> {
        let progress = || self.source.progress();
        let mut watch = Watch::new("the weights of a block", &progress);
        let coming = |blocks: &Vec<Block>| blocks.iter().any(|block| matches!(block, Block::Coming));
        let mut blocks = watch.wait_while(&self.shared.arrived, self.shared.lock(), coming)?;
        blocks.iter_mut().for_each(|block| *block = Block::Away);
        Ok(())
    }

    /// A weight that lies at `part` (segment, range of its block) and whose rows are those of `table`; `otherwise` gives its
    /// bytes while they are away.
    pub fn slot(&self, part: Option<(usize, Range<usize>)>, table: Option<usize>, otherwise: Arc<dyn Stored>) -> Slot {
        assert!(part.iter().all(|(segment, range)| range.end <= self.bytes[*segment]));
        let (shared, source, requests) = (self.shared.clone(), self.source.clone(), self.requests.clone());
        Slot { shared, source, requests, part, table, otherwise }
    }

    /// Bytes that are streamed in one pass over all segments.
    pub fn total_bytes(&self) -> usize {
        self.bytes.iter().sum()
    }

    fn request(&self, blocks: &mut [Block], segment: usize) {
        let bytes = self.bytes[segment];
        if bytes == 0 || !matches!(blocks[segment], Block::Away) {
            return;
        }
        // Taken here and not by the reader, so that the dry device counts what the real one takes.
        let block = Tensor::empty(&self.device, Elem::F32, 1, bytes.div_ceil(4), Purpose::Weights);
        self.device.count_read(bytes);
        blocks[segment] = match &self.requests {
            None => Block::Here(block),
            Some(requests) => match requests.send(Request::Block(segment, block)) {
                Ok(()) => Block::Coming,
                Err(_) => Block::Failed(ReadError::new(Ended)),
            },
        };
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Stream({} segments, {} bytes)", self.bytes.len(), self.total_bytes())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Block>> {
        self.blocks.lock().expect("lock of the blocks")
    }
}

struct Reader {
    shared: Arc<Shared>,
    source: Arc<dyn Source>,
}

impl Reader {
    /// Reads what is asked for, in order, until nobody can ask any more.
    fn serve(self, requests: Receiver<Request>) {
        while let Ok(request) = requests.recv() {
            match request {
                Request::Block(segment, mut block) => {
                    let read = self.source.read(segment, bytemuck::cast_slice_mut(block.f32_mut()));
                    self.shared.lock()[segment] = match read {
                        Ok(()) => Block::Here(block),
                        Err(error) => Block::Failed(error),
                    };
                    self.shared.arrived.notify_all();
                }
                Request::Rows(Rows { table, ids, row_bytes, mut block, answer }) => {
                    let into = &mut bytemuck::cast_slice_mut::<f32, u8>(block.f32_mut())[..ids.len() * row_bytes];
                    let read = self.source.read_rows(table, &ids, row_bytes, into);
                    // Who does not wait any more needs no answer.
                    let _ = answer.send(read.map(|()| block));
                }
            }
        }
    }
}

impl Drop for Reader {
    /// Also when a source panics: nobody waits for a reader that is gone.
    fn drop(&mut self) {
        let Ok(mut blocks) = self.shared.blocks.lock() else { return };
        for block in blocks.iter_mut().filter(|b| matches!(b, Block::Coming)) {
            *block = Block::Failed(ReadError::new(Ended));
        }
        self.shared.arrived.notify_all();
    }
}

/// A streamed weight's bytes: in its segment's block while that is there.
pub struct Slot {
    shared: Arc<Shared>,
    source: Arc<dyn Source>,
    requests: Option<Sender<Request>>,
    part: Option<(usize, Range<usize>)>,
    table: Option<usize>,
    otherwise: Arc<dyn Stored>,
}

impl Slot {
    fn block(&self) -> Option<HeldBytes<'static>> {
        let (segment, range) = self.part.as_ref()?;
        match &self.shared.lock()[*segment] {
            Block::Here(block) => Some(HeldBytes::Block(block.clone(), range.clone())),
            _ => None,
        }
    }

    /// Has `block` filled.
    fn rows(
        &self,
        requests: &Sender<Request>,
        table: usize,
        ids: &[u32],
        row_bytes: usize,
        block: Tensor,
    ) -> Result<Tensor, ReadError> {
        let (answer, answers) = channel();
        let request = Request::Rows(Rows { table, ids: ids.to_vec(), row_bytes, block, answer });
        requests.send(request).map_err(|_| ReadError::new(Ended))?;
        let progress = || self.source.progress();
        let answer = Watch::new("rows of an embedding", &progress).receive(&answers)?;
        answer.ok_or_else(|| ReadError::new(Ended))?
    }
}

impl Stored for Slot {
    fn hold(&self) -> HeldBytes<'_> {
        self.block().unwrap_or_else(|| self.otherwise.hold())
    }

    fn hold_rows(&self, device: &Device, ids: &[u32], row_bytes: usize) -> Option<(HeldBytes<'static>, Vec<u32>)> {
        let table = self.table?;
        let mut distinct = ids.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let bytes = distinct.len() * row_bytes;
        let mut block = Tensor::empty(device, Elem::F32, 1, bytes.div_ceil(4), Purpose::Workspace);
        device.count_read(self.source.rows_cost(table, &distinct, row_bytes));
        if let Some(requests) = &self.requests {
            block = self.rows(requests, table, &distinct, row_bytes, block).unwrap_or_else(|error| {
                // An op has no way to fail: it goes on with zeros, and whoever enters the next segment hears of it.
                *self.shared.lost.lock().expect("lock of an error") = Some(error);
                Tensor::zeros(device, Elem::F32, 1, bytes.div_ceil(4), Purpose::Workspace)
            });
        }
        let place = |id: &u32| distinct.binary_search(id).expect("every id is among the distinct ones") as u32;
        Some((HeldBytes::Block(block, 0..bytes), ids.iter().map(place).collect()))
    }
}

#[cfg(test)]
mod tests;
