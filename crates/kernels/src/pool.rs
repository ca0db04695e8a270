//! One pool of threads. Work comes in numbered chunks. Each thread has a run of them to itself and takes its next when it is
//! free; one that has finished helps the others, so a core that another process takes costs only its share. A counter
//! that threads share only at the end costs nothing in between: one for all made every chunk wait for a cache line from
//! another core. Must not know what the work is.
//!
//! A worker that has not woken when the chunks run out is not waited for: it must *enter* a job before it may touch it,
//! and the caller closes the job before it returns. One word holds both facts: an open bit and the count inside.

use crate::ahead::{Ahead, Fetch};
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle thread spins before it sleeps. Waking a sleeper costs about as much; longer spinning would take
/// the core from others.
const SPIN: Duration = Duration::from_micros(40);

/// Threads that run numbered chunks of work. The caller of [`Pool::run`] is one of them.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the length of a job: callers from several threads take turns. What the one whose turn it is fetches while it waits.
    turn: Mutex<Fetch>,
}

type Work<'a> = dyn Fn(usize, usize) + Sync + 'a;

#[derive(Debug)]
struct Shared {
    /// `generation << 32 | OPEN | threads inside`.
    state: Line<AtomicU64>,
    /// For each thread, the next chunk of its run.
    next: Vec<Line<AtomicUsize>>,
    chunks: AtomicUsize,
    job: UnsafeCell<Option<&'static Work<'static>>>,
    stop: AtomicBool,
    asleep: Vec<AtomicBool>,
    ahead: Line<Ahead>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    caller_waits: AtomicBool,
    left: (Mutex<()>, Condvar),
}

// SAFETY: `job` is written only by the holder of `turn` while no thread is inside and the job is not open, and read
// only by threads that entered through `state`, which orders both.
unsafe impl Sync for Shared {}
// SAFETY: the reference in `job` is to a `Sync` closure.
unsafe impl Send for Shared {}

/// Keeps a counter that threads fight for away from everything else.
#[derive(Debug)]
#[repr(align(128))]
struct Line<T>(T);

const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;
const GENERATION: u64 = 1 << 32;

