//! A place where a hostile template or grammar can do no harm: a thread of its own with a deep stack, a time limit, and a net
//! under panics. It knows nothing of either.
//!
//! The template engine recurses without limit on flat chains such as `1+1+1…`, and a stack overflow ends the process. Measured
//! over 19 shapes of chain filled to 64 KiB of source, stacks of 16 MiB overflow and stacks of 32 MiB do not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::tokenizer::panic_text;

const STACK_BYTES: usize = 64 << 20;
/// Longest time of one piece of work, of its thread's on a processor: on a busy machine a small one may have to wait as long.
pub const LIMIT: Duration = Duration::from_secs(2);
/// Longest wait for it, whatever it was given of a processor.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Most pieces of work that go on after their time; beyond them new ones are refused.
const MAX_LATE: usize = 4;

/// Why a piece of work came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("it did not finish within {} s of a processor's time", LIMIT.as_secs())]
    Late,
    #[error("{0}")]
    Panicked(String),
    #[error("there is no thread for it: {0}")]
    Thread(#[from] std::io::Error),
}

/// Threads that were not waited for. No thread is ever detached: glibc (seen with 2.36) reads the memory of a thread that it
/// detaches even when that thread ends at this very moment and its stack, being large, is gone.
static LATE: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Where the system tells of a thread, once it runs: nowhere but on Linux.
type Place = OnceLock<Option<PathBuf>>;

/// How long a thread was on a processor, if it is known (`proc_pid_schedstat(5)`: nanoseconds come first).
fn spent(place: &Place) -> Option<Duration> {
    let Some(place) = place.get() else { return Some(Duration::ZERO) };
    let text = std::fs::read_to_string(place.as_ref()?.join("schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Runs `work` on a thread of its own. After the time limit the caller goes on; the thread ends by itself, because what
/// it does is bounded (source size when compiling, fuel when rendering).
///
/// # Errors
/// What `work` says, or a [`Fault`].
pub fn run<T: Send + 'static, E: From<Fault> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    if collect_late() >= MAX_LATE {
        return Err(Fault::Late.into());
    }
    let (sender, receiver) = sync_channel(1);
    let place: Arc<Place> = Arc::default();
    let own = place.clone();
    let thread = thread::Builder::new().name("guarded".into()).stack_size(STACK_BYTES).spawn(move || {
        let _ = own.set(std::fs::read_link("/proc/thread-self").ok().map(|name| Path::new("/proc").join(name)));
        let result = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|panic| Err(Fault::Panicked(panic_text(&*panic)).into()));
        // Nobody listens any more if the time was up.
        let _ = sender.send(result);
    });
    let thread = thread.map_err(Fault::Thread)?;
    let (begun, mut wait) = (Instant::now(), LIMIT);
    let result = loop {
        match receiver.recv_timeout(wait) {
            Ok(result) => break result,
            Err(RecvTimeoutError::Timeout) => {
                let waited = begun.elapsed();
                if waited >= LONGEST_WAIT || spent(&place).unwrap_or(waited) >= LIMIT {
                    LATE.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
                    return Err(Fault::Late.into());
                }
                wait = LIMIT / 16;
            }
            Err(RecvTimeoutError::Disconnected) => break Err(Fault::Panicked("its thread ended".into()).into()),
        }
    };
    // It has nothing left to do. A panic was caught inside it.
    let _ = thread.join();
    result
}

/// Waits for the threads that have come to their end by now; how many are left.
fn collect_late() -> usize {
    let mut late = LATE.lock().unwrap_or_else(PoisonError::into_inner);
    for thread in late.extract_if(.., |thread| thread.is_finished()) {
        let _ = thread.join();
    }
    late.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A thread that waits for a processor is as little busy as one that sleeps.
    #[test]
    #[cfg(target_os = "linux")]
    fn time_is_that_on_a_processor() {
        let begun = Instant::now();
        let sleeper = run(|| {
            thread::sleep(LIMIT + LIMIT / 4);
            Ok::<_, Fault>(())
        });
        assert!(sleeper.is_ok(), "{sleeper:?}");
        let slept = begun.elapsed();
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let busy: Result<(), Fault> = run(move || {
            while !seen.load(Ordering::Relaxed) {}
            Ok(())
        });
        over.store(true, Ordering::Relaxed);
        assert!(slept >= LIMIT && matches!(busy, Err(Fault::Late)), "{busy:?} {slept:?}");
    }

    #[test]
    fn who_is_late_is_let_go_and_collected() {
        let (sender, receiver) = sync_channel::<()>(0);
        let late: Result<i32, Fault> = run(move || {
            let _ = receiver.recv();
            Ok(1)
        });
        assert!(matches!(late, Err(Fault::Late)), "{late:?}");
        drop(sender);
        // Other tests may run templates that are late beside this one: only wait until ours is gone.
        while LATE.lock().unwrap().iter().any(|thread| !thread.is_finished()) {
            thread::yield_now();
        }
        assert_eq!(run(|| Ok::<_, Fault>(1 + 1)).unwrap(), 2);
        assert!(LATE.lock().unwrap().is_empty());
    }
}
