//! What a run leaves for people to look at, made from its events:
//!
//! ```text
//! DIR/metrics.jsonl     one event a line, the only record; everything below can be made from it again
//! DIR/tensorboard/      the same numbers for TensorBoard
//! DIR/loss.svg          the loss curve
//! DIR/summary.json      the end result
//! ```
//! Knows no model and prints nothing.

pub mod braille;
mod crc32c;
mod error;
mod metrics;
mod reporter;
pub mod svg;
pub mod tfevents;

pub use error::ReportError;
pub use metrics::{EvalPoint, Metrics, StartPoint, StepPoint};
pub use reporter::{LOSS_CHART, METRICS, Reporter, SUMMARY};
