//! [`Kv`]: keys and values of the positions seen so far, for every layer, in blocks that any sequence may have. Memory is reserved
//! whole but touched only as it fills. Which sequence has which block is the caller's affair.

use std::sync::Arc;

use ounce_spec::ModelConfig;
use ounce_tensor::kernels::{CacheType, Span};
use ounce_tensor::{BLOCK, Cache, Device, Rows, Table, Tensor};

pub struct Kv {
    layers: Vec<Arc<Cache>>,
    /// The blocks of the batch in progress, and the position of the memory that each of its rows goes to.
    table: Table,
    writes: Vec<u32>,
}

/// What one sequence has in a batch.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub tokens: &'a [u32],
    /// Positions before them.
    pub past: usize,
    /// The sequence's blocks, in order: position `p` is in block `p / BLOCK`. Enough of them for all positions; the ones that are
    /// written to nobody else's.
    pub blocks: &'a [u32],
}

impl Kv {
    /// Room for `blocks` times [`BLOCK`] positions.
    pub fn new(device: &Device, config: &ModelConfig, kind: CacheType, blocks: usize) -> Kv {
        let (heads, d) = (config.num_key_value_heads, config.head_dim);
        let layer = |_| Arc::new(Cache::new(device, kind, blocks, heads, d));
        Kv { layers: (0..config.num_hidden_layers).map(layer).collect(), table: Table::default(), writes: Vec::new() }
    }

    /// Bytes of one position in all layers.
    pub fn position_bytes(config: &ModelConfig, kind: CacheType) -> usize {
        2 * config.num_hidden_layers * config.num_key_value_heads * kind.head_bytes(config.head_dim)
    }

    /// Starts a batch that continues sequences by these tokens, and lays out its rows. Panics where a sequence has too few blocks:
    /// the caller takes them before.
    pub fn begin(&mut self, parts: &[Part]) -> Rows {
        let (mut ids, mut positions, mut spans, mut table) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        self.writes.clear();
        for part in parts {
            let (past, new) = (part.past, part.tokens.len());
            let used = (past + new).div_ceil(BLOCK);
            assert!(used <= part.blocks.len(), "{past} + {new} positions in {} blocks", part.blocks.len());
            spans.push(Span { q_start: ids.len(), q_len: new, kv_start: table.len() * BLOCK, kv_len: past + new });
            table.extend_from_slice(&part.blocks[..used]);
            self.writes.extend((past..past + new).map(|p| part.blocks[p / BLOCK] * BLOCK as u32 + (p % BLOCK) as u32));
            ids.extend_from_slice(part.tokens);
            positions.extend((past..past + new).map(|p| p as u32));
        }
        self.table = table.into();
        let (ids, positions, spans) = (ids.into(), positions.into(), Arc::from(spans));
        Rows { ids, positions, spans, first_row: 0, adapted: Arc::default(), loss: None }
    }

    /// Copies what block `from` holds to block `to`.
    pub fn copy_block(&mut self, device: &Device, to: u32, from: u32) {
        self.layers.iter_mut().for_each(|cache| own(cache).copy_block(device, to, from));
    }

    pub(crate) fn append(&mut self, device: &Device, layer: usize, k: &Tensor, v: &Tensor) {
        own(&mut self.layers[layer]).write(device, k, v, &self.writes);
    }

    pub(crate) fn layer(&self, layer: usize) -> (&Arc<Cache>, &Table) {
        (&self.layers[layer], &self.table)
    }
}

fn own(cache: &mut Arc<Cache>) -> &mut Cache {
    Arc::get_mut(cache).expect("ops let a cache go when they are done")
}
