//! What every handler shares: the model's text side, its limits, the desk before the engine. It knows no endpoint.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use ounce_engine::{Embedding, Engine, Pooling, Refusal, Request};
use ounce_formats::template::ChatTemplate;
use ounce_formats::tokenizer::Tokenizer;
use ounce_grammar::{Form, Grammar, GrammarError, Grammars};
use ounce_spec::model::GenerationConfig;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::audit::Audit;
use crate::calls::{Dialect, describe};
use crate::desk::{Desk, Ticket};
use crate::energy::{self, Energy};
use crate::error::ApiError;
use crate::facts::Facts;
use crate::fields::Fields;
use crate::guard::{self, Keys};
use crate::limits::Limits;
use crate::metrics::{Metrics, MetricsCompat};
use crate::models::{AdapterFault, AdapterLimits, Models};
use crate::texts::Texts;

/// Threads that compile forms, beside those of the texts.
pub const FORM_THREADS: usize = 2;

/// A model as clients meet it.
pub struct Served {
    /// What requests call it.
    pub name: String,
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
    /// What its makers recommend for what a request leaves open.
    pub generation: GenerationConfig,
}

/// How it is served.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Sequences that may wait besides those that run; beyond them requests are answered with 429.
    pub queue: usize,
    /// Keys of which a request must bring one; without any, none is asked for.
    pub keys: Vec<String>,
    /// Answer only to names of this machine itself, so that a web page cannot reach it under a name of its own.
    pub local_names_only: bool,
    /// Let each key find in the cache only what was asked with itself: from how fast an answer comes nobody learns what others ask.
    pub isolate_cache: bool,
    /// Keys of those who may load and unload adapters; without any, nobody may.
    pub admin_keys: Vec<String>,
    pub adapters: AdapterLimits,
    /// How hidden states become an embedding.
    pub pooling: Pooling,
    pub limits: Limits,
    /// Where a line is written for each request: who asked, what for, how many tokens; never what was said.
    pub audit: Option<Arc<File>>,
    pub metrics_compat: MetricsCompat,
}

pub struct App {
    pub served: Served,
    /// The base and the adapters beside it.
    pub models: Models,
    pub facts: Facts,
    pub context: usize,
    pub vocab: usize,
    /// Elements of an embedding.
    pub hidden: usize,
    pub pooling: Pooling,
    pub desk: Desk,
    pub keys: Keys,
    pub admin_keys: Keys,
    pub local_names_only: bool,
    pub limits: Limits,
    /// Bytes of large bodies that may still come.
    pub bodies: Semaphore,
    pub audit: Option<Audit>,
    pub isolate_cache: bool,
    pub metrics: Arc<Metrics>,
    pub energy: Energy,
    /// When it began to serve, seconds since 1970.
    pub created: u64,
    pub texts: Texts,
    requests: AtomicU64,
    /// Made when the first request asks for a form.
    grammars: OnceLock<Grammars>,
    /// Whether the chat template writes calls, once that was asked for.
    writes_calls: OnceLock<bool>,
    /// Forms that may be compiled at a time.
    compiling: Arc<Semaphore>,
}

impl App {
    /// Starts the engine's thread.
    ///
    /// # Errors
    /// Where the system has no thread for it.
    pub fn start(engine: Engine, served: Served, options: &Options) -> std::io::Result<Arc<App>> {
        let metrics =
            Arc::new(Metrics::new(&served.name, engine.settings(), options.adapters.count, options.metrics_compat));
        let (context, vocab) = (engine.settings().context, engine.model().config.vocab_size);
        let hidden = engine.model().config.hidden_size;
        let models = Models::new(&served.name, &engine, options.adapters.clone());
        Ok(Arc::new(App {
            models,
            facts: Facts::of(&engine),
            desk: Desk::open(engine, options.queue, options.limits.answer, metrics.clone())?,
            served,
            context,
            vocab,
            hidden,
            pooling: options.pooling,
            keys: Keys::new(&options.keys),
            admin_keys: Keys::new(&options.admin_keys),
            local_names_only: options.local_names_only,
            limits: options.limits,
            bodies: Semaphore::new(options.limits.bodies_bytes.min(Semaphore::MAX_PERMITS)),
            audit: options.audit.clone().map(|file| Audit::new(file, metrics.clone())),
            isolate_cache: options.isolate_cache,
            metrics,
            energy: Energy::open(Path::new(energy::ZONES)),
            created: now(),
            texts: Texts::new(),
            requests: AtomicU64::new(0),
            grammars: OnceLock::new(),
            writes_calls: OnceLock::new(),
            compiling: Arc::new(Semaphore::new(FORM_THREADS)),
        }))
    }

    /// How the model calls functions.
    pub fn dialect(&self) -> Dialect {
        Dialect::of(self.served.template.source(), &self.served.tokenizer)
    }

