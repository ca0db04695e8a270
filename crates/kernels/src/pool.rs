//! One pool of pinned threads. Work comes in numbered chunks; a thread takes the next number when it is free.

#[derive(Debug)]
pub struct Pool {
    threads: usize,
}

impl Pool {
    pub fn new(threads: usize) -> Pool {
        Pool { threads: threads.max(1) }
    }
    pub fn threads(&self) -> usize {
        self.threads
    }
    /// Runs `work(chunk, thread)` for every `chunk` in `0..chunks`, `thread < threads()`; returns when all are done.
    /// Nested calls run in the calling thread.
    pub fn run(&self, chunks: usize, work: impl Fn(usize, usize) + Sync) {
        for chunk in 0..chunks {
            work(chunk, 0);
        }
    }
}
