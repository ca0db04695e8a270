//! Weights in the order that products of answering models read fastest, instead of the file's own order. For decoding and prefill
//! only: made once when a model is going to answer, while the file's pages are let go, so that memory holds them once.
//!
//! All of a model's lie in one buffer, in the order of use: read as one stream, on large pages, memory gives twice what it gives
//! to many small buffers.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ounce_kernels::{Interleaved as Panels, PanelFormat};
use ounce_spec::DType;

use crate::device::{Cost, Device, Kernel};
use crate::memory::{Buffer, Purpose};
use crate::tensor::Tensor;
use crate::weight::{Weight, quant_format};

/// Bytes of the file that are in memory beside those laid out, about.
const BAND_BYTES: usize = 4 << 20;

/// `[n, k]` weights, rows side by side.
#[derive(Clone, Debug)]
pub struct Interleaved {
    format: PanelFormat,
    n: usize,
    range: Range<usize>,
    /// Among those of the region.
    index: usize,
    all: Arc<Region>,
}

/// The weights of a model, and in which order products read them.
#[derive(Debug)]
struct Region {
    buffer: Buffer,
    /// The first weight of the product before.
    last: AtomicUsize,
    /// For the first weight of a product, the bytes of the one that followed it when it ran last: passes are alike.
    after: Vec<[AtomicUsize; 2]>,
}

impl Region {
    /// What is likely to be read after the product that reads `range` and begins with weight `first`. Several threads at once make it
    /// guess wrong, no more.
    fn follow(&self, first: usize, range: Range<usize>) -> &[u8] {
        let before = self.last.swap(first, Relaxed);
        self.after[before][0].store(range.start, Relaxed);
        self.after[before][1].store(range.end, Relaxed);
        let [start, end] = &self.after[first];
        self.buffer.bytes().get(start.load(Relaxed)..end.load(Relaxed)).unwrap_or_default()
    }
}

impl Interleaved {
    /// The stored weights laid out; `None` for those that may be trained, and for all where the device is dry or its processor has
    /// no use for it. Their own bytes are let go where they can be read again.
    pub(crate) fn all(device: &Device, weights: &[&Weight]) -> Vec<Option<Interleaved>> {
        let Some(cpu) = device.processor().filter(|cpu| cpu.interleaves()) else { return vec![None; weights.len()] };
        let mut end = 0;
        let place = |weight: &&Weight| {
            let Weight::Stored { dtype, .. } = weight else { return None };
            let (format, (n, k), start) = (panel_format(*dtype), weight.shape(), end);
            end += format.bytes(n, k);
            Some((format, start..end))
        };
        let places: Vec<Option<(PanelFormat, Range<usize>)>> = weights.iter().map(place).collect();
        let mut buffer = device.arena().allocate(end, Purpose::Weights);
        for (weight, place) in weights.iter().zip(&places) {
            let Some((format, range)) = place else { continue };
            let (n, k) = weight.shape();
            let row_bytes = weight.bytes_len() / n.max(1);
            let band = (BAND_BYTES / row_bytes.max(1)).next_multiple_of(format.rows()).max(format.rows());
            let held = weight.hold_once();
            for start in (0..n).step_by(band) {
                let rows = start..n.min(start + band);
                let out = range.start + format.bytes(start, k)..range.start + format.bytes(rows.end, k);
                cpu.interleave(&mut buffer.bytes_mut()[out], held.mat().rows(rows.clone(), k), rows.len(), k);
                weight.forget(rows.start * row_bytes..rows.end * row_bytes);
            }
        }
        let after = weights.iter().map(|_| Default::default()).collect();
        let all = Arc::new(Region { buffer, last: AtomicUsize::new(0), after });
        let laid = |(index, (weight, place)): (usize, (&&Weight, Option<(PanelFormat, Range<usize>)>))| {
            place.map(|(format, range)| Interleaved { format, n: weight.shape().0, range, index, all: all.clone() })
        };
        weights.iter().zip(places).enumerate().map(laid).collect()
    }

    /// Bytes that `[n, k]` weights stored as `dtype` take once they are laid out.
    pub fn bytes_of(dtype: DType, n: usize, k: usize) -> usize {
        panel_format(dtype).bytes(n, k)
    }

    fn panels(&self) -> Panels<'_> {
        Panels { format: self.format, panels: &self.all.buffer.bytes()[self.range.clone()], n: self.n }
    }
}

fn panel_format(dtype: DType) -> PanelFormat {
    match dtype {
        DType::F32 => PanelFormat::F32,
        DType::BF16 => PanelFormat::Bf16,
        DType::F16 => PanelFormat::F16,
        quant => PanelFormat::Quant(quant_format(quant).expect("the rest are quantised")),
    }
}

