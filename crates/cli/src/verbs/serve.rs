//! `ounce serve`: a model, its keys and an address to a server, until a signal ends it.

mod adapters;
mod watch;

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ounce_engine::Asks;
use ounce_serve::{AdapterLimits, App, Limits, Options, ServeError, Served};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use self::watch::Watch;
use super::Context;
use crate::codes::{self, Exit};
use crate::error::{CliError, Result};
use crate::flags::serve::{Args, MetricsCompat, Pooling};
use crate::model;
use crate::output::units;
use crate::signals::Signals;
use crate::talk::{Speaker, Uses};

pub fn run(context: &Context, args: Args) -> Result<Exit> {
    let keys = args.api_key_file.as_deref().map_or(Ok(Vec::new()), read_keys)?;
    if !args.host.is_loopback() && keys.is_empty() && !args.insecure {
        return Err(CliError::new(&codes::OPEN, format!("{} is beyond this machine, and there is no key", args.host))
            .help("give keys: --api-key-file FILE, one key a line")
            .help("or let everyone who reaches the address use the model: --insecure"));
    }
    let admin_keys = args.admin_key_file.as_deref().map_or(Ok(Vec::new()), read_keys)?;
    let adapters = adapters::parse(&args.adapter)?;
    // Before the model, whose loading takes a while: what cannot be written is known now.
    let audit = args.audit_log.as_deref().map(open_audit).transpose()?;
    let connections = connections(context, args.max_connections as usize);
    let signals = Signals::listen();
    let uses =
        Uses { answers: Some(Asks { prompt_logprobs: true, embeddings: true, forms: true }), likelihoods: false };
    let speaker = Speaker::open_shared(context, &args.model, None, args.parallel.into(), args.cache_tokens, uses)?;
    let name = args.name.unwrap_or_else(|| name_of(&args.model.model));
    let (settings, cache_bytes) = (*speaker.engine.settings(), speaker.engine.cache_bytes());
    let options = Options {
        queue: args.queue.into(),
        // With a key, a page that reaches the server has nothing to say to it, and a proxy may give it any name.
        local_names_only: args.host.is_loopback() && keys.is_empty(),
        keys,
        isolate_cache: args.isolate_cache,
        admin_keys,
        pooling: match args.pooling {
            Pooling::Last => ounce_engine::Pooling::Last,
            Pooling::Mean => ounce_engine::Pooling::Mean,
            Pooling::Cls => ounce_engine::Pooling::Cls,
        },
        adapters: AdapterLimits {
            count: args.max_adapters.into(),
            // Adapters get what the model leaves.
            bytes: args.adapter_mem.min(speaker.left_bytes),
            roots: args.adapter_root.iter().map(|root| std::path::absolute(root).unwrap_or_default()).collect(),
        },
        limits: Limits { connections, ..Limits::default() },
        audit,
        metrics_compat: match args.metrics_compat {
            MetricsCompat::Vllm => ounce_serve::MetricsCompat::Vllm,
            MetricsCompat::None => ounce_serve::MetricsCompat::None,
        },
    };
    let served = Served {
        name: name.clone(),
        tokenizer: speaker.text.tokenizer,
        template: speaker.template,
        generation: speaker.generation,
    };
    let app = App::start(speaker.engine, served, &options).map_err(|e| failed(&ServeError::Start(e)))?;
    adapters::load(&app, &adapters)?;
    let beside: Vec<String> = app.models.adapters().into_iter().map(|(name, _)| name.to_string()).collect();
    let (out, queue) = (context.out, args.queue);
    let ready = |address: SocketAddr| {
        let url = format!("http://{address}/v1");
        if out.json {
            out.value(&json!({
                "url": url,
                "model": name,
                "adapters": beside,
                "parallel": settings.slots,
                "queue": queue,
                "context_tokens": settings.context,
                "cache_bytes": cache_bytes,
            }));
        } else {
            out.note(format!(
                "serving {name} at {url}: {} answers at a time and {queue} waiting, {} tokens each, up to {} of cache",
                settings.slots,
                settings.context,
                units::bytes(cache_bytes)
            ));
            if !beside.is_empty() {
                out.note(format!("beside it, as models of their own: {}", beside.join(", ")));
            }
        }
    };
    let watching = args.watch.as_deref().map(|dir| {
        let path = model::locate(&args.model.model, &context.env)?;
        let watch = Watch::new(app.clone(), dir, &args.model.model, &path, out);
        watch.start(signals.stop.clone()).map_err(|e| failed(&ServeError::Start(e)))
    });
    let watching = watching.transpose()?;
    let drain = Duration::from_secs(args.drain_timeout);
    ounce_serve::run(app, SocketAddr::new(args.host, args.port), drain, &signals.stop, ready)
        .map_err(|e| failed(&e))?;
    // A thread that ended by a fault of its own served as long as it could.
    let _ = watching.map(std::thread::JoinHandle::join);
    Ok(Exit::Done)
}

fn failed(error: &ServeError) -> CliError {
    CliError::of(&codes::SERVE, error).help(match error {
        ServeError::Bind { .. } => {
            "choose another --port (0: any that is free), or an address of this machine as --host"
        }
        ServeError::Start(_) => "check the limits of this process: ulimit -a",
    })
}

/// Files besides connections: weights, logs, the listening socket.
const OTHER_FILES: u64 = 64;

/// As many connections as are wanted, or as the system lets this process have after asking for all that it may.
fn connections(context: &Context, wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|n| n >= wanted as u64 + OTHER_FILES);
    if enough(limit.current) {
        return wanted;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let allowed = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    if enough(allowed) {
        return wanted;
    }
    let connections = allowed.map_or(wanted, |n| n.saturating_sub(OTHER_FILES).max(1) as usize);
    context.out.note(format!("{connections} connections at a time: the process may not open more files (ulimit -n)"));
    connections
}

/// Opens the audit log for its owner only, to append: lines of an earlier server stay.
fn open_audit(path: &Path) -> Result<Arc<File>> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    file.map(Arc::new).map_err(|e| CliError::write(path, &e))
}

/// The keys of a file, one a line; lines that begin with # are notes.
fn read_keys(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| CliError::read(path, &e))?;
    let keys = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<String> = keys.map(String::from).collect();
    match keys.is_empty() {
        false => Ok(keys),
        true => Err(CliError::new(&codes::OPEN, format!("{} holds no key", path.display()))
            .help("write one key a line, such as the output of: openssl rand -hex 32")),
    }
}

/// A hub name as it is; of a path its last part, without `.gguf`.
fn name_of(model: &str) -> String {
    let path = Path::new(model);
    let last = path.file_name().filter(|_| path.exists()).map(|name| name.to_string_lossy().into_owned());
    let name = last.unwrap_or_else(|| model.to_owned());
    name.strip_suffix(".gguf").map_or_else(|| name.clone(), String::from)
}
