//! [`Cache`]: the memory behind the keys and values of one layer, in blocks of positions. Who has which block is not known here.

use std::sync::Arc;

use ounce_kernels::{CacheType, Cached};

use crate::device::{Cost, Device};
use crate::memory::{Buffer, Purpose};
use crate::tensor::Tensor;

/// Positions of a block: one step of the attention kernel.
pub const BLOCK: usize = 16;

/// The blocks of the sequences of a batch, one sequence after the other.
pub type Table = Arc<[u32]>;

/// Keys and values of `blocks` times [`BLOCK`] positions.
#[derive(Debug)]
pub struct Cache {
    kind: CacheType,
    k: Buffer,
    v: Buffer,
    kv_heads: usize,
    head_dim: usize,
    blocks: usize,
}

impl Cache {
    /// Memory that is touched only as it fills.
    pub fn new(device: &Device, kind: CacheType, blocks: usize, kv_heads: usize, head_dim: usize) -> Cache {
        let bytes = blocks * BLOCK * kv_heads * kind.head_bytes(head_dim);
        let empty = || device.arena().allocate(bytes, Purpose::Cache);
        Cache { kind, k: empty(), v: empty(), kv_heads, head_dim, blocks }
    }

    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Bytes of a position, keys and values.
    pub fn position_bytes(&self) -> usize {
        2 * self.kv_heads * self.kind.head_bytes(self.head_dim)
    }

    /// Writes the rows of `k` and `v` `[t, kv_heads·d]` to positions `rows` of the memory (`BLOCK` times the block, and on).
    pub fn write(&mut self, device: &Device, k: &Tensor, v: &Tensor, rows: &[u32]) {
        let cost = Cost::elementwise(2 * k.len(), 2 * k.elem().bytes());
        device.run(cost, |cpu| {
            let to = [self.k.bytes_mut(), self.v.bytes_mut()];
            cpu.cache_write(self.kind, to, [k.f32(), v.f32()], rows, BLOCK, self.kv_heads, self.head_dim);
        });
    }

    /// Copies block `from` to block `to`.
    pub fn copy_block(&mut self, device: &Device, to: u32, from: u32) {
        let bytes = BLOCK * self.position_bytes() / 2;
        device.run(Cost::elementwise(2 * bytes, 2), |_| {
            for memory in [&mut self.k, &mut self.v] {
                let start = from as usize * bytes;
                memory.bytes_mut().copy_within(start..start + bytes, to as usize * bytes);
            }
        });
    }

    /// For the attention kernel to read.
    pub(crate) fn view<'a>(&'a self, table: &'a [u32]) -> Cached<'a> {
        Cached { kind: self.kind, k: self.k.bytes(), v: self.v.bytes(), table, block: BLOCK }
    }
}
