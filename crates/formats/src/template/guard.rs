//! A place where a hostile template can do no harm: a thread of its own with a deep stack, a time limit, and a net under
//! panics. It knows nothing of templates.
//!
//! The engine recurses without limit on flat chains such as `1+1+1…`, and a stack overflow ends the process. Measured
//! over 19 shapes of chain filled to 64 KiB of source, stacks of 16 MiB overflow and stacks of 32 MiB do not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::TemplateError;
use crate::tokenizer::panic_text;

const STACK_BYTES: usize = 64 << 20;
pub(super) const LIMIT: Duration = Duration::from_secs(2);

/// Threads that were not waited for. No thread is ever detached: glibc (seen with 2.36) reads the memory of a thread that it
/// detaches even when that thread ends at this very moment and its stack, being large, is gone.
static LATE: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Runs `work` on a thread of its own. After the time limit the caller goes on; the thread ends by itself, because what
/// it does is bounded (source size when compiling, fuel when rendering).
pub(super) fn run<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T, TemplateError> + Send + 'static,
) -> Result<T, TemplateError> {
    collect_late();
    let (sender, receiver) = sync_channel(1);
    let thread = thread::Builder::new().name("chat template".into()).stack_size(STACK_BYTES).spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|panic| Err(TemplateError::Render { why: panic_text(&*panic) }));
        // Nobody listens any more if the time was up.
        let _ = sender.send(result);
    })?;
    let result = match receiver.recv_timeout(LIMIT) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            LATE.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
            return Err(TemplateError::TimedOut { doing, seconds: LIMIT.as_secs() });
        }
        Err(RecvTimeoutError::Disconnected) => Err(TemplateError::Render { why: "its thread ended".into() }),
    };
    // It has nothing left to do. A panic was caught inside it.
    let _ = thread.join();
    result
}

/// Waits for the threads that have come to their end by now.
fn collect_late() {
    let mut late = LATE.lock().unwrap_or_else(PoisonError::into_inner);
    for thread in late.extract_if(.., |thread| thread.is_finished()) {
        let _ = thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_late_is_let_go_and_collected() {
        let (sender, receiver) = sync_channel::<()>(0);
        let late = run("waiting", move || {
            let _ = receiver.recv();
            Ok(1)
        });
        assert!(matches!(late, Err(TemplateError::TimedOut { doing: "waiting", .. })), "{late:?}");
        drop(sender);
        // Other tests may run templates that are late beside this one: only wait until ours is gone.
        while LATE.lock().unwrap().iter().any(|thread| !thread.is_finished()) {
            thread::yield_now();
        }
        assert_eq!(run("adding", || Ok(1 + 1)).unwrap(), 2);
        assert!(LATE.lock().unwrap().is_empty());
    }
}
