//! [`Tiers`]: trained matrices and their optimizer state on disk. A segment's matrices are in memory while it runs; their moments
//! come piece by piece while they are updated, asked for ahead and written behind. The file is scratch: what a run goes on from
//! is its checkpoints.
//!
//! Every bit is that of a run in memory: the same kernels see the same numbers, cut where the rules allow it.

pub mod copy;
mod places;
mod store;

use std::collections::VecDeque;
use std::sync::Arc;

use ounce_formats::scratch::ScratchFile;
use ounce_model::Model;
use ounce_optim::{Layout, Optimizer, StepContext};
use ounce_spec::DType;
use ounce_tensor::kernels::{Cpu, Out, bf16};
use ounce_tensor::{
    Cost, Device, Elem, HeldBytes, Kernel, ParamId, Purpose, ReadError, Source, Stored, Stream, Tensor, Weight,
};

use places::{Matrix, Piece, Places};
use store::{Store, Threads, Transfer, bytes_mut};

/// Bytes of pieces that are asked for ahead of their update, at most, and bytes that may wait to be written, beside one of
/// each; of a small file a share, so that the two are little beside what it saves.
const WINDOW: usize = 32 << 20;
const SHARE: usize = 32;

/// See the module.
pub struct Tiers {
    device: Device,
    places: Arc<Places>,
    stream: Arc<Stream>,
    window: usize,
    /// None on the dry device.
    threads: Option<Threads>,
    /// Matrices and pieces in the order in which they are updated; those before `asked` have been asked for.
    walk: Vec<(usize, usize)>,
    asked: usize,
    ahead: VecDeque<Ahead>,
    behind: VecDeque<(Tensor, Vec<Transfer>)>,
    /// Matrices of each segment that were updated in this pass.
    updated: Vec<usize>,
    last_read: copy::LastRead,
    /// What the real device's store has for rows of a table.
    _dry_rows: Option<Tensor>,
}

struct Ahead {
    of: (usize, usize),
    bytes: usize,
    /// On the dry device, where nothing is on its way.
    dry: Option<Tensor>,
}

/// One update of one matrix.
pub struct Update<'a> {
    pub optimizer: &'a dyn Optimizer,
    pub grad: &'a Tensor,
    pub at: StepContext,
    /// Or everything is moved and nothing changed.
    pub change: bool,
}

/// What a matrix is outside its segment: nothing that may be read.
struct Away;

impl Stored for Away {
    fn hold(&self) -> HeldBytes<'_> {
        panic!("weights on disk are read where their segment has been entered")
    }
}

/// The dry device's source: it is asked for costs only.
struct Counted(Arc<Places>);

impl Source for Counted {
    fn read(&self, _: usize, _: &mut [u8]) -> Result<(), ReadError> {
        Ok(())
    }
    fn read_rows(&self, _: usize, _: &[u32], _: usize, _: &mut [u8]) -> Result<(), ReadError> {
        Ok(())
    }
    fn rows_cost(&self, table: usize, ids: &[u32], _: usize) -> usize {
        store::rows_cost(&self.0, table, ids)
    }
}

