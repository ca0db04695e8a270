//! What lies in the scratch file, for checkpoints and exports, a piece at a time: all of it never is in memory. It knows arrays
//! by number, no file format.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Mutex;

use ounce_optim::ArrayType;
use ounce_tensor::{Elem, Purpose, ReadError, Tensor};

use super::Tiers;
use super::places::{Matrix, Place};
use super::store::bytes_mut;

/// A region that was read, and whether it has been changed since: neighbours in a file often lie in one.
pub(super) type LastRead = Mutex<Option<(Place, Tensor, bool)>>;

/// An array of a trained matrix: its weights, or one of the arrays of its moments.
#[derive(Clone, Debug)]
pub struct Array {
    /// Among the trained parameters.
    pub matrix: usize,
    /// `None`: the weights.
    pub moment: Option<usize>,
    pub name: String,
    pub array: ArrayType,
    pub elements: usize,
}

impl Tiers {
    /// The weights of the `i`-th trained parameter, if they are here.
    pub fn weights(&self, i: usize) -> Option<Array> {
        let matrix = self.places.matrices[i].as_ref()?;
        let array = if matrix.elem == Elem::F32 { ArrayType::F32 } else { ArrayType::Bf16 };
        Some(Array { matrix: i, moment: None, name: matrix.name.clone(), array, elements: matrix.elements() })
    }

    /// The arrays of its moments, in the order and with the names of [`ounce_optim::State::buffers`].
    pub fn moments(&self, i: usize) -> Vec<Array> {
        let Some(matrix) = &self.places.matrices[i] else { return Vec::new() };
        let arrays = matrix.layout.arrays(matrix.elements()).into_iter().enumerate();
        let array = |(k, (name, array, range)): (usize, (String, ArrayType, Range<usize>))| Array {
            matrix: i,
            moment: Some(k),
            name: format!("{}.{name}", matrix.name),
            array,
            elements: range.len() / bytes_each(array),
        };
        arrays.map(array).collect()
    }

    /// Writes an array's bytes, from its first element to its last.
    pub fn pour(&self, array: &Array, out: &mut dyn Write) -> io::Result<()> {
        for (place, range) in self.runs(array) {
            self.with(place, |bytes| out.write_all(&bytes[range]), false).map_err(io::Error::other)??;
        }
        Ok(())
    }

    /// Replaces the bytes of an array from byte `at` on. [`Tiers::filled`] ends it.
    pub fn pour_back(&self, array: &Array, mut at: usize, mut bytes: &[u8]) -> Result<(), ReadError> {
        let mut start = 0;
        for (place, range) in self.runs(array) {
            let end = start + range.len();
            if at < end && !bytes.is_empty() {
                let now = bytes.len().min(end - at);
                let into = range.start + (at - start)..range.start + (at - start) + now;
                self.with(place, |region| region[into].copy_from_slice(&bytes[..now]), true)?;
                (at, bytes) = (at + now, &bytes[now..]);
            }
            start = end;
        }
        Ok(())
    }

    /// Ends a change of what lies on disk, or a run: nothing that is in memory is of before it.
    pub fn filled(&mut self) -> Result<(), ReadError> {
        self.flush(&mut self.last_read.lock().expect("lock of a region"))?;
        self.copied();
        while let Some(ahead) = self.ahead.pop_front() {
            self.arrived(ahead)?;
        }
        self.stream.forget()
    }

    /// Lets go what copying left in memory.
    pub fn copied(&self) {
        *self.last_read.lock().expect("lock of a region") = None;
    }

    /// Where an array lies: regions and ranges of them, in its order.
    fn runs(&self, array: &Array) -> Vec<(Place, Range<usize>)> {
        let matrix: &Matrix = self.places.matrices[array.matrix].as_ref().expect("an array of a matrix");
        let pieces = matrix.pieces.iter();
        match (array.moment, &matrix.block) {
            (Some(k), _) => {
                let of = |piece: &super::Piece| {
                    let (place, _) = piece.moments.as_ref().expect("a moment");
                    (*place, matrix.layout.arrays(piece.elements).swap_remove(k).2)
                };
                pieces.map(of).collect()
            }
            (None, Some((segment, range))) if !matrix.is_table() => {
                let (place, _) = self.places.blocks[*segment].own.expect("a block with a matrix of its own");
                vec![(place, range.clone())]
            }
            (None, _) => {
                let of = |piece: &super::Piece| {
                    let (place, range) = piece.weights.clone().expect("a table's weights lie with its pieces");
                    (place, 0..range.len())
                };
                pieces.map(of).collect()
            }
        }
    }

    /// The bytes of a region for `use_them`, read unless they are those that were used last.
    fn with<T>(&self, place: Place, use_them: impl FnOnce(&mut [u8]) -> T, change: bool) -> Result<T, ReadError> {
        let mut here = self.last_read.lock().expect("lock of a region");
        if here.as_ref().is_none_or(|(at, ..)| *at != place) {
            self.flush(&mut here)?;
            *here = None;
            let threads = self.threads.as_ref().expect("the dry device has no bytes");
            let bytes = self.places.regions[place];
            let region = Tensor::empty(&self.device, Elem::F32, 1, bytes.div_ceil(4), Purpose::Workspace);
            let region = threads.fetch(region, place, bytes)?;
            *here = Some((place, region, false));
        }
        let (_, region, changed) = here.as_mut().expect("it was just read");
        *changed |= change;
        Ok(use_them(&mut bytes_mut(region)[..self.places.regions[place]]))
    }

    fn flush(&self, here: &mut Option<(Place, Tensor, bool)>) -> Result<(), ReadError> {
        let Some((place, region, true)) = here else { return Ok(()) };
        let threads = self.threads.as_ref().expect("the dry device has no bytes");
        threads.store.settle(*place)?;
        // The two share its memory: nothing changes it before it is written.
        threads.put(region.clone(), vec![(*place, 0..self.places.regions[*place])])?;
        *here = here.take().map(|(place, region, _)| (place, region, false));
        Ok(())
    }
}

pub fn bytes_each(array: ArrayType) -> usize {
    match array {
        ArrayType::F32 => 4,
        ArrayType::Bf16 => 2,
        ArrayType::U8 => 1,
    }
}
