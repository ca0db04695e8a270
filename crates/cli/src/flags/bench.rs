//! `ounce bench`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::talk::KvCache;
use crate::output::units::{parse_bytes, parse_positive};

/// Measure how fast a model runs here, or how a server bears load
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_long_help = "Examples:\n  \
    ounce bench ./smollm2\n  \
    ounce bench model.gguf --prompt 2048 --tokens 64 --threads 4 --json\n  \
    ounce bench model.gguf --depth 4096            # decoding behind a long conversation\n  \
    ounce bench serve http://127.0.0.1:8000        # a running server: ounce bench serve --help\n\n\
    Prefill is the prompt in one go, decoding one token after another; both are medians. The limit of prefill is the\n\
    measured arithmetic (ounce doctor), that of decoding is reading the weights once a token at the rate at which memory is\n\
    read just before; a model that fits into a cache can pass it. Run it on an idle machine.")]
pub struct Args {
    #[command(subcommand)]
    pub what: Option<What>,
    /// Model: directory, GGUF file or hub name
    #[arg(value_name = "MODEL")]
    pub model: Option<String>,
    /// PEFT adapter directory to put on the model
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<String>,
    /// Tokens of the prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = parse_positive)]
    pub prompt: usize,
    /// Tokens of the answer
    #[arg(long, value_name = "TOKENS", default_value_t = 128, value_parser = parse_positive)]
    pub tokens: usize,
    /// Tokens that are in the cache when decoding begins
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    pub depth: usize,
    /// Runs that count, after one that does not
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = parse_positive)]
    pub runs: usize,
    /// Multiply quantised weights exactly instead of rounding activations to 8 bits; slower
    #[arg(long)]
    pub exact: bool,
    /// What keys and values of earlier tokens are kept as: less memory for the narrower, and rounded [default: bf16, with
    /// --exact f32]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub kv_cache: Option<KvCache>,
    /// Memory to stay within, such as 2GiB [default: what this process may have]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub mem: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub enum What {
    Serve(Serve),
}

/// Measure a running server of the OpenAI API under load
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    ounce bench serve http://127.0.0.1:8000 --concurrency 8 --requests 200\n  \
    ounce bench serve http://127.0.0.1:8000 --rate 4 --requests 500 --goodput ttft:500 --goodput tpot:50\n  \
    ounce bench serve http://127.0.0.1:8000 --endpoint chat --prompt-tokens 1000 --tokens 64 --json\n\n\
    --concurrency keeps so many requests open, each followed by the next: it finds the highest throughput. --rate sends\n\
    them at random times, however long answers take, as people do: it finds how long they wait (Poisson arrivals).\n\
    TTFT is the time to the first token, TPOT the mean time of each further one, e2e all of it. Prompts are random\n\
    words, so that no cache knows them; about one token each, and the server's own count is what is reported. Where\n\
    the server has /metrics under vLLM's names, its own times stand beside ours.")]
pub struct Serve {
    /// Address of the server, with or without /v1
    #[arg(value_name = "URL")]
    pub url: String,
    /// Requests that count
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = parse_positive)]
    pub requests: usize,
    /// Requests before those, which do not count
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub warmup: usize,
    /// Requests open at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = parse_positive, conflicts_with = "rate")]
    pub concurrency: usize,
    /// Requests a second, at random times, instead of so many at a time
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// Words of each prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = parse_positive)]
    pub prompt_tokens: usize,
    /// Tokens of each answer
    #[arg(long, value_name = "TOKENS", default_value_t = 128, value_parser = parse_positive)]
    pub tokens: usize,
    /// What to ask for
    #[arg(long, value_enum, default_value_t, value_name = "ENDPOINT")]
    pub endpoint: Endpoint,
    /// Name of the model [default: the first that the server lists]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// File with the API key
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Longest time at which a request is a good one: ttft, tpot or e2e, and milliseconds (repeatable)
    #[arg(long, value_name = "TIME:MS", value_parser = parse_objective)]
    pub goodput: Vec<Objective>,
    /// Longest time of a request, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
    /// Seed of prompts and arrival times
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// The server may be another machine; ask whoever runs it first
    #[arg(long)]
    pub remote: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Endpoint {
    /// /v1/completions
    #[default]
    Completions,
    /// /v1/chat/completions
    Chat,
}

/// A limit that a good request keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    pub of: Time,
    pub at_most_s: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    Ttft,
    Tpot,
    E2e,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (1e-3..=1e5).contains(rate));
    rate.ok_or_else(|| "it must be a number from 0.001 to 100000".into())
}

fn parse_objective(text: &str) -> Result<Objective, String> {
    let wrong = || "it must be ttft, tpot or e2e, a colon, and milliseconds, such as ttft:500".to_owned();
    let (name, limit) = text.split_once(':').ok_or_else(wrong)?;
    let of = match name {
        "ttft" => Time::Ttft,
        "tpot" => Time::Tpot,
        "e2e" => Time::E2e,
        _ => return Err(wrong()),
    };
    let limit = limit.parse::<f64>().ok().filter(|ms| *ms > 0.0 && ms.is_finite()).ok_or_else(wrong)?;
    Ok(Objective { of, at_most_s: limit / 1e3 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_and_rates_are_read() {
        assert_eq!(parse_objective("ttft:500"), Ok(Objective { of: Time::Ttft, at_most_s: 0.5 }));
        assert_eq!(parse_objective("e2e:1.5"), Ok(Objective { of: Time::E2e, at_most_s: 0.0015 }));
        for wrong in ["ttft", "ttft:", "ttft:-1", "ttft:inf", "x:1", ""] {
            assert!(parse_objective(wrong).unwrap_err().contains("ttft:500"), "{wrong}");
        }
        assert_eq!(parse_rate("2.5"), Ok(2.5));
        assert!(["0", "-1", "x", "inf", "nan"].into_iter().all(|wrong| parse_rate(wrong).is_err()));
    }
}
