//! Ctrl-C and SIGTERM: the first asks a run to save and stop, the second ends the process at once. And the signal of a
//! file size limit, which must not end it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

use crate::codes::{self, Code};

/// A write beyond the limit on file sizes (`ulimit -f`) then fails like one on a full disk, with an error that says what to
/// do; as the system has it, it would end the process without a word.
pub fn let_large_writes_fail() {
    // Nobody looks at the flag: that the signal is handled is enough.
    let _ = flag::register(SIGXFSZ, Arc::default());
}

/// Flags that signals set.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// Either signal came.
    pub stop: Arc<AtomicBool>,
    terminated: Arc<AtomicBool>,
}

impl Signals {
    /// Starts listening. Where the system does not allow it, signals end the process as they always do.
    pub fn listen() -> Signals {
        let signals = Signals::default();
        for (signal, exit) in [(SIGINT, 130), (SIGTERM, 75)] {
            // In this order: the shutdown looks at the flag before this very signal has set it.
            let _ = flag::register_conditional_shutdown(signal, exit, signals.stop.clone());
            let _ = flag::register(signal, signals.stop.clone());
        }
        let _ = flag::register(SIGTERM, signals.terminated.clone());
        signals
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// What to end with after a signal.
    pub fn code(&self) -> &'static Code {
        if self.terminated.load(Ordering::Relaxed) { &codes::TERMINATED } else { &codes::INTERRUPTED }
    }
}
