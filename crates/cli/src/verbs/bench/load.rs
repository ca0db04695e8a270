//! Load: requests that follow each other, so many at a time, or that come at random times whatever becomes of earlier ones.
//! Knows no protocol.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ounce_engine::sampler::Dice;

/// Most requests that are open at a time where they come at random.
const MAX_OPEN: usize = 4096;
const STACK_BYTES: usize = 256 << 10;

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// So many at a time, each followed by the next.
    Closed { concurrency: usize },
    /// So many a second, as a Poisson process: the times between them are exponentially distributed.
    Open { rate: f64 },
}

/// What came of all requests.
pub struct Loaded<T> {
    /// In the order of the requests.
    pub outcomes: Vec<T>,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// The most that a request was sent later than it should have been: how far this machine kept up with the rate.
    pub late_s: f64,
}

/// Runs `requests` requests, each on a thread of its own.
pub fn run<T: Send>(load: Load, requests: usize, seed: u64, ask: impl Fn(usize) -> T + Sync) -> Loaded<T> {
    let outcomes: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::with_capacity(requests));
    let one = |i: usize| {
        let outcome = ask(i);
        outcomes.lock().expect("no thread panics while it pushes").push((i, outcome));
    };
    let began = Instant::now();
    let mut late_s = 0.0;
    match load {
        Load::Closed { concurrency } => {
            let next = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for _ in 0..concurrency.min(requests) {
                    spawn(scope, || {
                        loop {
                            let i = next.fetch_add(1, Ordering::Relaxed);
                            if i >= requests {
                                return;
                            }
                            one(i);
                        }
                    });
                }
            });
        }
        Load::Open { rate } => {
            let (one, open) = (&one, &AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for (i, at) in arrivals(rate, requests, seed).into_iter().enumerate() {
                    let due = began + Duration::from_secs_f64(at);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    // Beyond what this machine can hold open, the schedule slips, and `late_s` tells.
                    while open.load(Ordering::Relaxed) >= MAX_OPEN {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    late_s = f64::max(late_s, due.elapsed().as_secs_f64());
                    open.fetch_add(1, Ordering::Relaxed);
                    spawn(scope, move || {
                        one(i);
                        open.fetch_sub(1, Ordering::Relaxed);
                    });
                }
            });
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut outcomes = outcomes.into_inner().expect("no thread panics while it pushes");
    outcomes.sort_by_key(|(i, _)| *i);
    Loaded { outcomes: outcomes.into_iter().map(|(_, outcome)| outcome).collect(), seconds, late_s }
}

/// A thread that waits most of its time needs little stack.
fn spawn<'scope>(scope: &'scope std::thread::Scope<'scope, '_>, work: impl FnOnce() + Send + 'scope) {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    thread.spawn_scoped(scope, work).expect("the system has room for a thread of each open request");
}

/// Seconds from the start at which requests come, the first at once.
fn arrivals(rate: f64, requests: usize, seed: u64) -> Vec<f64> {
    let mut dice = Dice::new(seed);
    let mut at = 0.0;
    let next = |_| {
        let now = at;
        at -= (1.0 - dice.fraction()).ln() / rate;
        now
    };
    (0..requests).map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() {
        let times = arrivals(50.0, 20_000, 7);
        assert_eq!((times[0], &times), (0.0, &arrivals(50.0, 20_000, 7)));
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        // Of an exponential distribution both are 1 / rate.
        assert!((mean * 50.0 - 1.0).abs() < 0.03 && (deviation * 50.0 - 1.0).abs() < 0.05, "{mean} {deviation}");
    }

    #[test]
    fn a_closed_loop_holds_its_number_and_an_open_one_does_not_wait() {
        let (open, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        // The first answers come once so many are open at a time, however late a thread begins.
        let ask = |i: usize, together: usize| {
            most.fetch_max(open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            let began = Instant::now();
            while most.load(Ordering::Relaxed) < together && began.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(20));
            open.fetch_sub(1, Ordering::Relaxed);
            i
        };
        let loaded = run(Load::Closed { concurrency: 3 }, 9, 0, |i| ask(i, 3));
        assert_eq!(loaded.outcomes, (0..9).collect::<Vec<_>>());
        assert_eq!(most.swap(0, Ordering::Relaxed), 3);
        assert!(loaded.seconds >= 0.06, "{}", loaded.seconds);
        // Though nothing is answered before, ten are asked.
        let loaded = run(Load::Open { rate: 1000.0 }, 40, 1, |i| ask(i, 10));
        assert_eq!(loaded.outcomes.len(), 40);
        assert!(most.load(Ordering::Relaxed) >= 10, "{most:?}");
    }
}