/// `outs[i][m, n_i] = x[m, k] · w_iᵀ`, f32, with `x` rounded to blocks of int8 or to bf16 where the weights are quantised or bf16: in
/// one pass over `x`, in one parallel region.
pub(crate) fn apply(device: &Device, outs: &mut [Tensor], x: &Tensor, weights: &[&Interleaved]) {
    let (m, k) = (x.rows(), x.cols());
    let n: usize = weights.iter().map(|w| w.n).sum();
    let read: usize = weights.iter().map(|w| w.panels().panels.len()).sum();
    let bytes = (read + 4 * m * (k + n)) as f64;
    device.run(Cost { kernel: Kernel::MatmulF32, flops: 2.0 * (m * n * k) as f64, bytes }, |cpu| {
        let mut outs: Vec<&mut [f32]> = outs.iter_mut().map(Tensor::f32_mut).collect();
        let panels: Vec<Panels> = weights.iter().map(|w| w.panels()).collect();
        let (first, last) = (weights[0], weights[weights.len() - 1]);
        let then = first.all.follow(first.index, first.range.start..last.range.end);
        cpu.matmul_nt_interleaved(&mut outs, x.f32(), &panels, m, k, then);
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ounce_kernels::Cpu;

    use super::*;
    use crate::stream::{HeldBytes, Stored};
    use crate::{Graph, Mode, Params};

    /// Bytes that note which parts were let go.
    struct Noted {
        bytes: Vec<u8>,
        forgotten: Arc<Mutex<Vec<Range<usize>>>>,
    }

    impl Stored for Noted {
        fn hold(&self) -> HeldBytes<'_> {
            HeldBytes::Here(&self.bytes)
        }
        fn forget(&self, range: Range<usize>) {
            self.forgotten.lock().expect("a lock").push(range);
        }
    }

    #[test]
    fn a_region_learns_which_product_follows_which() {
        let ranges = [0..10, 10..30, 30..40];
        let bytes: Vec<u8> = (0..40).collect();
        let mut buffer = Device::cpu(Cpu::new(1)).arena().allocate(40, Purpose::Weights);
        buffer.bytes_mut()[..40].copy_from_slice(&bytes);
        let region =
            Region { buffer, last: AtomicUsize::new(0), after: ranges.iter().map(|_| Default::default()).collect() };
        let pass = || [0, 1, 2].map(|i| region.follow(i, ranges[i].clone()).to_vec());
        pass();
        assert_eq!(pass(), [&bytes[10..30], &bytes[30..40], &bytes[0..10]].map(<[u8]>::to_vec));
    }

    #[test]
    fn weights_are_let_go_part_by_part_and_answer_as_before() {
        let device = Device::cpu(Cpu::new(2));
        if !device.processor().expect("a processor").interleaves() {
            return;
        }
        // Large enough for several parts, the last one not whole.
        let (n, k) = (40_003, 64);
        let values: Vec<f32> = (0..n * k).map(|i| (i * 7919 % 2003) as f32 / 1001.5 - 1.0).collect();
        let notes = Arc::<Mutex<Vec<Range<usize>>>>::default();
        let noted = Noted { bytes: bytemuck::cast_slice(&values).to_vec(), forgotten: notes.clone() };
        let mut params = Params::default();
        let weight = Weight::Stored { dtype: DType::F32, rows: n, cols: k, bytes: Arc::new(noted) };
        let id = params.add("w", weight);
        let x = Tensor::from_f32(&device, &values[..3 * k], 3, k, Purpose::Activations);
        let run = |params: &Params| {
            let mut g = Graph::new(&device, params, &[], Mode::Infer { int8: true }, None, 0);
            let x = g.input(x.clone(), false);
            let y = g.linear(x, id, None);
            g.value(y).to_f32_vec()
        };
        let before = run(&params);
        params.interleave(&device, &[id]);
        let forgotten = std::mem::take(&mut *notes.lock().expect("a lock"));
        assert!(forgotten.len() > 1, "{forgotten:?}");
        let mut end = 0;
        for range in &forgotten {
            assert_eq!(range.start, end);
            assert!(range.len() <= BAND_BYTES + 32 * 4 * k, "{range:?}");
            end = range.end;
        }
        assert_eq!(end, 4 * n * k);
        for (a, b) in run(&params).iter().zip(&before) {
            assert!((a - b).abs() <= 1e-4, "{a} {b}");
        }
    }
}