thread_local! {
    /// Whether this thread is running a chunk of some pool.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// A pool of `threads` threads with the caller; 0: as many as the process may use (affinity and quota respected).
    pub fn new(threads: usize) -> Pool {
        let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = if threads == 0 { allowed } else { threads };
        let shared = Arc::new(Shared {
            state: Line(AtomicU64::new(0)),
            next: (0..threads).map(|_| Line(AtomicUsize::new(0))).collect(),
            chunks: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
            ahead: Line(Ahead::default()),
            asleep: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            panic: Mutex::new(None),
            caller_waits: AtomicBool::new(false),
            left: (Mutex::new(()), Condvar::new()),
        });
        let workers = (1..threads)
            .map_while(|thread| {
                let shared = shared.clone();
                std::thread::Builder::new()
                    .name(format!("kernels-{thread}"))
                    .spawn(move || {
                        // Only a pool that owns every allowed core pins: a smaller one would sit on a core that others
                        // use while another is free.
                        if threads == allowed {
                            pin(thread);
                        }
                        shared.serve(thread);
                    })
                    // A limit on processes makes the pool smaller, not useless.
                    .ok()
            })
            .collect();
        Pool { shared, workers, turn: Mutex::new(Fetch::new(0, threads)) }
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work(chunk, thread)` for every `chunk` in `0..chunks`, `thread < threads()`; returns when all are done.
    /// Nested calls run in the calling thread, as thread 0. A panic in `work` stops the job and goes on in the caller.
    pub fn run(&self, chunks: usize, work: impl Fn(usize, usize) + Sync) {
        if chunks <= 1 || self.workers.is_empty() || BUSY.get() {
            return (0..chunks).for_each(|chunk| work(chunk, 0));
        }
        self.run_shared(chunks, &work);
    }

    /// After the next job `bytes` will be read: threads that wait then fetch them. A hint.
    pub(crate) fn announce(&self, bytes: &[u8]) {
        self.shared.ahead.0.announce(bytes);
    }

    fn run_shared(&self, chunks: usize, work: &Work<'_>) {
        let mut turn = lock(&self.turn);
        let s = &*self.shared;
        // SAFETY: the lifetime is extended only until this function returns: it closes the job and waits until no
        // thread is inside. `turn` is held, so nothing else writes `job`.
        unsafe { *s.job.get() = Some(std::mem::transmute::<&Work<'_>, &'static Work<'static>>(work)) };
        s.chunks.store(chunks, SeqCst);
        s.next.iter().enumerate().for_each(|(thread, next)| next.0.store(s.run_of(thread, chunks).start, SeqCst));
        s.state.0.fetch_add(GENERATION | OPEN, SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&s.asleep).take(chunks - 1) {
            if asleep.swap(false, SeqCst) {
                worker.thread().unpark();
            }
        }
        s.take_chunks(work, chunks, 0);
        s.state.0.fetch_and(!OPEN, SeqCst);
        s.wait_until_left(&mut turn);
        if let Some(panic) = lock(&s.panic).take() {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches what its work throws, so the join cannot fail; a destructor must not panic either way.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// A worker's life: wait for a new open job, enter, take chunks, leave.
    fn serve(&self, thread: usize) {
        let (mut seen, mut fetch) = (0, Fetch::new(thread, self.next.len()));
        while let Some(generation) = self.wait_for_job(thread, seen, &mut fetch) {
            seen = generation;
            // SAFETY: this thread is inside an open job: `job` was written before and is not written until it leaves.
            let job = unsafe { *self.job.get() };
            if let Some(work) = job {
                self.take_chunks(work, self.chunks.load(SeqCst), thread);
            }
            let before = self.state.0.fetch_sub(1, SeqCst);
            if before & (OPEN | INSIDE) == 1 && self.caller_waits.load(SeqCst) {
                let _guard = lock(&self.left.0);
                self.left.1.notify_all();
            }
        }
    }

    /// Enters the next open job later than `seen` and returns its generation; `None` when the pool is dropped.
    fn wait_for_job(&self, thread: usize, seen: u64, fetch: &mut Fetch) -> Option<u64> {
        let mut spin = Spin::new();
        loop {
            let state = self.state.0.load(SeqCst);
            if state & OPEN != 0 && state / GENERATION != seen {
                if self.state.0.compare_exchange(state, state + 1, SeqCst, SeqCst).is_ok() {
                    return Some(state / GENERATION);
                }
            } else if self.stop.load(SeqCst) {
                return None;
            } else if !spin.again() {
                // Say "asleep", look once more, sleep: the caller opens first and reads `asleep` after.
                let asleep = &self.asleep[thread - 1];
                asleep.store(true, SeqCst);
                if self.state.0.load(SeqCst) == state && !self.stop.load(SeqCst) {
                    std::thread::park();
                }
                asleep.store(false, SeqCst);
                spin = Spin::new();
            } else {
                fetch.turn(&self.ahead.0);
            }
        }
    }

    /// The chunks that are `thread`'s until others help.
    fn run_of(&self, thread: usize, chunks: usize) -> std::ops::Range<usize> {
        let threads = self.next.len();
        chunks * thread / threads..chunks * (thread + 1) / threads
    }

    fn take_chunks(&self, work: &Work<'_>, chunks: usize, thread: usize) {
        BUSY.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| {
            for ahead in 0..self.next.len() {
                let whose = (thread + ahead) % self.next.len();
                let (next, end) = (&self.next[whose].0, self.run_of(whose, chunks).end);
                // Looking first spares the others a line that would only say "nothing left".
                while next.load(SeqCst) < end {
                    let chunk = next.fetch_add(1, SeqCst);
                    if chunk >= end {
                        break;
                    }
                    work(chunk, thread);
                }
            }
        }));
        BUSY.set(false);
        if let Err(panic) = result {
            self.next.iter().for_each(|next| next.0.store(chunks, SeqCst));
            lock(&self.panic).get_or_insert(panic);
        }
    }

    fn wait_until_left(&self, fetch: &mut Fetch) {
        let mut spin = Spin::new();
        while self.state.0.load(SeqCst) & INSIDE != 0 {
            if !spin.again() {
                let mut guard = lock(&self.left.0);
                self.caller_waits.store(true, SeqCst);
                while self.state.0.load(SeqCst) & INSIDE != 0 {
                    guard = self.left.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.caller_waits.store(false, SeqCst);
            } else {
                fetch.turn(&self.ahead.0);
            }
        }
    }
}

/// A bounded spin: the clock is read once in a while.
struct Spin {
    turns: u32,
    since: Option<Instant>,
}

impl Spin {
    fn new() -> Spin {
        Spin { turns: 0, since: None }
    }
    fn again(&mut self) -> bool {
        self.turns += 1;
        std::hint::spin_loop();
        !self.turns.is_multiple_of(32) || self.since.get_or_insert_with(Instant::now).elapsed() < SPIN
    }
}

/// The data under these locks is valid at every moment, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the calling thread on the `nth` core it may use. Where that is refused it stays free, which is only slower.
#[cfg(target_os = "linux")]
fn pin(nth: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    if let Some(core) = (0..CpuSet::MAX_CPU).filter(|&c| allowed.is_set(c)).nth(nth) {
        let mut one = CpuSet::new();
        one.set(core);
        let _ = sched_setaffinity(None, &one);
    }
}

#[cfg(not(target_os = "linux"))]
fn pin(_nth: usize) {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_chunk_runs_once() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for chunks in [0, 1, 2, 7, 100] {
                let hits: Vec<AtomicU32> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
                pool.run(chunks, |chunk, thread| {
                    assert!(thread < threads);
                    hits[chunk].fetch_add(1, SeqCst);
                });
                assert!(hits.iter().all(|h| h.load(SeqCst) == 1), "{threads} threads, {chunks} chunks");
            }
        }
    }

    #[test]
    fn many_short_jobs_with_sleeps_between() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        for i in 0..3000 {
            pool.run(4, |chunk, _| {
                sum.fetch_add(chunk, SeqCst);
            });
            if i % 500 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        assert_eq!(sum.load(SeqCst), 3000 * 6);
    }

    #[test]
    fn nested_and_concurrent_calls_finish() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..100 {
                        pool.run(3, |_, _| {
                            pool.run(5, |_, thread| {
                                assert_eq!(thread, 0);
                                sum.fetch_add(1, SeqCst);
                            })
                        })
                    }
                });
            }
        });
        assert_eq!(sum.load(SeqCst), 3 * 100 * 15);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        for bad in 0..20 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(20, |chunk, _| {
                    if chunk == bad {
                        resume_unwind(Box::new(format!("chunk {chunk}")));
                    }
                })
            }));
            let payload = caught.expect_err("the panic must arrive");
            assert_eq!(payload.downcast_ref::<String>().map(String::as_str), Some(format!("chunk {bad}").as_str()));
        }
        let sum = AtomicUsize::new(0);
        pool.run(10, |chunk, _| {
            sum.fetch_add(chunk, SeqCst);
        });
        assert_eq!(sum.load(SeqCst), 45);
    }
}
