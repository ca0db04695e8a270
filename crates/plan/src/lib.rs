//! Plans: measure the machine's kernels on the model's shapes ([`Calibration`]), dry-run the real step ([`choose`] gets it as a
//! closure, since training is not this crate's business), choose what keeps its activations, and say what the run will cost.
#![forbid(unsafe_code)]

mod calibrate;
mod choose;
pub mod disk;
pub mod probe;

pub use calibrate::{Calibration, Shapes};
pub use choose::{DoesNotFit, Facts, Rehearse, Tiered, choose};
