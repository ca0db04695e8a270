//! Data sets: files in any of the common layouts become token sequences with a loss mask, and those become batches.
//!
//! The path of a row: [`read`] (bytes → JSON rows with their line) → [`rows`] (a row of a named format → [`Content`]) →
//! [`tokenize()`] (→ [`Tokenized`]) → [`Batches`] (→ [`Batch`], in an order that is a function of seed and epoch alone).
//! Every stage reports all that it could not use, with file and line. The crate knows no model and no tensor.

#![forbid(unsafe_code)]

pub mod batches;
pub mod check;
pub mod dataset;
pub mod encode;
pub mod error;
mod info;
mod pack;
mod paths;
mod random;
pub mod read;
pub mod rows;
pub mod tokenize;

pub use batches::{Batch, Batches, Cursor, Settings};
pub use check::{CheckReport, check};
pub use dataset::{Dataset, Example, Part, SourceFile, load};
pub use encode::{Renderer, TextEncoder};
pub use error::{BadRow, DataError};
pub use rows::{Content, Format};
pub use tokenize::{Prepared, Report, Tokenized, prepare, tokenize};
