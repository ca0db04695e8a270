//! The audit log: a line of JSON for each request once it is over, with who asked (the beginning of the key's SHA-256), for
//! which endpoint, how it ended and how many tokens it took. Nothing of what people write is ever in it.
//!
//! A request is over when its answer is out and its sequences have left the engine, whichever comes last; whoever lets go of
//! its `Tally` last writes the line.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::response::Response;
use ounce_formats::template::strftime;
use serde_json::json;

use crate::held::{Held, Keep};
use crate::metrics::Metrics;

/// Bytes of a digest that tell keys apart.
const SHOWN_BYTES: usize = 6;

tokio::task_local! {
    /// The request that this task answers.
    static TALLY: Arc<Tally>;
}

/// Where the lines go.
#[derive(Clone)]
pub struct Audit {
    file: Arc<File>,
    metrics: Arc<Metrics>,
}

/// What is counted of one request.
pub struct Tally {
    audit: Audit,
    at: SystemTime,
    began: Instant,
    method: &'static str,
    endpoint: &'static str,
    key: Option<String>,
    status: AtomicU16,
    complete: AtomicBool,
    prompt: AtomicUsize,
    cached: AtomicUsize,
    completion: AtomicUsize,
}

impl Audit {
    pub fn new(file: Arc<File>, metrics: Arc<Metrics>) -> Audit {
        Audit { file, metrics }
    }

    /// Begins to count a request of the key with this digest.
    pub fn begin(&self, method: &'static str, endpoint: &'static str, key: Option<&[u8; 32]>) -> Arc<Tally> {
        let shown = |digest: &[u8; 32]| digest[..SHOWN_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        Arc::new(Tally {
            audit: self.clone(),
            at: SystemTime::now(),
            began: Instant::now(),
            method,
            endpoint,
            key: key.map(shown),
            status: AtomicU16::new(0),
            complete: AtomicBool::new(false),
            prompt: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
            completion: AtomicUsize::new(0),
        })
    }
}

/// Runs what answers a request; what it gives to the engine meanwhile is counted.
pub async fn counted(tally: Option<Arc<Tally>>, answer: impl Future<Output = Response>) -> Response {
    let Some(tally) = tally else { return answer.await };
    let response = TALLY.scope(tally.clone(), answer).await;
    tally.status.store(response.status().as_u16(), Ordering::Relaxed);
    response.map(|body| Body::new(Held::new(body, Out(tally))))
}

/// The request that this task answers, where it is counted.
pub fn current() -> Option<Arc<Tally>> {
    TALLY.try_with(Arc::clone).ok()
}

impl Tally {
    pub fn prompt(&self, tokens: usize) {
        self.prompt.fetch_add(tokens, Ordering::Relaxed);
    }

    pub fn cached(&self, tokens: usize) {
        self.cached.fetch_add(tokens, Ordering::Relaxed);
    }

    /// One token more of an answer.
    pub fn token(&self) {
        self.completion.fetch_add(1, Ordering::Relaxed);
    }
}

/// An answer that is on its way out.
struct Out(Arc<Tally>);

impl Keep for Out {
    fn complete(&mut self) {
        self.0.complete.store(true, Ordering::Relaxed);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let count = |number: &AtomicUsize| number.load(Ordering::Relaxed);
        let line = json!({
            "time": time(self.at),
            "key": self.key,
            "method": self.method,
            "endpoint": self.endpoint,
            "status": self.status.load(Ordering::Relaxed),
            // false: the client left first.
            "complete": self.complete.load(Ordering::Relaxed),
            "prompt_tokens": count(&self.prompt),
            "cached_tokens": count(&self.cached),
            "completion_tokens": count(&self.completion),
            "seconds": (self.began.elapsed().as_secs_f64() * 1e3).round() / 1e3,
        });
        // One write for a line: a file opened to append keeps the lines of all threads whole.
        if (&*self.audit.file).write_all(format!("{line}\n").as_bytes()).is_err() {
            self.audit.metrics.audit_failed();
        }
    }
}

/// `2026-11-25T15:44:05.123Z`.
fn time(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    format!("{}.{:03}Z", strftime("%Y-%m-%dT%H:%M:%S", since.as_secs() as i64), since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_rfc_3339() {
        assert_eq!(time(UNIX_EPOCH + Duration::from_millis(1_795_621_445_007)), "2026-11-25T15:44:05.007Z");
    }
}
