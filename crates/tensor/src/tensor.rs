//! [`Tensor`]: contiguous row-major rows of f32, bf16 or f16 with shared storage. No strides, no broadcasting, no gradients.

use std::fmt;
use std::sync::Arc;

use half::{bf16, f16};
use ounce_kernels::{In, Out};

use crate::device::Device;
use crate::memory::{Buffer, Purpose};

/// The element type of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    F32,
    Bf16,
    F16,
}

impl Elem {
    pub fn bytes(self) -> usize {
        match self {
            Elem::F32 => 4,
            Elem::Bf16 | Elem::F16 => 2,
        }
    }
}

/// `[rows, cols]` elements. Cloning shares the storage; writing needs sole ownership.
#[derive(Clone)]
pub struct Tensor {
    storage: Arc<Buffer>,
    elem: Elem,
    /// First element of the view in the storage: always the start of a row.
    offset: usize,
    rows: usize,
    cols: usize,
}

impl Tensor {
    /// Unwritten memory: every op fills what it allocates.
    pub fn empty(device: &Device, elem: Elem, rows: usize, cols: usize, purpose: Purpose) -> Tensor {
        let storage = Arc::new(device.arena().allocate(rows * cols * elem.bytes(), purpose));
        Tensor { storage, elem, offset: 0, rows, cols }
    }

    pub fn zeros(device: &Device, elem: Elem, rows: usize, cols: usize, purpose: Purpose) -> Tensor {
        let mut t = Tensor::empty(device, elem, rows, cols, purpose);
        if !device.is_dry() {
            t.fill_zero();
        }
        t
    }

    pub fn from_f32(device: &Device, values: &[f32], rows: usize, cols: usize, purpose: Purpose) -> Tensor {
        assert_eq!(values.len(), rows * cols, "values for [{rows}, {cols}]");
        let mut t = Tensor::empty(device, Elem::F32, rows, cols, purpose);
        if !device.is_dry() {
            t.f32_mut().copy_from_slice(values);
        }
        t
    }

    pub fn elem(&self) -> Elem {
        self.elem
    }
    pub fn rows(&self) -> usize {
        self.rows
    }
    pub fn cols(&self) -> usize {
        self.cols
    }
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn bytes_len(&self) -> usize {
        self.len() * self.elem.bytes()
    }
    pub fn purpose(&self) -> Purpose {
        self.storage.purpose()
    }

    /// Rows `start..start+rows`, sharing the storage.
    pub fn view_rows(&self, start: usize, rows: usize) -> Tensor {
        assert!(start + rows <= self.rows, "rows {start}..{} of {}", start + rows, self.rows);
        Tensor { offset: self.offset + start * self.cols, rows, ..self.clone() }
    }

    /// The same elements seen as `[rows, cols]`.
    pub fn reshape(&self, rows: usize, cols: usize) -> Tensor {
        assert_eq!(self.len(), rows * cols, "reshape [{}, {}] to [{rows}, {cols}]", self.rows, self.cols);
        Tensor { rows, cols, ..self.clone() }
    }

