//! Quantised weights in the order that int8 products read fastest, beside the file's own order. For decoding and prefill only:
//! they are as large as the file's blocks, and made once when a model is going to answer.
//!
//! All of a model's lie in one buffer, in the order of use: read as one stream, on large pages, memory gives twice what it gives
//! to many small buffers.

use std::ops::Range;
use std::sync::Arc;

use ounce_kernels::{Cpu, Interleaved as Panels, Mat, QuantFormat};

use crate::device::{Cost, Device, Kernel};
use crate::memory::{Buffer, Purpose};
use crate::tensor::Tensor;
use crate::weight::{Weight, quant_format};

/// `[n, k]` quantised weights, 16 rows side by side.
#[derive(Clone, Debug)]
pub struct Interleaved {
    format: QuantFormat,
    n: usize,
    range: Range<usize>,
    all: Arc<Buffer>,
}

impl Interleaved {
    /// The weights laid out; `None` for those that are not quantised, and for all where the device is dry or its processor
    /// has no use for it.
    pub(crate) fn all(device: &Device, weights: &[&Weight]) -> Vec<Option<Interleaved>> {
        let Some(cpu) = device.processor().filter(|cpu| cpu.interleaves()) else { return vec![None; weights.len()] };
        let mut end = 0;
        let places: Vec<Option<(QuantFormat, Range<usize>)>> = weights
            .iter()
            .map(|weight| {
                let format = quant_format(weight.dtype())?;
                let start = end;
                let (n, k) = weight.shape();
                end += Cpu::interleaved_bytes(format, n, k);
                Some((format, start..end))
            })
            .collect();
        let mut buffer = device.arena().allocate(end, Purpose::Weights);
        for (weight, place) in weights.iter().zip(&places) {
            if let (Mat::Quant(_, blocks), Some((format, range))) = (weight.hold().mat(), place) {
                let (n, k) = weight.shape();
                cpu.interleave(&mut buffer.bytes_mut()[range.clone()], *format, blocks, n, k);
            }
        }
        let all = Arc::new(buffer);
        let laid = |(weight, place): (&&Weight, Option<(QuantFormat, Range<usize>)>)| {
            place.map(|(format, range)| Interleaved { format, n: weight.shape().0, range, all: all.clone() })
        };
        weights.iter().zip(places).map(laid).collect()
    }

    fn panels(&self) -> Panels<'_> {
        Panels { format: self.format, panels: &self.all.bytes()[self.range.clone()], n: self.n }
    }
}

/// `outs[i][m, n_i] = x[m, k] · w_iᵀ`, f32, with `x` rounded to blocks of int8: in one pass over `x`, in one parallel region.
pub(crate) fn apply(device: &Device, outs: &mut [Tensor], x: &Tensor, weights: &[&Interleaved]) {
    let (m, k) = (x.rows(), x.cols());
    let n: usize = weights.iter().map(|w| w.n).sum();
    let read: usize = weights.iter().map(|w| w.panels().panels.len()).sum();
    let bytes = (read + 4 * m * (k + n)) as f64;
    device.run(Cost { kernel: Kernel::MatmulF32, flops: 2.0 * (m * n * k) as f64, bytes }, |cpu| {
        let mut outs: Vec<&mut [f32]> = outs.iter_mut().map(Tensor::f32_mut).collect();
        let weights: Vec<Panels> = weights.iter().map(|w| w.panels()).collect();
        cpu.matmul_nt_interleaved(&mut outs, x.f32(), &weights, m, k);
    });
}
