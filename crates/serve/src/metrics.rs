//! What is counted while serving, in Prometheus' text format under vLLM's names, so that dashboards made for it work. Holds
//! numbers only: nothing of what people write.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use ounce_engine::{Engine, Speculated};

/// Upper bounds of the buckets, seconds.
const FIRST_TOKEN_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const NEXT_TOKEN_S: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
];
const REQUEST_S: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
const TOKENS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0];

/// How a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Stop,
    Length,
    /// The client went away, or the server ended.
    Abort,
}

pub struct Metrics {
    /// `model_name="…",engine="0"`.
    labels: String,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    running: usize,
    waiting: usize,
    cache_usage: f64,
    preemptions: u64,
    speculated: Speculated,
    prompt_tokens: u64,
    generation_tokens: u64,
    cached_tokens: u64,
    /// Stop, length, abort.
    ended: [u64; 3],
    queue: Histogram,
    first_token: Histogram,
    next_token: Histogram,
    request: Histogram,
    request_prompt: Histogram,
    request_generation: Histogram,
    /// Lines of the audit log that could not be written.
    audit_failures: u64,
    /// By handler, method and status.
    http: BTreeMap<(&'static str, String, u16), u64>,
}

#[derive(Default)]
struct Histogram {
    /// Observations in each bucket, without those of lower ones.
    buckets: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    fn observe(&mut self, bounds: &[f64], value: f64) {
        self.buckets.resize(bounds.len(), 0);
        if let Some(at) = bounds.iter().position(|&bound| value <= bound) {
            self.buckets[at] += 1;
        }
        self.count += 1;
        self.sum += value;
    }
}

impl Metrics {
    pub fn new(model: &str) -> Metrics {
        let model = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        Metrics { labels: format!("model_name=\"{model}\",engine=\"0\""), counts: Mutex::default() }
    }

    /// Counting never fails halfway: what a panicked thread left is whole.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How full the engine is.
    pub fn load(&self, engine: &Engine) {
        let mut counts = self.counts();
        (counts.running, counts.waiting) = engine.load();
        (counts.cache_usage, counts.preemptions) = (engine.cache_usage(), engine.preemptions());
        counts.speculated = engine.speculated();
    }

    pub fn prompt(&self, tokens: usize) {
        let mut counts = self.counts();
        counts.prompt_tokens += tokens as u64;
        counts.request_prompt.observe(TOKENS, tokens as f64);
    }

    pub fn started(&self, waited: Duration, cached: usize) {
        let mut counts = self.counts();
        counts.queue.observe(REQUEST_S, waited.as_secs_f64());
        counts.cached_tokens += cached as u64;
    }

    pub fn first_token(&self, after: Duration) {
        let mut counts = self.counts();
        counts.generation_tokens += 1;
        counts.first_token.observe(FIRST_TOKEN_S, after.as_secs_f64());
    }

    pub fn next_token(&self, after: Duration) {
        let mut counts = self.counts();
        counts.generation_tokens += 1;
        counts.next_token.observe(NEXT_TOKEN_S, after.as_secs_f64());
    }

    pub fn ended(&self, ended: Ended, after: Duration, tokens: usize) {
        let mut counts = self.counts();
        counts.ended[ended as usize] += 1;
        counts.request.observe(REQUEST_S, after.as_secs_f64());
        counts.request_generation.observe(TOKENS, tokens as f64);
    }

    pub fn audit_failed(&self) {
        self.counts().audit_failures += 1;
    }

    pub fn http(&self, handler: &'static str, method: &str, status: u16) {
        *self.counts().http.entry((handler, method.to_owned(), status)).or_default() += 1;
    }

