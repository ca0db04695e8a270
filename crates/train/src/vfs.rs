//! The file system that runs save to, which tests fail call by call, and one that gives up on a disk that hangs. Knows nothing of
//! checkpoints.

mod patient;

pub use ounce_formats::vfs::{Disk, Entry, Kind, Vfs, VfsFile, make_dir, remove_tree};
pub use patient::Patient;
