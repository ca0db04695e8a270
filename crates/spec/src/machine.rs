//! A machine as it was measured.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    /// Instruction sets found, best last.
    pub features: Vec<String>,
    pub memory_bytes: usize,
    /// The cgroup's limit, where there is one.
    pub memory_limit_bytes: Option<usize>,
    pub rates: Vec<Rates>,
    #[serde(default)]
    pub disk: Option<Disk>,
}

/// A disk's rates past the page cache, bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    pub read_bytes_s: f64,
    pub write_bytes_s: f64,
}

/// Measured rates at one thread count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    pub threads: usize,
    /// Peak arithmetic, operations per second.
    pub f32_flops: f64,
    pub bf16_flops: Option<f64>,
    pub int8_ops: Option<f64>,
    /// Bytes per second read from each level.
    pub l2_bytes_s: f64,
    pub l3_bytes_s: f64,
    pub dram_bytes_s: f64,
    /// What the real kernels reach, for forecasts: (kernel name, operations or bytes per second).
    pub kernels: Vec<(String, f64)>,
}