    /// Everything, as Prometheus reads it.
    pub fn text(&self) -> String {
        let (counts, labels) = (self.counts(), &self.labels);
        let mut out = String::new();
        let mut single = |kind: &str, name: &str, help: &str, value: f64| {
            let _ =
                writeln!(out, "# HELP vllm:{name} {help}\n# TYPE vllm:{name} {kind}\nvllm:{name}{{{labels}}} {value}");
        };
        single("gauge", "num_requests_running", "Sequences that run.", counts.running as f64);
        single("gauge", "num_requests_waiting", "Sequences that wait to run.", counts.waiting as f64);
        single(
            "gauge",
            "kv_cache_usage_perc",
            "Share of the cache's blocks that running sequences have, 0 to 1.",
            counts.cache_usage,
        );
        single(
            "counter",
            "num_preemptions_total",
            "Times a sequence gave its blocks to an older one and waited again.",
            counts.preemptions as f64,
        );
        single(
            "counter",
            "prefix_cache_queries_total",
            "Prompt tokens looked up in the cache.",
            counts.prompt_tokens as f64,
        );
        single("counter", "prefix_cache_hits_total", "Prompt tokens found in the cache.", counts.cached_tokens as f64);
        single("counter", "prompt_tokens_total", "Prompt tokens received.", counts.prompt_tokens as f64);
        single("counter", "generation_tokens_total", "Tokens generated.", counts.generation_tokens as f64);
        let Speculated { drafts, drafted, accepted } = counts.speculated;
        let mut guesses = |name: &str, help: &str, n: u64| single("counter", name, help, n as f64);
        guesses("spec_decode_num_drafts_total", "Times tokens of a sequence were guessed ahead.", drafts);
        guesses("spec_decode_num_draft_tokens_total", "Tokens guessed.", drafted);
        guesses("spec_decode_num_accepted_tokens_total", "Guessed tokens that the model chose, too.", accepted);
        let name = "vllm:request_success_total";
        let _ = writeln!(out, "# HELP {name} Sequences that ended, by how.\n# TYPE {name} counter");
        for (reason, n) in ["stop", "length", "abort"].iter().zip(counts.ended) {
            let _ = writeln!(out, "{name}{{{labels},finished_reason=\"{reason}\"}} {n}");
        }
        for (name, help, bounds, histogram) in [
            ("request_queue_time_seconds", "Time until it ran.", REQUEST_S, &counts.queue),
            ("time_to_first_token_seconds", "Time until the first token.", FIRST_TOKEN_S, &counts.first_token),
            ("inter_token_latency_seconds", "Time between tokens.", NEXT_TOKEN_S, &counts.next_token),
            ("e2e_request_latency_seconds", "Time until the end.", REQUEST_S, &counts.request),
            ("request_prompt_tokens", "Tokens of a prompt.", TOKENS, &counts.request_prompt),
            ("request_generation_tokens", "Tokens of an answer.", TOKENS, &counts.request_generation),
        ] {
            let _ = writeln!(out, "# HELP vllm:{name} {help}\n# TYPE vllm:{name} histogram");
            let mut below = 0;
            for (at, bound) in bounds.iter().enumerate() {
                below += histogram.buckets.get(at).copied().unwrap_or(0);
                let _ = writeln!(out, "vllm:{name}_bucket{{{labels},le=\"{bound:?}\"}} {below}");
            }
            let (count, sum) = (histogram.count, histogram.sum);
            let _ = writeln!(out, "vllm:{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
            let _ = writeln!(out, "vllm:{name}_sum{{{labels}}} {sum}\nvllm:{name}_count{{{labels}}} {count}");
        }
        let name = "ounce:audit_failures_total";
        let help = "Lines of the audit log that could not be written.";
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", counts.audit_failures);
        let name = "http_requests_total";
        let _ = writeln!(out, "# HELP {name} Answers, by path, method and status.\n# TYPE {name} counter");
        for ((handler, method, status), n) in &counts.http {
            let _ = writeln!(out, "{name}{{handler=\"{handler}\",method=\"{method}\",status=\"{status}\"}} {n}");
        }
        out
    }
}
