//! [`Weight`]: a parameter as it is stored. Ops see three methods, so a format works with every adapter and op.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use ounce_kernels::{Mat, QuantFormat};
use ounce_spec::DType;

use crate::device::{Cost, Device, Kernel};
use crate::stream::{HeldBytes, Stored};
use crate::tensor::{Elem, Tensor};

/// Bytes that live elsewhere: in a mapped file, or in a block that comes and goes with its segment.
pub type StoredBytes = Arc<dyn Stored>;

/// A matrix `[n, k]` (a vector is `[1, c]`) in some storage format.
#[derive(Clone)]
pub enum Weight {
    /// In memory, f32 or bf16: what is trained.
    Dense(Tensor),
    /// As the file has it: f32, f16, bf16 or quantised blocks, read where it is used.
    Stored { dtype: DType, rows: usize, cols: usize, bytes: StoredBytes },
}

impl Weight {
    /// `[n, k]`.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Weight::Dense(t) => (t.rows(), t.cols()),
            Weight::Stored { rows, cols, .. } => (*rows, *cols),
        }
    }

    pub fn dtype(&self) -> DType {
        match self {
            Weight::Dense(t) => match t.elem() {
                Elem::F32 => DType::F32,
                Elem::Bf16 => DType::BF16,
                Elem::F16 => DType::F16,
            },
            Weight::Stored { dtype, .. } => *dtype,
        }
    }

    pub fn bytes_len(&self) -> usize {
        let (rows, cols) = self.shape();
        self.dtype().bytes_of(rows * cols).expect("rows are whole blocks")
    }

    /// For a kernel to read, through [`Held::mat`], while the answer lives.
    pub fn hold(&self) -> Held<'_> {
        match self {
            Weight::Dense(t) => Held::Dense(t),
            Weight::Stored { dtype, bytes, .. } => Held::Stored(*dtype, bytes.hold()),
        }
    }

    /// For a kernel to read one time: nothing that has to be made for it stays in memory.
    pub fn hold_once(&self) -> Held<'_> {
        match self {
            Weight::Dense(t) => Held::Dense(t),
            Weight::Stored { dtype, bytes, .. } => Held::Stored(*dtype, bytes.hold_once()),
        }
    }

    /// Gives memory back that these bytes take, where they can be read again.
    pub fn forget(&self, range: Range<usize>) {
        if let Weight::Stored { bytes, .. } = self {
            bytes.forget(range);
        }
    }

    /// A vector parameter (norm weight, bias). These are always held as f32.
    pub fn vector(&self) -> &[f32] {
        match self {
            Weight::Dense(t) => t.f32(),
            Weight::Stored { .. } => panic!("vectors are loaded into memory"),
        }
    }

    /// `out[m, n] = x[m, k] · wᵀ` (`+ out` if `accumulate`).
    pub fn apply(&self, device: &Device, out: &mut Tensor, x: &Tensor, accumulate: bool) {
        let (n, k) = self.shape();
        let m = x.rows();
        assert_eq!((x.cols(), out.rows(), out.cols()), (k, m, n), "apply: x {x:?}, out {out:?}, weight [{n}, {k}]");
        device.run(self.cost(m, x.elem(), out.elem()), |cpu| {
            cpu.matmul_nt(out.output(), x.input(), self.hold().mat(), accumulate, m, n, k)
        });
    }

    /// `out[at.., n] = x[m, k] · wᵀ` (`+ out` if `accumulate`), the `m` rows of `out` from `at` on. A row has the same bits
    /// whatever rows it is with.
    pub fn apply_by_rows(&self, device: &Device, out: &mut Tensor, at: usize, x: &Tensor, accumulate: bool) {
        let (n, k) = self.shape();
        let m = x.rows();
        assert_eq!((x.cols(), out.cols()), (k, n), "apply_by_rows: x {x:?}, out {out:?}, weight [{n}, {k}]");
        device.run(self.cost(m, x.elem(), out.elem()), |cpu| {
            cpu.matmul_nt_by_rows(out.output_rows(at, m), x.input(), self.hold().mat(), accumulate, m, n, k)
        });
    }

    /// `out[m, n] = x[m, k] · wᵀ` for rows of f32 and a quantised weight, by int8 products: fast, and inexact (about 1e-2
    /// relative). A row has the same bits whatever rows it is with.
    pub fn apply_int8(&self, device: &Device, out: &mut Tensor, x: &Tensor) {
        let (n, k) = self.shape();
        let m = x.rows();
        device.run(self.cost(m, x.elem(), out.elem()), |cpu| {
            cpu.matmul_nt_int8(out.f32_mut(), x.f32(), self.hold().mat(), m, n, k)
        });
    }

    /// `out[m, k] = dy[m, n] · w` (`+ out` if `accumulate`).
    pub fn apply_t(&self, device: &Device, out: &mut Tensor, dy: &Tensor, accumulate: bool) {
        let (n, k) = self.shape();
        let m = dy.rows();
        assert_eq!(
            (dy.cols(), out.rows(), out.cols()),
            (n, m, k),
            "apply_t: dy {dy:?}, out {out:?}, weight [{n}, {k}]"
        );
        device.run(self.cost(m, dy.elem(), out.elem()), |cpu| {
            cpu.matmul_nn(out.output(), dy.input(), self.hold().mat(), accumulate, m, n, k)
        });
    }

    /// `out[i, ..] = w[ids[i], ..]`.
    pub fn rows(&self, device: &Device, out: &mut Tensor, ids: &[u32]) {
        let (_, k) = self.shape();
        assert_eq!((out.rows(), out.cols()), (ids.len(), k));
        let cost = Cost::elementwise(out.len(), 2 * out.elem().bytes());
        if let Weight::Stored { dtype, bytes, .. } = self
            && let Some((held, ids)) = bytes.hold_rows(device, ids, dtype.bytes_of(k).expect("rows are whole blocks"))
        {
            let held = Held::Stored(*dtype, held);
            return device.run(cost, |cpu| cpu.gather_rows(out.output(), held.mat(), &ids, k));
        }
        device.run(cost, |cpu| cpu.gather_rows(out.output(), self.hold().mat(), ids, k));
    }

    /// The whole matrix as f32.
    pub fn to_f32(&self, device: &Device, purpose: crate::Purpose) -> Tensor {
        self.to_dense(device, Elem::F32, purpose)
    }

    /// The whole matrix, rounded to nearest where `elem` is narrower.
    pub fn to_dense(&self, device: &Device, elem: Elem, purpose: crate::Purpose) -> Tensor {
        let (n, k) = self.shape();
        let mut out = Tensor::empty(device, elem, n, k, purpose);
        let ids: Vec<u32> = (0..n as u32).collect();
        self.rows(device, &mut out, &ids);
        out
    }

    fn cost(&self, m: usize, elem: Elem, out: Elem) -> Cost {
        let (n, k) = self.shape();
        Cost {
            kernel: matmul_kernel(elem, n, k),
            flops: 2.0 * m as f64 * n as f64 * k as f64,
            bytes: (self.bytes_len() + m * k * elem.bytes() + m * n * out.bytes()) as f64,
        }
    }
}

