//! Measures what a model can do: task files, answers and likelihoods, their scores, and how sure a score is. It prints
//! nothing and reads no files.
#![forbid(unsafe_code)]

pub mod answers;
pub mod likelihood;
pub mod report;
pub mod score;
pub mod stats;
pub mod task;
