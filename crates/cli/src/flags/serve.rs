//! `ounce serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use super::talk::Base;
use crate::output::units::{parse_bytes, parse_positive};

/// Which hidden states become an embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Pooling {
    Last,
    Mean,
    Cls,
}

/// Whose dashboards find their series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MetricsCompat {
    Vllm,
    None,
}

/// Serve a model over HTTP, as the OpenAI API does
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    ounce serve ./smollm2\n  \
    ounce serve base.gguf --adapter runs/a --name notes --port 8080\n  \
    ounce serve base.gguf --adapter legal=runs/a --adapter notes=runs/b --watch runs\n  \
    ounce serve ./smollm2 --host 0.0.0.0 --api-key-file keys.txt --audit-log audit.jsonl\n  \
    curl http://127.0.0.1:8000/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n\n\
    Endpoints: /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, /v1/load_lora_adapter, /v1/unload_lora_adapter, /tokenize, /detokenize, /health, /version, /metrics.\n\
    Who is slow is hung up on: 10 s for a head, 60 s for a body, 60 s of silence, 600 s for an answer.\n\
    Ctrl-C or SIGTERM: new requests are refused, running ones finish; a second one ends it at once.")]
pub struct Args {
    #[command(flatten)]
    pub model: Base,
    /// PEFT adapter directory: beside the model, as a model of its own name; without a name, on the model itself (repeatable)
    #[arg(long, value_name = "[NAME=]DIR")]
    pub adapter: Vec<String>,
    /// What requests call the model [default: its own name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Address to listen on; any but this machine's own needs a key
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0: any that is free
    #[arg(long, value_name = "N", default_value_t = 8000)]
    pub port: u16,
    /// File with the keys that requests may bring, one a line
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// File with the keys of those who may load and unload adapters while the server runs, one a line
    #[arg(long, value_name = "FILE")]
    pub admin_key_file: Option<PathBuf>,
    /// Folder from which adapters may be loaded while the server runs (repeatable)
    #[arg(long, value_name = "DIR")]
    pub adapter_root: Vec<PathBuf>,
    /// Folder of runs: the adapter of each that ends on this model is served under the run's name, without a restart
    #[arg(long, value_name = "DIR")]
    pub watch: Option<PathBuf>,
    /// Adapters at a time
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_adapters: u16,
    /// Memory of all adapters
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_bytes)]
    pub adapter_mem: usize,
    /// Listen beyond this machine without a key: everyone who reaches it may use it
    #[arg(long)]
    pub insecure: bool,
    /// What becomes the embedding of an input: the state of its last token, which alone has seen all of it, the mean of all
    /// states, or the state of the first token
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = Pooling::Last)]
    pub pooling: Pooling,
    /// Answers at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub parallel: u16,
    /// Tokens in the cache that answers share: where they run out, the youngest answer waits [default: parallel x context]
    #[arg(long, value_name = "TOKENS", value_parser = parse_positive)]
    pub cache_tokens: Option<usize>,
    /// Let each key find in the cache only what itself has asked
    #[arg(long, requires = "api_key_file")]
    pub isolate_cache: bool,
    /// Answers that may wait; beyond them requests are refused with 429
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub queue: u16,
    /// Connections at a time; beyond them clients are told to try again later, with 503
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,
    /// Append a line of JSON to a file for each request: time, key (the beginning of its SHA-256), endpoint, status, tokens;
    /// never what was said
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Whose names /metrics has besides its own (ounce:…)
    #[arg(long, value_name = "WHOSE", value_enum, default_value_t = MetricsCompat::Vllm)]
    pub metrics_compat: MetricsCompat,
    /// Longest time that running answers have to finish after Ctrl-C or SIGTERM, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain_timeout: u64,
}
