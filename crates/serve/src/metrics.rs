//! What is counted while serving, in Prometheus' text format: under this program's prefix, and under vLLM's, so that dashboards made
//! for it work. Holds numbers only: nothing of what people write.

mod adapters;
mod histogram;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ounce_engine::{BLOCK, Engine, Settings, Speculated};

use adapters::Adapters;
use histogram::Histogram;

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
/// Of one step: most are decoding, a token for each sequence.
const STEP_TOKENS: &[f64] = &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
const ANSWERS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// Whose names the series have besides their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetricsCompat {
    #[default]
    Vllm,
    None,
}

/// How a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Stop,
    Length,
    /// The client went away, or the server ended.
    Abort,
}

/// A sequence that has ended.
pub struct Sequence<'a> {
    pub ended: Ended,
    /// The name of the adapter it asked for, beside the base.
    pub adapter: Option<&'a Arc<str>>,
    pub received: Instant,
    /// When it began to run, and when its first and its last token came.
    pub started: Option<Instant>,
    pub first: Option<Instant>,
    pub last: Instant,
    pub tokens: usize,
    /// Tokens that it was allowed.
    pub max_tokens: usize,
}

pub struct Metrics {
    /// `model_name="…",engine="0"`.
    labels: String,
    /// Blocks of the cache, and whether prompts may find their beginnings in it.
    cache: (usize, bool),
    /// Adapters that may be loaded at a time.
    max_adapters: usize,
    compat: MetricsCompat,
    counts: Mutex<Counts>,
}

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
    prefill: Histogram,
    decode: Histogram,
    inference: Histogram,
    request_prompt: Histogram,
    request_generation: Histogram,
    request_max_generation: Histogram,
    params_n: Histogram,
    params_max_tokens: Histogram,
    step: Histogram,
    adapters: Adapters,
    /// Requests that found the queue full.
    rejections: u64,
    /// Lines of the audit log that could not be written.
    audit_failures: u64,
    /// By handler, method and status.
    http: BTreeMap<(&'static str, String, u16), u64>,
}

impl Metrics {
    pub fn new(model: &str, settings: &Settings, max_adapters: usize, compat: MetricsCompat) -> Metrics {
        Metrics {
            labels: format!("model_name=\"{}\",engine=\"0\"", escaped(model)),
            cache: (settings.blocks(), settings.prefix_cache),
            max_adapters,
            compat,
            counts: Mutex::new(Counts::new()),
        }
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
        counts.request_prompt.observe(tokens as f64);
    }

    /// A sequence waits, or a request with inputs to be embedded; of which adapter, where of one.
    pub fn waits(&self, adapter: Option<&Arc<str>>) {
        adapter.into_iter().for_each(|name| self.counts().adapters.wait(name));
    }

    pub fn started(&self, adapter: Option<&Arc<str>>, waited: Duration, cached: usize) {
        let mut counts = self.counts();
        counts.queue.observe(waited.as_secs_f64());
        counts.cached_tokens += cached as u64;
        adapter.into_iter().for_each(|name| counts.adapters.run(name));
    }

    /// The turn of a request with inputs to be embedded has come.
    pub fn embeds(&self, adapter: Option<&Arc<str>>) {
        adapter.into_iter().for_each(|name| self.counts().adapters.run(name));
    }

    /// Such a request has ended, which ran or still waited.
    pub fn embedded(&self, adapter: Option<&Arc<str>>, ran: bool) {
        adapter.into_iter().for_each(|name| self.counts().adapters.end(name, ran));
    }

    /// A step has worked through so many tokens: those that it gave, and the prompts that they are the first for.
    pub fn step(&self, tokens: usize) {
        self.counts().step.observe(tokens as f64);
    }

    pub fn first_token(&self, after: Duration) {
        let mut counts = self.counts();
        counts.generation_tokens += 1;
        counts.first_token.observe(after.as_secs_f64());
    }

    pub fn next_token(&self, after: Duration) {
        let mut counts = self.counts();
        counts.generation_tokens += 1;
        counts.next_token.observe(after.as_secs_f64());
    }

    pub fn ended(&self, sequence: &Sequence) {
        let (received, last) = (sequence.received, sequence.last);
        let mut counts = self.counts();
        counts.ended[sequence.ended as usize] += 1;
        counts.request.observe(received.elapsed().as_secs_f64());
        counts.request_generation.observe(sequence.tokens as f64);
        counts.params_max_tokens.observe(sequence.max_tokens as f64);
        if let (Some(started), Some(first)) = (sequence.started, sequence.first) {
            counts.prefill.observe((first - started).as_secs_f64());
            counts.decode.observe((last - first).as_secs_f64());
            counts.inference.observe((last - started).as_secs_f64());
        }
        sequence.adapter.into_iter().for_each(|name| counts.adapters.end(name, sequence.started.is_some()));
    }

