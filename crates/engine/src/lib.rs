//! Runs requests on a model: sequences, their key-value memory, sampling. No HTTP, no files, no printing.

pub mod sampler;