/// A weight that stays where it is.
pub enum Held<'a> {
    Dense(&'a Tensor),
    Stored(DType, HeldBytes<'a>),
}

impl Held<'_> {
    pub fn mat(&self) -> Mat<'_> {
        match self {
            Held::Dense(t) => match t.elem() {
                Elem::F32 => Mat::F32(t.f32()),
                Elem::Bf16 => Mat::Bf16(t.bf16()),
                Elem::F16 => Mat::F16(t.f16()),
            },
            Held::Stored(dtype, bytes) => match dtype {
                DType::F32 => Mat::F32(bytemuck::cast_slice(bytes)),
                DType::F16 => Mat::F16(bytemuck::cast_slice::<u8, f16>(bytes)),
                DType::BF16 => Mat::Bf16(bytemuck::cast_slice::<u8, bf16>(bytes)),
                quant => Mat::Quant(quant_format(*quant).expect("the rest are quantised"), bytes),
            },
        }
    }
}

pub(crate) fn matmul_kernel(elem: Elem, n: usize, k: usize) -> Kernel {
    match elem {
        _ if n.min(k) <= 32 => Kernel::Skinny,
        // f16 is widened while it is packed: the products are those of f32.
        Elem::F32 | Elem::F16 => Kernel::MatmulF32,
        Elem::Bf16 => Kernel::MatmulBf16,
    }
}

/// The kernel's name of a quantised storage type.
pub fn quant_format(dtype: DType) -> Option<QuantFormat> {
    Some(match dtype {
        DType::Q4_0 => QuantFormat::Q4_0,
        DType::Q4_1 => QuantFormat::Q4_1,
        DType::Q5_0 => QuantFormat::Q5_0,
        DType::Q5_1 => QuantFormat::Q5_1,
        DType::Q8_0 => QuantFormat::Q8_0,
        DType::Q4_K => QuantFormat::Q4K,
        DType::Q5_K => QuantFormat::Q5K,
        DType::Q6_K => QuantFormat::Q6K,
        DType::F32 | DType::F16 | DType::BF16 => return None,
    })
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (n, k) = self.shape();
        write!(f, "Weight[{n}, {k}; {}]", self.dtype().name())
    }
}
