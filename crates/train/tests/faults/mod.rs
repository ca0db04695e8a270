//! A file system that fails where a test wants it to: [`Memory`] keeps apart what is written and what is synced, and
//! [`Faulty`] injects one fault into any [`Vfs`].

mod faulty;
mod memory;

pub use faulty::{Fault, Faulty};
pub use memory::Memory;
