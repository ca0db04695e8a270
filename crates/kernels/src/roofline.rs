//! What this machine can do at most, measured: arithmetic per type and read bandwidth per level of memory.

use crate::Cpu;

impl Cpu {
    /// f32 fused multiply-adds with nothing from memory, FLOP/s over all threads of the pool.
    pub fn measure_f32_flops(&self) -> f64 {
        todo!()
    }
    /// bf16 products with f32 accumulation, FLOP/s; `None` where the table emulates them.
    pub fn measure_bf16_flops(&self) -> Option<f64> {
        todo!()
    }
    /// int8 dot products, op/s; `None` where the table emulates them.
    pub fn measure_int8_ops(&self) -> Option<f64> {
        todo!()
    }
    /// Bytes per second read from a working set of `bytes` per thread.
    pub fn measure_read_bandwidth(&self, bytes: usize) -> f64 {
        todo!()
    }
}
