//! [`Stream`]: weights that are in memory only while their segment runs. A thread reads the next segment's bytes while this one
//! computes. It knows segments and bytes; where the bytes come from is for a [`Source`] to know.

use std::error::Error;
use std::ops::{Deref, Range};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::device::Device;
use crate::memory::Purpose;
use crate::tensor::{Elem, Tensor};

/// Gives the bytes of a segment's weights.
pub trait Source: Send + Sync {
    /// Fills `block`, which has the length that the stream was made with for `segment`. Called from a thread of its own.
    fn read(&self, segment: usize, block: &mut [u8]) -> Result<(), ReadError>;
    /// Fills `block` with the rows `ids` of table number `table`, `row_bytes` each.
    fn read_rows(&self, table: usize, ids: &[u32], row_bytes: usize, block: &mut [u8]) -> Result<(), ReadError>;
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
}

impl Deref for HeldBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            HeldBytes::Here(bytes) => bytes,
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
    requests: Option<Sender<(usize, Tensor)>>,
}

struct Shared {
    blocks: Mutex<Vec<Block>>,
    arrived: Condvar,
    /// Rows that could not be read since the last segment was entered.
    lost: Mutex<Option<ReadError>>,
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
        while matches!(blocks[segment], Block::Coming) {
            blocks = self.shared.arrived.wait(blocks).expect("lock of the blocks");
        }
        let Block::Failed(error) = &blocks[segment] else { return Ok(()) };
        let error = error.clone();
        // Whoever enters again has it read again.
        blocks[segment] = Block::Away;
        Err(error)
    }

    /// A weight that lies at `part` (segment, range of its block) and whose rows are those of `table`; `otherwise` gives its
    /// bytes while they are away.
    pub fn slot(&self, part: Option<(usize, Range<usize>)>, table: Option<usize>, otherwise: Arc<dyn Stored>) -> Slot {
        assert!(part.iter().all(|(segment, range)| range.end <= self.bytes[*segment]));
        Slot { shared: self.shared.clone(), source: self.source.clone(), part, table, otherwise }
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
            Some(requests) => match requests.send((segment, block)) {
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
    fn serve(self, requests: Receiver<(usize, Tensor)>) {
        while let Ok((segment, mut block)) = requests.recv() {
            let read = self.source.read(segment, bytemuck::cast_slice_mut(block.f32_mut()));
            self.shared.lock()[segment] = match read {
                Ok(()) => Block::Here(block),
                Err(error) => Block::Failed(error),
            };
            self.shared.arrived.notify_all();
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
        if !device.is_dry() {
            let block = &mut bytemuck::cast_slice_mut::<f32, u8>(block.f32_mut())[..bytes];
            if let Err(error) = self.source.read_rows(table, &distinct, row_bytes, block) {
                // An op has no way to fail: it goes on with zeros, and whoever enters the next segment hears of it.
                block.fill(0);
                *self.shared.lost.lock().expect("lock of an error") = Some(error);
            }
        }
        let place = |id: &u32| distinct.binary_search(id).expect("every id is among the distinct ones") as u32;
        Some((HeldBytes::Block(block, 0..bytes), ids.iter().map(place).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ounce_kernels::Cpu;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Fills each block with its segment's number; fails at one of them, once.
    #[derive(Default)]
    struct Numbers {
        reads: Mutex<Vec<usize>>,
        fails_at: AtomicUsize,
        panics_at: AtomicUsize,
    }

    impl Source for Numbers {
        fn read(&self, segment: usize, block: &mut [u8]) -> Result<(), ReadError> {
            self.reads.lock().unwrap().push(segment);
            if self.fails_at.compare_exchange(segment, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return Err(ReadError::new(std::io::Error::from_raw_os_error(5)));
            }
            assert_ne!(self.panics_at.load(Ordering::Relaxed), segment, "a source that panics");
            block.fill(segment as u8);
            Ok(())
        }

        fn read_rows(&self, table: usize, ids: &[u32], row_bytes: usize, block: &mut [u8]) -> Result<(), ReadError> {
            if self.fails_at.load(Ordering::Relaxed) == 77 {
                return Err(ReadError::new(std::io::Error::from_raw_os_error(5)));
            }
            for (row, id) in block.chunks_exact_mut(row_bytes).zip(ids) {
                row.fill((10 * table) as u8 + *id as u8);
            }
            Ok(())
        }
    }

    fn stream(device: &Device) -> (Stream, Arc<Numbers>) {
        let source = Arc::new(Numbers::default());
        (Stream::new(device, vec![0, 8192, 4096, 4096], source.clone()).unwrap(), source)
    }

    /// Up to the last segment and back.
    fn walk(stream: &Stream, mut visit: impl FnMut(usize)) -> Result<(), ReadError> {
        for (segment, next) in [(0, 1), (1, 2), (2, 3), (3, 2), (3, 2), (2, 1), (1, 0)] {
            stream.enter(segment, Some(next))?;
            visit(segment);
        }
        Ok(())
    }

    #[test]
    fn blocks_are_there_when_entered_and_read_in_the_direction_of_travel() {
        let device = Device::cpu(Cpu::new(1));
        let (stream, source) = stream(&device);
        let away: Arc<dyn Stored> = Arc::new(vec![99u8; 10]);
        let slots: Vec<Slot> = (1..4).map(|s| stream.slot(Some((s, 4000..4010)), None, away.clone())).collect();
        assert_eq!(&*slots[0].hold(), &[99; 10]);
        for _ in 0..2 {
            walk(&stream, |s| {
                if s > 0 {
                    assert_eq!(&*slots[s - 1].hold(), &[s as u8; 10]);
                }
            })
            .unwrap();
        }
        // What the turn and the next step need is not read twice.
        assert_eq!(*source.reads.lock().unwrap(), [1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(&*slots[2].hold(), &[99; 10]);
    }

    #[test]
    fn the_dry_device_counts_what_the_real_one_takes() {
        let (real, dry) = (Device::cpu(Cpu::new(1)), Device::dry());
        let walked = |device: &Device| {
            let (stream, _) = stream(device);
            walk(&stream, |_| {}).unwrap();
            // While the stream lives: a real one may still be reading when it is let go.
            device.memory()
        };
        let (real_use, dry_use) = (walked(&real), walked(&dry));
        assert_eq!(dry_use, real_use);
        assert_eq!(dry_use.at_peak_bytes[Purpose::Weights as usize], 8192 + 4096);
        let read = dry.take_counter().read_bytes;
        assert_eq!((read, real.take_counter().read_bytes), (8192.0 + 4096.0 + 4096.0 + 8192.0, read));
    }

    #[test]
    fn rows_of_a_table_are_read_alone_each_once() {
        let device = Device::cpu(Cpu::new(1));
        let (stream, source) = stream(&device);
        let table = stream.slot(None, Some(2), Arc::new(vec![0u8]));
        let (held, order) = table.hold_rows(&device, &[5, 3, 5, 9], 3).unwrap();
        assert_eq!((&*held, &order[..]), (&[23, 23, 23, 25, 25, 25, 29, 29, 29][..], &[1, 0, 1, 2][..]));
        assert!(stream.slot(None, None, Arc::new(vec![0u8])).hold_rows(&device, &[5], 3).is_none());
        source.fails_at.store(77, Ordering::Relaxed);
        stream.enter(0, None).unwrap();
        assert_eq!(&*table.hold_rows(&device, &[5], 2).unwrap().0, &[0, 0]);
        assert!(stream.enter(1, None).unwrap_err().to_string().contains("os error 5"));
        stream.enter(1, None).unwrap();
    }

    #[test]
    fn a_failed_read_is_told_and_may_be_tried_again() {
        let device = Device::cpu(Cpu::new(1));
        let (stream, source) = stream(&device);
        source.fails_at.store(3, Ordering::Relaxed);
        let error = walk(&stream, |s| assert!(s < 3)).unwrap_err();
        assert!(error.to_string().contains("os error 5"), "{error}");
        walk(&stream, |_| {}).unwrap();
    }

    #[test]
    fn a_source_that_panics_leaves_nobody_waiting() {
        let device = Device::cpu(Cpu::new(1));
        let (stream, source) = stream(&device);
        source.panics_at.store(2, Ordering::Relaxed);
        let error = walk(&stream, |_| {}).unwrap_err();
        assert!(error.to_string().contains("has ended"), "{error}");
        assert!(walk(&stream, |_| {}).is_err());
    }
}
