//! What the next job will read, fetched into the caches by threads that wait for it: between two products of a decoding pass
//! memory would stand still otherwise. Must not know what the bytes are; to fetch in vain costs time, never a result.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

const LINE: usize = 64;
/// Lines of one turn of waiting. In between a thread looks for work, which it cannot while its core has as many lines on the way
/// as it can: turns without a pause made every job begin late.
const TURN: usize = 16;
/// Bytes that a thread fetches at most: part of its second-level cache.
const MOST: usize = 256 << 10;

/// Bytes that are announced. Readers may see one half of an announcement with the other half of the next: any address may be fetched.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    announced: AtomicUsize,
    start: AtomicPtr<u8>,
    len: AtomicUsize,
}

impl Ahead {
    /// After the job that is about to begin `bytes` will be read, by each thread its share.
    pub fn announce(&self, bytes: &[u8]) {
        self.start.store(bytes.as_ptr().cast_mut(), Relaxed);
        self.len.store(bytes.len(), Relaxed);
        self.announced.fetch_add(1, Relaxed);
    }
}

/// How far one thread has got with its share.
#[derive(Debug)]
pub(crate) struct Fetch {
    thread: usize,
    threads: usize,
    /// The announcement that the lines are of.
    seen: usize,
    /// Addresses of the lines that are left.
    left: std::iter::StepBy<std::ops::Range<usize>>,
}

impl Fetch {
    pub fn new(thread: usize, threads: usize) -> Fetch {
        Fetch { thread, threads, seen: 0, left: (0..0).step_by(LINE) }
    }

    /// Fetches the next few lines of the share.
    pub fn turn(&mut self, ahead: &Ahead) {
        self.lines(ahead).for_each(fetch);
    }

    fn lines(&mut self, ahead: &Ahead) -> impl Iterator<Item = usize> {
        let announced = ahead.announced.load(Relaxed);
        if announced != self.seen {
            let (start, len) = (ahead.start.load(Relaxed).addr(), ahead.len.load(Relaxed));
            let before = |thread| start.wrapping_add(len * thread / self.threads);
            let (from, to) = (before(self.thread), before(self.thread + 1));
            self.left = (from..to.min(from.saturating_add(MOST))).step_by(LINE);
            self.seen = announced;
        }
        self.left.by_ref().take(TURN)
    }
}

/// Into the second level.
fn fetch(line: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction; it reads nothing that the program sees and no address makes it fail.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(std::ptr::without_provenance(line));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(fetch: &mut Fetch, ahead: &Ahead) -> Vec<usize> {
        std::iter::repeat_with(|| fetch.lines(ahead).collect::<Vec<_>>())
            .take_while(|l| !l.is_empty())
            .flatten()
            .collect()
    }

    #[test]
    fn threads_share_what_is_announced_and_fetch_it_once() {
        let (ahead, bytes) = (Ahead::default(), vec![0u8; 3 * 100 * LINE]);
        let mut threads: Vec<Fetch> = (0..3).map(|thread| Fetch::new(thread, 3)).collect();
        assert_eq!(all(&mut threads[0], &ahead), []);
        for part in [&bytes[..], &bytes[3 * LINE..]] {
            ahead.announce(part);
            let lines: Vec<usize> = threads.iter_mut().flat_map(|fetch| all(fetch, &ahead)).collect();
            let expected: Vec<usize> = (0..part.len() / LINE).map(|i| part.as_ptr().addr() + i * LINE).collect();
            assert_eq!(lines, expected);
            assert!(threads.iter_mut().all(|fetch| all(fetch, &ahead).is_empty()));
        }
    }

    #[test]
    fn no_thread_fetches_more_than_a_cache_holds() {
        let (ahead, bytes) = (Ahead::default(), vec![0u8; 4 * MOST]);
        ahead.announce(&bytes);
        let lines = all(&mut Fetch::new(1, 2), &ahead);
        assert_eq!((lines[0] - bytes.as_ptr().addr(), lines.len()), (2 * MOST, MOST / LINE));
    }
}