    /// Whether this is the only handle on the storage.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.storage) == 1
    }

    /// For a kernel to read.
    pub fn input(&self) -> In<'_> {
        match self.elem {
            Elem::F32 => In::F32(self.f32()),
            Elem::Bf16 => In::Bf16(self.bf16()),
            Elem::F16 => In::F16(self.f16()),
        }
    }

    /// For a kernel to write. Panics if the storage is shared.
    pub fn output(&mut self) -> Out<'_> {
        match self.elem {
            Elem::F32 => Out::F32(self.f32_mut()),
            Elem::Bf16 => Out::Bf16(self.bf16_mut()),
            Elem::F16 => Out::F16(self.f16_mut()),
        }
    }

    pub fn f32(&self) -> &[f32] {
        assert_eq!(self.elem, Elem::F32);
        let all: &[f32] = bytemuck::cast_slice(self.storage.bytes());
        &all[self.offset..self.offset + self.len()]
    }
    pub fn bf16(&self) -> &[bf16] {
        assert_eq!(self.elem, Elem::Bf16);
        let all: &[bf16] = bytemuck::cast_slice(self.storage.bytes());
        &all[self.offset..self.offset + self.len()]
    }
    pub fn f16(&self) -> &[f16] {
        assert_eq!(self.elem, Elem::F16);
        let all: &[f16] = bytemuck::cast_slice(self.storage.bytes());
        &all[self.offset..self.offset + self.len()]
    }
    pub fn f32_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.elem, Elem::F32);
        let range = self.offset..self.offset + self.len();
        let all: &mut [f32] = bytemuck::cast_slice_mut(self.buffer_mut().bytes_mut());
        &mut all[range]
    }
    pub fn bf16_mut(&mut self) -> &mut [bf16] {
        assert_eq!(self.elem, Elem::Bf16);
        let range = self.offset..self.offset + self.len();
        let all: &mut [bf16] = bytemuck::cast_slice_mut(self.buffer_mut().bytes_mut());
        &mut all[range]
    }

    pub fn f16_mut(&mut self) -> &mut [f16] {
        assert_eq!(self.elem, Elem::F16);
        let range = self.offset..self.offset + self.len();
        let all: &mut [f16] = bytemuck::cast_slice_mut(self.buffer_mut().bytes_mut());
        &mut all[range]
    }

    /// Rows `start..start + rows` for a kernel to write. Panics if the storage is shared.
    pub fn output_rows(&mut self, start: usize, rows: usize) -> Out<'_> {
        assert!(start + rows <= self.rows, "rows {start}..{} of {}", start + rows, self.rows);
        let range = start * self.cols..(start + rows) * self.cols;
        match self.output() {
            Out::F32(out) => Out::F32(&mut out[range]),
            Out::Bf16(out) => Out::Bf16(&mut out[range]),
            Out::F16(out) => Out::F16(&mut out[range]),
        }
    }

    /// The elements as f32, whatever they are stored as.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        match self.elem {
            Elem::F32 => self.f32().to_vec(),
            Elem::Bf16 => self.bf16().iter().map(|x| x.to_f32()).collect(),
            Elem::F16 => self.f16().iter().map(|x| x.to_f32()).collect(),
        }
    }

    pub fn fill_zero(&mut self) {
        match self.elem {
            Elem::F32 => self.f32_mut().fill(0.0),
            Elem::Bf16 => self.bf16_mut().fill(bf16::ZERO),
            Elem::F16 => self.f16_mut().fill(f16::ZERO),
        }
    }

    /// Copies rows of `from` (same columns and type) to rows `at..`.
    pub fn copy_rows(&mut self, at: usize, from: &Tensor) {
        assert!(from.cols == self.cols && from.elem == self.elem && at + from.rows <= self.rows);
        let start = at * self.cols;
        match self.elem {
            Elem::F32 => self.f32_mut()[start..start + from.len()].copy_from_slice(from.f32()),
            Elem::Bf16 => self.bf16_mut()[start..start + from.len()].copy_from_slice(from.bf16()),
            Elem::F16 => self.f16_mut()[start..start + from.len()].copy_from_slice(from.f16()),
        }
    }

    /// A tensor with the same contents and storage of its own; itself if nobody shares it.
    pub fn into_unique(self, device: &Device) -> Tensor {
        if self.is_unique() {
            return self;
        }
        let mut copy = Tensor::empty(device, self.elem, self.rows, self.cols, self.purpose());
        device.run(crate::Cost::elementwise(self.len(), 2 * self.elem.bytes()), |_| copy.copy_rows(0, &self));
        copy
    }

    /// `factor · self` in storage of its own.
    pub fn scaled(&self, device: &Device, factor: f32) -> Tensor {
        let mut out = Tensor::empty(device, self.elem, self.rows, self.cols, self.purpose());
        let cost = crate::Cost::elementwise(self.len(), 2 * self.elem.bytes());
        device.run(cost, |cpu| cpu.scale(out.output(), self.input(), factor));
        out
    }

    /// What it is a view of.
    pub(crate) fn storage(&self) -> &Arc<Buffer> {
        &self.storage
    }

    /// Makes the same view of another storage.
    pub(crate) fn shape_of(&self) -> impl Fn(Arc<Buffer>) -> Tensor + Send + use<> {
        let Tensor { elem, offset, rows, cols, .. } = *self;
        move |storage| Tensor { storage, elem, offset, rows, cols }
    }

    fn buffer_mut(&mut self) -> &mut Buffer {
        Arc::get_mut(&mut self.storage).expect("writing to a tensor that is shared")
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Tensor[{}, {}; {:?}]", self.rows, self.cols, self.elem)
    }
}
