//! CPU kernels on plain slices: matrix products, attention, normalisation, element-wise functions, quantised blocks,
//! optimizer updates, and the thread pool they run on.
//!
//! What this crate must not know: tensors, models, graphs, files. A kernel is a C-like function: outputs first, then
//! inputs, then sizes. Everything is reached through [`Cpu`], which owns the pool and the function table of one
//! instruction set, chosen at run time.
//!
//! Dimension letters: `m` rows of activations, `n` output columns, `k` input columns (`c` when there is no product),
//! `h` heads, `d` head dimension, `v` vocabulary.
//!
//! Promise: every result has the same bits for any number of threads. Work is cut into chunks whose size depends on the
//! problem only, and chunks are taken as threads become free.

mod ahead;
mod attention;
mod convert;
mod cpu;
mod elementwise;
mod lanes;
mod loss;
mod matmul;
mod norm;
mod pages;
mod pool;
pub mod quant;
mod random;
pub mod roofline;
mod rope;
pub mod scores;
mod scratch;
mod update;
mod view;

pub use attention::{AttnShape, CacheType, Cached, Span};
pub use cpu::{Cpu, Isa};
pub use elementwise::Act;
pub use half::{bf16, f16};
pub use matmul::{Interleaved, PanelFormat};
pub use pages::{LARGE_PAGE, Pages};
pub use pool::Pool;
pub use quant::QuantFormat;
pub use update::{AdamW, BLOCK, Map8, Rounding, Sgd, Stored};
pub use view::{In, Mat, Out};