    /// All `n` answers to a prompt have ended; the longest had so many tokens.
    pub fn answered(&self, n: usize, longest: usize) {
        let mut counts = self.counts();
        counts.params_n.observe(n as f64);
        counts.request_max_generation.observe(longest as f64);
    }

    /// A request found the queue full.
    pub fn rejected(&self) {
        self.counts().rejections += 1;
    }

    pub fn audit_failed(&self) {
        self.counts().audit_failures += 1;
    }

    pub fn http(&self, handler: &'static str, method: &str, status: u16) {
        *self.counts().http.entry((handler, method.to_owned(), status)).or_default() += 1;
    }

    /// Everything, as Prometheus reads it.
    pub fn text(&self) -> String {
        let counts = self.counts();
        let mut out = String::new();
        self.series(&counts, "ounce:", &mut out);
        if self.compat == MetricsCompat::Vllm {
            self.series(&counts, "vllm:", &mut out);
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

    /// What vLLM has names for, with `prefix` before them.
    fn series(&self, counts: &Counts, prefix: &str, out: &mut String) {
        let labels = &self.labels;
        let mut single = |kind: &str, name: &str, help: &str, value: f64| {
            let name = format!("{prefix}{name}");
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{labels}}} {value}");
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
        let name = format!("{prefix}request_success_total");
        let _ = writeln!(out, "# HELP {name} Sequences that ended, by how.\n# TYPE {name} counter");
        for (reason, n) in ["stop", "length", "abort"].iter().zip(counts.ended) {
            let _ = writeln!(out, "{name}{{{labels},finished_reason=\"{reason}\"}} {n}");
        }
        let name = format!("{prefix}admission_rejections_total");
        let _ = writeln!(out, "# HELP {name} Requests that were refused, by why.\n# TYPE {name} counter");
        let _ = writeln!(out, "{name}{{{labels},reason=\"max_num_queued_reqs\"}} {}", counts.rejections);
        for (name, help, histogram) in [
            ("request_queue_time_seconds", "Time until it ran.", &counts.queue),
            ("request_prefill_time_seconds", "Time from there to the first token.", &counts.prefill),
            ("request_decode_time_seconds", "Time from the first token to the last.", &counts.decode),
            ("request_inference_time_seconds", "Time from where it ran to the last token.", &counts.inference),
            ("time_to_first_token_seconds", "Time until the first token.", &counts.first_token),
            ("inter_token_latency_seconds", "Time between tokens.", &counts.next_token),
            ("e2e_request_latency_seconds", "Time until the end.", &counts.request),
            ("request_prompt_tokens", "Tokens of a prompt.", &counts.request_prompt),
            ("request_generation_tokens", "Tokens of an answer.", &counts.request_generation),
            (
                "request_max_num_generation_tokens",
                "Tokens of the longest answer to a prompt.",
                &counts.request_max_generation,
            ),
            ("request_params_n", "Answers asked for to a prompt.", &counts.params_n),
            ("request_params_max_tokens", "Tokens that an answer was allowed.", &counts.params_max_tokens),
            ("iteration_tokens_total", "Tokens of a step.", &counts.step),
        ] {
            histogram.write(out, &format!("{prefix}{name}"), help, labels);
        }
        counts.adapters.write(out, prefix, self.max_adapters);
        let (name, (blocks, found)) = (format!("{prefix}cache_config_info"), self.cache);
        let _ = writeln!(
            out,
            "# HELP {name} The cache of keys and values: tokens of a block, blocks.\n# TYPE {name} gauge\n\
             {name}{{{labels},block_size=\"{BLOCK}\",num_gpu_blocks=\"{blocks}\",enable_prefix_caching=\"{found}\"}} 1"
        );
    }
}

impl Counts {
    fn new() -> Counts {
        let seconds = || Histogram::new(REQUEST_S);
        let tokens = || Histogram::new(TOKENS);
        Counts {
            running: 0,
            waiting: 0,
            cache_usage: 0.0,
            preemptions: 0,
            speculated: Speculated::default(),
            prompt_tokens: 0,
            generation_tokens: 0,
            cached_tokens: 0,
            ended: [0; 3],
            queue: seconds(),
            first_token: Histogram::new(FIRST_TOKEN_S),
            next_token: Histogram::new(NEXT_TOKEN_S),
            request: seconds(),
            prefill: seconds(),
            decode: seconds(),
            inference: seconds(),
            request_prompt: tokens(),
            request_generation: tokens(),
            request_max_generation: tokens(),
            params_n: Histogram::new(ANSWERS),
            params_max_tokens: tokens(),
            step: Histogram::new(STEP_TOKENS),
            adapters: Adapters::default(),
            rejections: 0,
            audit_failures: 0,
            http: BTreeMap::new(),
        }
    }
}

/// A name as the value of a label.
pub fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
