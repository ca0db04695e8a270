//! [`Meter`]: the calls that files have not answered yet, and how many they have. A disk that hangs does not return from a call,
//! so the thread that made it cannot say so; whoever waits for that thread asks the meter. It knows calls, not whose they are.

use std::fmt::{self, Display};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::units;

/// How long a disk may answer nothing before a run gives up. Calls move [`STEP`] bytes at most, so one that is merely slow, a
/// network file system at 1 MiB/s, answers sooner; drives try a bad sector again for less than a minute.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes that one call moves, at most, in whole pages.
pub const STEP: usize = 64 << 20;

/// See the module. Shared by those who call and those who wait.
#[derive(Debug, Default)]
pub struct Meter(Mutex<Calls>);

#[derive(Debug, Default)]
struct Calls {
    answered: u64,
    begun: u64,
    /// In the order in which they began.
    open: Vec<(u64, Call)>,
}

/// What a file is asked for.
#[derive(Clone, Debug)]
pub struct Call {
    /// `read`, `write`.
    pub verb: &'static str,
    pub bytes: usize,
    pub at: u64,
    /// What messages call the file.
    pub file: Arc<str>,
}

impl Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} of {} at byte {} of {}", self.verb, units::bytes(self.bytes), self.at, self.file)
    }
}

impl Meter {
    /// Runs `work`, which is `call`.
    pub fn measure<T>(&self, call: Call, work: impl FnOnce() -> T) -> T {
        let number = {
            let mut calls = self.lock();
            calls.begun += 1;
            let number = calls.begun;
            calls.open.push((number, call));
            number
        };
        let _open = Open { meter: self, number };
        work()
    }

    /// Calls that were answered, well or badly, since the meter was made.
    pub fn answered(&self) -> u64 {
        self.lock().answered
    }

    /// The call that has been without an answer for longest.
    pub fn oldest(&self) -> Option<Call> {
        self.lock().open.first().map(|(_, call)| call.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        // Whole between any two statements, so a thread that panicked has not spoilt it.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Ends its call, also when the work panics.
struct Open<'a> {
    meter: &'a Meter,
    number: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut calls = self.meter.lock();
        calls.open.retain(|(number, _)| *number != self.number);
        calls.answered += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_open_call_is_named_and_every_end_counts() {
        let meter = Meter::default();
        let call = |at| Call { verb: "read", bytes: 3 << 20, at, file: "a.safetensors".into() };
        meter.measure(call(0), || {
            meter.measure(call(7), || assert_eq!(meter.oldest().unwrap().at, 0));
            assert_eq!((meter.answered(), meter.oldest().unwrap().at), (1, 0));
        });
        assert!(std::panic::catch_unwind(|| meter.measure(call(9), || panic!("in a call"))).is_err());
        assert_eq!((meter.answered(), meter.oldest().is_none()), (3, true));
        assert_eq!(call(4096).to_string(), "read of 3.0 MiB at byte 4096 of a.safetensors");
    }
}