impl Tiers {
    /// Moves the matrices among `trained` to `file` (none on the dry device), as `masters`, with moments as before the first step.
    /// `let_go` is called after each of them: what it was made from is not needed any more.
    ///
    /// # Errors
    /// A disk that is too full, before anything is written; one that fails.
    pub fn new(
        device: &Device,
        model: &mut Model,
        trained: &[ParamId],
        masters: Elem,
        layout: Layout,
        file: Option<ScratchFile>,
        let_go: &dyn Fn(),
    ) -> Result<Tiers, ReadError> {
        let places = Arc::new(Places::new(model, trained, masters, layout));
        let rows = places.matrices.iter().flatten().flat_map(|m| &m.pieces).filter_map(|p| p.weights.as_ref());
        let rows = rows.map(|(_, range)| range.len()).max().unwrap_or(0);
        let rows = Tensor::empty(device, Elem::F32, 1, rows.div_ceil(4).max(1), Purpose::Workspace);
        let (mut threads, mut source): (_, Arc<dyn Source>) = (None, Arc::new(Counted(places.clone())));
        let mut dry_rows = Some(rows);
        if let Some(file) = file {
            let rows = dry_rows.take().expect("it was just made");
            let store = Store::new(file, places.clone(), rows).map_err(ReadError::new)?;
            let started = Threads::start(store).map_err(ReadError::new)?;
            source = started.store.clone();
            threads = Some(started);
        }
        let bytes = places.blocks.iter().map(|block| block.bytes).collect();
        let stream = Arc::new(Stream::new(device, bytes, source).map_err(ReadError::new)?);
        let window = (places.bytes() / SHARE).min(WINDOW);
        let (walk, updated) = (places.walk(), vec![0; places.blocks.len()]);
        let mut tiers = Tiers {
            device: device.clone(),
            places,
            stream,
            window,
            threads,
            walk,
            asked: 0,
            ahead: VecDeque::new(),
            behind: VecDeque::new(),
            updated,
            last_read: copy::LastRead::default(),
            _dry_rows: dry_rows,
        };
        tiers.fill(model, let_go)?;
        Ok(tiers)
    }

    /// Room that everything takes on disk.
    pub fn file_bytes(&self) -> usize {
        self.places.bytes()
    }

    /// Whether the `i`-th trained parameter is here.
    pub fn has(&self, i: usize) -> bool {
        self.places.matrices[i].is_some()
    }

    /// A backward pass begins: from now on updates come in its order, segments falling and parameters rising.
    pub fn begin(&mut self) -> Result<(), ReadError> {
        self.copied();
        self.updated.fill(0);
        if self.ahead.is_empty() {
            self.asked = 0;
        }
        self.ask()
    }

    /// Updates the `i`-th trained parameter.
    pub fn update(&mut self, i: usize, update: &Update) -> Result<(), ReadError> {
        let places = self.places.clone();
        let matrix = places.matrices[i].as_ref().expect("asked before");
        // A table's block is the output layer's, long gone; its weights come with its moments.
        let own = matrix.block.as_ref().filter(|_| !matrix.is_table());
        let mut block = None;
        if let Some((segment, _)) = own {
            let (place, _) = places.blocks[*segment].own.expect("a block with a matrix of its own");
            self.settle_block(place)?;
            // Where the stage has not entered it just now.
            self.stream.enter(*segment, segment.checked_sub(1))?;
            block = Some(self.stream.take(*segment));
        }
        for number in 0..matrix.pieces.len() {
            let piece = &matrix.pieces[number];
            let mut buffer = self.bring((i, number))?;
            let weights = block.as_mut().zip(own).map(|(block, (_, range))| (block, range.start));
            self.change(matrix, piece, &mut buffer, weights, update);
            self.send(buffer, piece.weights.iter().chain(&piece.moments).cloned().collect())?;
        }
        let Some((block, (segment, _))) = block.zip(own) else { return Ok(()) };
        self.stream.put(*segment, block.clone());
        self.updated[*segment] += 1;
        if self.updated[*segment] == places.blocks[*segment].matrices {
            let (place, bytes) = places.blocks[*segment].own.expect("a block with a matrix of its own");
            self.send(block, vec![(place, 0..bytes)])?;
        }
        Ok(())
    }

