//! Tensors, weights, parameters, and automatic differentiation over a closed set of fused ops.
//!
//! The forward pass of a *segment* (a block of a model) records its ops on a [`Graph`]; the finished [`Tape`] owns its
//! values and borrows nothing. Walking it backward hands every parameter gradient to a [`GradSink`] before it is
//! multiplied out. [`Device::Dry`] runs the same code on shapes only and counts operations and bytes.
//!
//! What this crate must not know: models, files, optimizers, the command line.
#![forbid(unsafe_code)]

mod cache;
mod device;
mod graph;
mod interleaved;
mod memory;
mod offload;
pub mod ops;
mod params;
mod patience;
mod rows;
mod sink;
mod space;
mod stage;
mod stream;
mod tape;
mod tensor;
mod weight;

#[cfg(test)]
mod conformance;

pub use cache::{BLOCK, Cache, Table};
pub use device::{Cost, Counter, Device, Kernel, Rehearsal};
pub use graph::{Graph, Mode, Random, Var};
pub use interleaved::Interleaved;
pub use memory::{Arena, MemoryUse, Purpose};
pub use offload::{Away, Offload, Store};
pub use ops::low_rank_rows::LowRankRows;
pub use ops::rope::RopeTable;
pub use ounce_kernels as kernels;
pub use ounce_spec::plan::Policy;
pub use params::{Param, ParamId, Params};
pub use patience::{Progress, Watch};
pub use rows::{AdapterId, Loss, Rows};
pub use sink::{Accumulate, GradSink, NoGrad, UpdateNow};
pub use space::NoMemory;
pub use stage::{Pass, Segments, Stage};
pub use stream::{HeldBytes, ReadError, Slot, Source, Stored, Stream};
pub use tape::Tape;
pub use tensor::{Elem, Tensor};
pub use weight::{Held, StoredBytes, Weight, quant_format};
