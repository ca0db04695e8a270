//! Work on texts away from the sockets' thread: large bodies are read there, prompts are made and tokenized. Large work takes
//! turns, so that a thread is left for small requests, and so that few large texts are in memory as objects at a time. It
//! knows no endpoint.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Threads for it: few, so that long prompts leave the processor to the engine.
pub const THREADS: usize = 2;
/// Work on a text of so many bytes is large. A smaller body is read in less than a millisecond or two.
pub const LARGE_BYTES: usize = 256 << 10;

pub struct Texts {
    /// All threads but one.
    large: Arc<Semaphore>,
}

impl Texts {
    pub fn new() -> Texts {
        Texts { large: Arc::new(Semaphore::new(THREADS - 1)) }
    }

    /// What comes of `work` on a text of `bytes`; nothing where it panicked.
    pub async fn run<T: Send + 'static>(&self, bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let turn = match bytes >= LARGE_BYTES {
            true => Some(self.large.clone().acquire_owned().await.ok()?),
            false => None,
        };
        // The turn is the thread's, not the request's: a client that leaves does not end the work.
        let work = move || (work(), turn).0;
        tokio::task::spawn_blocking(work).await.ok()
    }
}
