//! Checkpoints that a power cut, a full disk or a flipped bit cannot turn into wrong weights.
//!
//! ```text
//! DIR/checkpoint-30.tmp-4711/   every file written and synced, MANIFEST.json last, the directory synced
//!     → rename → DIR/checkpoint-30/      DIR synced: from here on the checkpoint is there
//! DIR/latest                    its name, for people and scripts; loading never trusts it
//! ```
//! Then older ones are removed. A checkpoint is what its manifest says: names, sizes and BLAKE3 hashes of its files, and
//! a hash of the manifest itself. A directory whose name merely looks right is never used.
//!
//! Knows no model and no optimizer: a checkpoint is a step, some JSON and named blobs. Every file access goes through
//! [`Vfs`](crate::vfs::Vfs).

mod error;
mod load;
mod manifest;
mod names;
mod save;
pub mod tensors;

pub use error::CheckpointError;
pub use load::{Loaded, load, load_latest, steps};
pub use manifest::{FileEntry, Manifest};
pub use save::{Blob, Saved, Snapshot, discard_after, save, sweep};