    /// One piece's update in memory. `weights`: the block they lie in, and where the matrix begins in it.
    fn change(
        &self,
        matrix: &Matrix,
        piece: &Piece,
        buffer: &mut Tensor,
        weights: Option<(&mut Tensor, usize)>,
        update: &Update,
    ) {
        let n = piece.elements;
        let moved = 2 * (n * matrix.elem.bytes() + matrix.layout.bytes(n)) + 4 * n;
        let cost = Cost { kernel: Kernel::Update, flops: n as f64, bytes: moved as f64 };
        let first = piece.rows.start * matrix.cols;
        self.device.run(cost, |cpu: &Cpu| {
            if !update.change {
                return;
            }
            let bytes = bytes_mut(buffer);
            let moments = piece.moments.as_ref().map_or(bytes.len(), |(_, range)| range.start);
            let (in_piece, moments) = bytes.split_at_mut(moments);
            let length = n * matrix.elem.bytes();
            let values = match weights {
                Some((block, start)) => {
                    let start = start + piece.rows.start * matrix.row_bytes();
                    &mut bytes_mut(block)[start..start + length]
                }
                None => &mut in_piece[..length],
            };
            let values = match matrix.elem {
                Elem::F32 => Out::F32(bytemuck::cast_slice_mut(values)),
                Elem::Bf16 => Out::Bf16(bytemuck::cast_slice_mut::<u8, bf16>(values)),
                Elem::F16 => unreachable!("trained parameters are f32 or bf16"),
            };
            let mut at = update.at;
            at.rounding.first += first as u64;
            let moments = matrix.layout.view(n, moments);
            update.optimizer.step(cpu, values, &update.grad.f32()[first..first + n], moments, &at);
        });
    }

    /// Asks for pieces in the order of the walk.
    fn ask(&mut self) -> Result<(), ReadError> {
        while self.asked < self.walk.len() {
            let of = self.walk[self.asked];
            let piece = &self.places.matrices[of.0].as_ref().expect("the walk is over matrices").pieces[of.1];
            let waiting: usize = self.ahead.iter().map(|ahead| ahead.bytes).sum();
            if !self.ahead.is_empty() && waiting + piece.bytes > self.window {
                break;
            }
            let transfers: Vec<Transfer> = piece.weights.iter().chain(&piece.moments).cloned().collect();
            let buffer = Tensor::empty(&self.device, Elem::F32, 1, piece.bytes.div_ceil(4).max(1), Purpose::Optimizer);
            self.device.count_read(transfers.iter().map(|(_, range)| range.len()).sum());
            let dry = match &self.threads {
                None => Some(buffer),
                Some(threads) => threads.ask(buffer, transfers).map(|()| None)?,
            };
            self.ahead.push_back(Ahead { of, bytes: piece.bytes, dry });
            self.asked += 1;
        }
        Ok(())
    }

    /// The piece in memory, and the next ones on their way.
    fn bring(&mut self, of: (usize, usize)) -> Result<Tensor, ReadError> {
        if self.ahead.front().is_none_or(|ahead| ahead.of != of) {
            // A pass that did not go the usual way: what was asked for is not what is wanted.
            while let Some(ahead) = self.ahead.pop_front() {
                self.arrived(ahead)?;
            }
            self.asked = self.walk.iter().position(|&at| at == of).expect("the walk is over all pieces");
            self.ask()?;
        }
        let ahead = self.ahead.pop_front().expect("it was asked for");
        let buffer = self.arrived(ahead)?;
        self.ask()?;
        Ok(buffer)
    }

    fn arrived(&self, ahead: Ahead) -> Result<Tensor, ReadError> {
        match (&self.threads, ahead.dry) {
            (Some(threads), _) => threads.answer(),
            (None, dry) => Ok(dry.expect("kept where nothing is on its way")),
        }
    }

    /// Has `buffer` written, and waits for earlier writes where too much would be in memory. A buffer counts until it is
    /// waited for, so that memory is the same however fast the disk is.
    fn send(&mut self, buffer: Tensor, transfers: Vec<Transfer>) -> Result<(), ReadError> {
        self.device.count_write(transfers.iter().map(|(_, range)| range.len()).sum());
        if let Some(threads) = &self.threads {
            threads.write(buffer.clone(), transfers.clone())?;
        }
        self.behind.push_back((buffer, transfers));
        while self.behind.len() > 1 && self.behind.iter().map(|(t, _)| t.bytes_len()).sum::<usize>() > self.window {
            self.let_go_oldest()?;
        }
        Ok(())
    }

    fn let_go_oldest(&mut self) -> Result<(), ReadError> {
        let Some((buffer, transfers)) = self.behind.pop_front() else { return Ok(()) };
        if let Some(threads) = &self.threads {
            transfers.iter().try_for_each(|(place, _)| threads.store.settle(*place))?;
        }
        drop(buffer);
        Ok(())
    }

