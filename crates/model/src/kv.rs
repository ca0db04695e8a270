//! [`Kv`]: keys and values of the positions seen so far, for a fixed number of sequences. Memory is reserved for the whole
//! context but touched only as it fills.

use std::sync::Arc;

use ounce_spec::ModelConfig;
use ounce_tensor::kernels::Span;
use ounce_tensor::{Cost, Device, Elem, Purpose, Rows, Tensor};

pub struct Kv {
    /// For each layer, `[slots · capacity, kv_heads · d]`.
    layers: Vec<(Tensor, Tensor)>,
    /// Positions filled, for each slot.
    lengths: Vec<usize>,
    capacity: usize,
    /// Where the rows of the batch in progress go: (first row of the cache, first row of the batch, rows).
    writes: Vec<(usize, usize, usize)>,
}

impl Kv {
    /// Room for `slots` sequences of up to `capacity` positions.
    pub fn new(device: &Device, config: &ModelConfig, elem: Elem, slots: usize, capacity: usize) -> Kv {
        let width = config.num_key_value_heads * config.head_dim;
        let empty = || Tensor::empty(device, elem, slots * capacity, width, Purpose::Cache);
        let layers = (0..config.num_hidden_layers).map(|_| (empty(), empty())).collect();
        Kv { layers, lengths: vec![0; slots], capacity, writes: Vec::new() }
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }
    pub fn slots(&self) -> usize {
        self.lengths.len()
    }
    /// Positions filled in `slot`.
    pub fn len(&self, slot: usize) -> usize {
        self.lengths[slot]
    }
    pub fn is_empty(&self, slot: usize) -> bool {
        self.lengths[slot] == 0
    }

    /// Forgets the positions of `slot` from `len` on.
    pub fn truncate(&mut self, slot: usize, len: usize) {
        self.lengths[slot] = self.lengths[slot].min(len);
    }

    /// Starts a batch that continues the given slots by these tokens, and lays out its rows. Each slot occurs at most once.
    /// Panics if a slot overflows: the caller checks the context before.
    pub fn begin(&mut self, parts: &[(usize, &[u32])]) -> Rows {
        let (mut ids, mut positions, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        self.writes.clear();
        for &(slot, tokens) in parts {
            let (past, new) = (self.lengths[slot], tokens.len());
            assert!(past + new <= self.capacity, "slot {slot}: {past} + {new} of {} positions", self.capacity);
            let base = slot * self.capacity;
            self.writes.push((base + past, ids.len(), new));
            spans.push(Span { q_start: ids.len(), q_len: new, kv_start: base, kv_len: past + new });
            ids.extend_from_slice(tokens);
            positions.extend((past..past + new).map(|p| p as u32));
            self.lengths[slot] += new;
        }
        let (ids, positions, spans) = (ids.into(), positions.into(), Arc::from(spans));
        Rows { ids, positions, spans, first_row: 0, adapted: Arc::default(), loss: None }
    }

    pub(crate) fn append(&mut self, device: &Device, layer: usize, k: &Tensor, v: &Tensor) {
        let (all_k, all_v) = &mut self.layers[layer];
        device.run(Cost::elementwise(2 * k.len(), 2 * k.elem().bytes()), |_| {
            for &(to, from, rows) in &self.writes {
                all_k.copy_rows(to, &k.view_rows(from, rows));
                all_v.copy_rows(to, &v.view_rows(from, rows));
            }
        });
    }

    pub(crate) fn layer(&self, layer: usize) -> (Tensor, Tensor) {
        self.layers[layer].clone()
    }
}
