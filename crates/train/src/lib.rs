//! Training: one step ([`Trainer`]), the loop ([`Run`]), and what it leaves on disk (checkpoints, metrics, charts).
//!
//! What this crate must not know: the command line, which backward rules exist, how a plan is chosen.
#![forbid(unsafe_code)]

pub mod checkpoint;
mod pass;
pub mod report;
pub mod resident;
mod run;
pub mod runs;
mod scale;
mod scratch;
pub mod state;
mod step;
mod tiers;
mod trainer;
mod update;
mod values;
pub mod vfs;

pub use run::{Outcome, Run, TrainError};
pub use scale::LossScale;
pub use scratch::Scratch;
pub use state::Progress;
pub use step::{NonFinite, StepError, StepResult};
pub use trainer::Trainer;
pub use values::Values;
