//! Measures what a model can do: task files, scoring of answers, and how sure a score is. It prints nothing.

pub mod score;
pub mod stats;
pub mod task;
