//! The training loop and what it leaves on disk: checkpoints, metrics, charts.

pub mod checkpoint;
pub mod report;
pub mod vfs;