    /// A block that is still being written from may not be changed.
    fn settle_block(&mut self, place: usize) -> Result<(), ReadError> {
        while self.behind.iter().any(|(_, transfers)| transfers.iter().any(|(at, _)| *at == place)) {
            self.let_go_oldest()?;
        }
        Ok(())
    }

    /// Waits until everything is in the file.
    pub fn settle(&mut self) -> Result<(), ReadError> {
        while !self.behind.is_empty() {
            self.let_go_oldest()?;
        }
        Ok(())
    }

    /// Writes every matrix and its first moments, and leaves a slot in its place.
    fn fill(&mut self, model: &mut Model, let_go: &dyn Fn()) -> Result<(), ReadError> {
        let places = self.places.clone();
        if let Some(threads) = &self.threads {
            for matrix in places.matrices.iter().flatten() {
                for piece in &matrix.pieces {
                    let mut buffer =
                        Tensor::empty(&self.device, Elem::F32, 1, piece.bytes.div_ceil(4).max(1), Purpose::Optimizer);
                    if let Some((_, range)) = &piece.weights {
                        let bytes = &mut bytes_mut(&mut buffer)[range.clone()];
                        copy_rows(&self.device, &model.params[matrix.id].weight, matrix, piece, bytes);
                    }
                    if let Some((_, range)) = &piece.moments {
                        matrix.layout.clear(piece.elements, &mut bytes_mut(&mut buffer)[range.clone()]);
                    }
                    threads.put(buffer, piece.weights.iter().chain(&piece.moments).cloned().collect())?;
                }
                let_go();
            }
            for (segment, block) in places.blocks.iter().enumerate() {
                let Some((place, bytes)) = block.own else { continue };
                let mut buffer = Tensor::zeros(&self.device, Elem::F32, 1, bytes.div_ceil(4), Purpose::Weights);
                for matrix in places.matrices.iter().flatten().filter(|m| !m.is_table() && m.complete_at == segment) {
                    let (_, range) = matrix.block.as_ref().expect("a matrix that is no table lies in a block");
                    for piece in &matrix.pieces {
                        let start = range.start + piece.rows.start * matrix.row_bytes();
                        let length = piece.rows.len() * matrix.row_bytes();
                        let bytes = &mut bytes_mut(&mut buffer)[start..start + length];
                        copy_rows(&self.device, &model.params[matrix.id].weight, matrix, piece, bytes);
                    }
                }
                threads.put(buffer, vec![(place, 0..bytes)])?;
                let_go();
            }
        }
        for (i, matrix) in places.matrices.iter().enumerate() {
            let Some(matrix) = matrix else { continue };
            let table = matrix.is_table().then_some(i);
            let bytes = Arc::new(self.stream.slot(matrix.block.clone(), table, Arc::new(Away)));
            let dtype = if matrix.elem == Elem::F32 { DType::F32 } else { DType::BF16 };
            model.params[matrix.id].weight = Weight::Stored { dtype, rows: matrix.rows, cols: matrix.cols, bytes };
        }
        model.params.set_stream(self.stream.clone());
        Ok(())
    }
}

/// The rows of a piece, as the matrix has them on disk.
fn copy_rows(device: &Device, weight: &Weight, matrix: &Matrix, piece: &Piece, into: &mut [u8]) {
    let mut rows = Tensor::empty(device, matrix.elem, piece.rows.len(), matrix.cols, Purpose::Workspace);
    let ids: Vec<u32> = piece.rows.clone().map(|row| row as u32).collect();
    weight.rows(device, &mut rows, &ids);
    match matrix.elem {
        Elem::F32 => into.copy_from_slice(bytemuck::cast_slice(rows.f32())),
        Elem::Bf16 => into.copy_from_slice(bytemuck::cast_slice(rows.bf16())),
        Elem::F16 => unreachable!("trained parameters are f32 or bf16"),
    }
}