    /// Whether the chat template writes such calls, and their results.
    pub fn writes_calls(&self) -> bool {
        *self.writes_calls.get_or_init(|| describe::writes_calls(&self.served.template, self.dialect()))
    }

    /// The model that a request names, if it is here; one that names none asks for the base.
    pub fn check_model(&self, body: &Value) -> Result<Arc<str>, ApiError> {
        let asked = body.get("model").and_then(Value::as_str);
        self.models.find(asked).ok_or_else(|| ApiError::model(asked.unwrap_or_default(), &self.served.name))
    }

    /// Queues the sequences of a request to the model `name`, all or none: `n` to each prompt, one prompt after the other. Their
    /// prompts have been checked.
    ///
    /// # Errors
    /// 404 where the model has been unloaded meanwhile, 429 without enough places, 503 once the server is about to end.
    pub fn submit(&self, name: &str, n: usize, mut requests: Vec<Request>) -> Result<Ticket, ApiError> {
        requests.iter_mut().for_each(|request| request.salt = guard::salt());
        self.models.submit(&self.desk, name, n, requests)
    }

    /// The vectors of inputs that have been checked, from the model `name`.
    ///
    /// # Errors
    /// As [`App::submit`], 503 where it takes longer than an answer may, and 500 where the model cannot be run.
    pub async fn embed(&self, name: &str, inputs: Vec<Embedding>) -> Result<Vec<Vec<f32>>, ApiError> {
        let vectors = self.models.embed(&self.desk, name, inputs)?;
        match tokio::time::timeout(self.limits.answer, vectors).await {
            Err(_) => Err(ApiError::timeout()),
            Ok(Err(_)) => Err(ApiError::stopping("the server ended before the answer was complete")),
            Ok(Ok(None)) => Err(ApiError::internal("the model's weights could not be read")),
            Ok(Ok(Some(vectors))) => Ok(vectors),
        }
    }

    /// Reads the adapter in `dir` and puts it beside the base under `name`; without one, on the base itself. Where `replace`,
    /// one of that name gives way: who asks from then on gets the new one, sequences that run keep the old one. Blocks.
    ///
    /// # Errors
    /// Why it is not there now; a name that was there keeps what it had.
    pub fn load_adapter(&self, name: Option<&str>, dir: &Path, replace: bool) -> Result<(), AdapterFault> {
        self.models.load(&self.desk, name, dir, replace)
    }

    /// Takes an adapter away: nobody can ask for it any more, and its memory is free once its last sequence has ended. Blocks.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn unload_adapter(&self, name: &str) -> Result<(), AdapterFault> {
        self.models.unload(&self.desk, name)
    }

    /// Whether the engine can run a prompt that the field `param` gave.
    pub fn check_prompt(&self, param: &str, prompt: &[u32]) -> Result<(), ApiError> {
        Refusal::check(prompt, self.context, self.vocab).map_err(|refusal| match refusal {
            Refusal::TooLong { .. } => ApiError::too_long(param, refusal.to_string()),
            _ => ApiError::field(param, refusal.to_string()),
        })
    }

    /// Compiles a form that the field `param` asked for, on a thread of its own. Few at a time: one may take two seconds, and the
    /// others' prompts need threads, too.
    ///
    /// # Errors
    /// 400 for a form that is wrong, too large or too complex.
    pub async fn grammar(self: &Arc<App>, param: &str, form: Form) -> Result<Grammar, ApiError> {
        let app = self.clone();
        // It is never closed.
        let turn = self.compiling.clone().acquire_owned().await;
        let turn = turn.map_err(|_| ApiError::internal("forms are compiled no more"))?;
        let compiled = tokio::task::spawn_blocking(move || {
            // The thread's, not the request's: a client that leaves ends no compilation.
            let _turn = turn;
            app.grammars()?.compile(&form)
        })
        .await;
        compiled
            .map_err(|_| ApiError::internal("the answer's form could not be compiled"))?
            .map_err(|e| ApiError::field(param, format!("{param} cannot be used: {e}")))
    }

    fn grammars(&self) -> Result<&Grammars, GrammarError> {
        if self.grammars.get().is_none() {
            // Whoever comes second at the same time has worked for nothing, once.
            let _ = self.grammars.set(Grammars::new(&self.served.tokenizer)?);
        }
        Ok(self.grammars.get().expect("it has just been set"))
    }

    /// An id for a response.
    pub fn id(&self, prefix: &str) -> String {
        format!("{prefix}-{:016x}{:04x}", random(), self.requests.fetch_add(1, Ordering::Relaxed) & 0xffff)
    }
}

/// The type of `model`, for every body that has one.
pub fn model_field(fields: &mut Fields) {
    fields.text("model");
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs())
}

/// A number that nobody can foresee without having seen one; for ids and seeds, not for secrets.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
