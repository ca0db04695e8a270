//! [`Watch`]: waiting for a thread that moves bytes, for as long as some do move. A disk or network file system that hangs never
//! answers the thread that called it, and that thread cannot be stopped; who waits for it can give up. It knows counts and
//! times, no file.
//!
//! What the thread was given stays its own: a buffer it reads into or writes from is moved into its request, or shared by a count,
//! so that the system may go on using it after everyone else is gone. Nobody joins these threads.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Condvar, MutexGuard};
use std::time::{Duration, Instant};

use crate::stream::ReadError;

/// How far a source or store is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Goes up with whatever it gets done.
    pub answered: u64,
    /// What has been without an answer for longest.
    pub oldest: Option<String>,
    /// How long it may get nothing done.
    pub patience: Duration,
}

impl Default for Progress {
    /// Of what does not hang.
    fn default() -> Progress {
        Progress { answered: 0, oldest: None, patience: Duration::MAX }
    }
}

/// Nothing moved for too long.
#[derive(Debug, thiserror::Error)]
#[error(
    "{waiting_for} did not come: {}the disk has not answered for {quiet:.1?}; it hangs, or the network that it is on",
    oldest.as_ref().map_or(String::new(), |call| format!("asked for the {call}, "))
)]
struct Stalled {
    waiting_for: &'static str,
    oldest: Option<String>,
    quiet: Duration,
}

/// Times of a wait. A process that is stopped and goes on has not waited meanwhile: each look counts for one slice at most.
pub struct Watch<'a> {
    waiting_for: &'static str,
    progress: &'a dyn Fn() -> Progress,
    answered: Option<u64>,
    quiet: Duration,
    looked: Instant,
}

/// Slices of a wait without progress.
const SLICES: u32 = 16;
/// Timers overflow far above it.
const LONGEST: Duration = Duration::from_secs(3600);

impl<'a> Watch<'a> {
    /// `waiting_for`: what messages call it.
    pub fn new(waiting_for: &'static str, progress: &'a dyn Fn() -> Progress) -> Watch<'a> {
        Watch { waiting_for, progress, answered: None, quiet: Duration::ZERO, looked: Instant::now() }
    }

    /// How long to wait before asking again.
    ///
    /// # Errors
    /// The patience is over.
    pub fn look(&mut self) -> Result<Duration, ReadError> {
        let now = (self.progress)();
        let slice = (now.patience / SLICES).min(LONGEST);
        self.quiet += self.looked.elapsed().min(slice);
        self.looked = Instant::now();
        if self.answered != Some(now.answered) {
            (self.answered, self.quiet) = (Some(now.answered), Duration::ZERO);
        }
        if self.quiet >= now.patience {
            let (waiting_for, oldest, quiet) = (self.waiting_for, now.oldest, self.quiet);
            return Err(ReadError::new(Stalled { waiting_for, oldest, quiet }));
        }
        // A moment more than a slice, so that so many slices are the patience.
        Ok(slice + Duration::from_millis(1))
    }

    /// Waits while `busy`.
    pub fn wait_while<'b, T>(
        &mut self,
        changed: &Condvar,
        mut guard: MutexGuard<'b, T>,
        busy: impl Fn(&T) -> bool,
    ) -> Result<MutexGuard<'b, T>, ReadError> {
        while busy(&guard) {
            let slice = self.look()?;
            guard = changed.wait_timeout(guard, slice).expect("lock of what is waited for").0;
        }
        Ok(guard)
    }

    /// The next answer; `None` if nobody can answer any more.
    pub fn receive<T>(&mut self, answers: &Receiver<T>) -> Result<Option<T>, ReadError> {
        loop {
            match answers.recv_timeout(self.look()?) {
                Ok(answer) => return Ok(Some(answer)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::mpsc::channel;

    #[test]
    fn whoever_moves_is_waited_for_and_whoever_does_not_is_named() {
        let (answers, progress) = (channel::<()>(), Cell::new(0));
        let patience = Duration::from_millis(80);
        let oldest = Some("read of 3.0 MiB at byte 7 of a.safetensors".to_owned());
        let slow = || {
            progress.set(progress.get() + 1);
            Progress { answered: progress.get().min(60), oldest: oldest.clone(), patience }
        };
        let begun = Instant::now();
        let error = Watch::new("weights", &slow).receive(&answers.1).unwrap_err().to_string();
        // Sixty looks that saw something move, 5 ms each, and then the patience.
        assert!(
            progress.get() > 60 && begun.elapsed() >= 3 * patience,
            "{:?}, {} looks",
            begun.elapsed(),
            progress.get()
        );
        for part in ["weights did not come", "read of 3.0 MiB at byte 7 of a.safetensors", "not answered for 8"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_does_not_hang_has_all_the_time_there_is() {
        let mut watch = Watch::new("weights", &Progress::default);
        assert_eq!(watch.look().unwrap(), LONGEST + Duration::from_millis(1));
        let (ask, answers) = channel();
        ask.send(5).unwrap();
        assert_eq!(watch.receive(&answers).unwrap(), Some(5));
        drop(ask);
        assert_eq!(watch.receive(&answers).unwrap(), None);
    }
}
