//! `ounce bench serve`: load on a running server, and what its users would feel.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use ounce_engine::sampler::Dice;
use serde_json::{Value, json};

use super::client::{Client, Outcome};
use super::load::{self, Load};
use super::summary::{Spread, Summary, summarize};
use crate::codes::{self, Exit};
use crate::error::{CliError, Result};
use crate::flags::bench::{Serve, Time};
use crate::output::units;
use crate::verbs::Context;

/// Words that most tokenizers have as one token with the space before them.
const WORDS: [&str; 64] = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
    "business",
    "issue",
    "side",
    "kind",
    "head",
    "house",
    "service",
    "friend",
    "father",
    "power",
    "hour",
    "game",
    "line",
    "end",
    "member",
    "law",
];

pub fn run(context: &Context, args: &Serve) -> Result<Exit> {
    let root = root_of(args)?;
    let key = args.api_key_file.as_deref().map(read_key).transpose()?;
    let load = match args.rate {
        Some(rate) => Load::Open { rate },
        None => Load::Closed { concurrency: args.concurrency },
    };
    let connections = if args.rate.is_some() { 256 } else { args.concurrency };
    let mut client = Client::new(&root, key, connections, Duration::from_secs(args.timeout));
    client.model = match &args.model {
        Some(name) => name.clone(),
        None => first_model(&client)?,
    };
    (client.endpoint, client.tokens) = (args.endpoint, args.tokens);
    // Prompts of the warm-up are others than those that count.
    let prompt = |i: usize| prompt(args.seed, i, args.prompt_tokens);
    let warmup: Vec<Outcome> = (0..args.warmup).map(|i| client.ask(&prompt(args.requests + i))).collect();
    if !warmup.is_empty() && !warmup.iter().any(|outcome| matches!(outcome, Outcome::Done(_))) {
        return Err(nothing_done(&root, &summarize(&warmup, 1.0, &[])));
    }
    let before = ServerTimes::read(&client);
    let loaded = load::run(load, args.requests, args.seed, |i| client.ask(&prompt(i)));
    let server = before.and_then(|before| ServerTimes::read(&client).map(|after| after.since(&before)));
    let summary = summarize(&loaded.outcomes, loaded.seconds, &args.goodput);
    if summary.done == 0 {
        return Err(nothing_done(&root, &summary));
    }
    match context.out.json {
        true => context.out.value(&report(args, &client, &summary, server, loaded.late_s)),
        false => context.out.piece(&draw(args, &client, &summary, server, loaded.late_s)),
    }
    Ok(Exit::Done)
}

/// The address without `/v1`, once it is clear that it may be loaded.
fn root_of(args: &Serve) -> Result<String> {
    let wrong = |why: &str| {
        CliError::new(&codes::USAGE, format!("{} is no address of a server", args.url))
            .detail(why)
            .help("give it as the server prints it, such as http://127.0.0.1:8000/v1")
    };
    let root = args.url.trim_end_matches('/');
    let root = root.strip_suffix("/v1").unwrap_or(root);
    let uri: ureq::http::Uri = root.parse().map_err(|_| wrong("it is no URL"))?;
    let host = uri.host().ok_or_else(|| wrong("it has no host"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong("it begins with neither http:// nor https://"));
    }
    if !args.remote && !is_here(host) {
        return Err(CliError::new(&codes::USAGE, format!("{host} is another machine, and load may harm it"))
            .help("measure on the server itself, at 127.0.0.1")
            .help("or, if whoever runs it agrees: --remote"));
    }
    Ok(root.to_owned())
}

/// Whether every address of a host is this machine's own.
fn is_here(host: &str) -> bool {
    let name = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = name.parse::<IpAddr>() {
        return address.is_loopback();
    }
    (name, 0).to_socket_addrs().is_ok_and(|mut found| found.all(|address| address.ip().is_loopback()))
}

/// The first line of a file that is no note.
fn read_key(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(|e| CliError::read(path, &e))?;
    let key = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    key.map(String::from).ok_or_else(|| {
        CliError::new(&codes::USAGE, format!("{} holds no key", path.display())).help("write the key as its first line")
    })
}

fn first_model(client: &Client) -> Result<String> {
    let failed = |why: String| {
        CliError::new(&codes::NETWORK, format!("{} does not say which models it has", client.root))
            .detail(why)
            .help("check that the server runs: curl URL/v1/models")
            .help("or name the model: --model NAME")
    };
    let list: Value = client
        .page("/v1/models")
        .map_err(failed)
        .and_then(|text| serde_json::from_str(&text).map_err(|_| failed("/v1/models is no JSON".into())))?;
    list["data"][0]["id"].as_str().map(String::from).ok_or_else(|| failed("/v1/models lists none".into()))
}

fn nothing_done(root: &str, summary: &Summary) -> CliError {
    let out = CliError::new(&codes::NETWORK, format!("no request to {root} was answered in full"));
    let out = summary.errors.iter().fold(out, |out, (what, n)| out.detail(format!("{what}: {n} times")));
    out.help("401: give the key with --api-key-file; 400: fewer --prompt-tokens or --tokens; 429: less load")
}

/// Random words, the same for the same seed and number.
fn prompt(seed: u64, number: usize, words: usize) -> String {
    let mut dice = Dice::new(seed ^ ((number as u64 + 1) << 20));
    (0..words).map(|_| WORDS[dice.roll(WORDS.len())]).collect::<Vec<_>>().join(" ")
}

/// What the server itself counted, under vLLM's names.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ServerTimes {
    first: Total,
    next: Total,
    whole: Total,
}

/// Seconds in all, and how often.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Total {
    sum: f64,
    count: f64,
}

impl Total {
    fn mean_since(self, before: Total) -> f64 {
        (self.sum - before.sum) / (self.count - before.count)
    }
}

impl ServerTimes {
    fn read(client: &Client) -> Option<ServerTimes> {
        ServerTimes::of(&client.page("/metrics").ok()?)
    }

    fn of(metrics: &str) -> Option<ServerTimes> {
        let value = |name: String| {
            let line = metrics.lines().find(|line| line.split(['{', ' ']).next() == Some(&name))?;
            line.rsplit(' ').next()?.parse().ok()
        };
        let total = |name: &str| {
            Some(Total { sum: value(format!("vllm:{name}_sum"))?, count: value(format!("vllm:{name}_count"))? })
        };
        Some(ServerTimes {
            first: total("time_to_first_token_seconds")?,
            next: total("inter_token_latency_seconds")?,
            whole: total("e2e_request_latency_seconds")?,
        })
    }

    /// Means of what came after `before`, with the names that our own have.
    fn since(self, before: &ServerTimes) -> [(&'static str, f64); 3] {
        [
            ("ttft_s", self.first.mean_since(before.first)),
            ("tpot_s", self.next.mean_since(before.next)),
            ("e2e_s", self.whole.mean_since(before.whole)),
        ]
    }
}

type ServerMeans = Option<[(&'static str, f64); 3]>;

fn report(args: &Serve, client: &Client, summary: &Summary, server: ServerMeans, late_s: f64) -> Value {
    let mut out = json!({
        "url": client.root,
        "model": client.model,
        "rate_per_s": args.rate,
        "concurrency": args.rate.is_none().then_some(args.concurrency),
        "late_s": late_s,
        "server_mean": server.map(BTreeMap::from),
    });
    let summary = serde_json::to_value(summary).expect("plain data with text keys");
    if let (Value::Object(out), Value::Object(summary)) = (&mut out, summary) {
        out.extend(summary);
    }
    out
}

fn draw(args: &Serve, client: &Client, summary: &Summary, server: ServerMeans, late_s: f64) -> String {
    let how = match args.rate {
        Some(rate) => format!("{rate} requests/s at random times"),
        None => format!("{} requests at a time", args.concurrency),
    };
    let mut out = format!("{} at {}: {} requests, {how}\n", client.model, client.root, summary.requests);
    let errors: Vec<String> = summary.errors.iter().map(|(what, n)| format!("{n} × {what}")).collect();
    let errors = if errors.is_empty() { "none".into() } else { errors.join(", ") };
    out += &format!("  {} answered in {}, errors: {errors}\n", summary.done, units::seconds(summary.seconds));
    out += &format!(
        "  {:.2} requests/s, {:.0} answer tokens/s, {:.0} prompt tokens/s ({:.0} and {:.0} tokens each)\n\n",
        summary.requests_per_s,
        summary.tokens_per_s,
        summary.prompt_tokens_per_s,
        summary.mean_tokens,
        summary.mean_prompt_tokens
    );
    out += &format!("  {:<6}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}", "ms", "mean", "p50", "p90", "p95", "p99", "max");
    out += if server.is_some() { "   server's mean\n" } else { "\n" };
    for (at, (name, spread)) in
        [("TTFT", summary.ttft_s), ("TPOT", summary.tpot_s), ("e2e", summary.e2e_s)].into_iter().enumerate()
    {
        let Some(Spread { mean, p50, p90, p95, p99, max }) = spread else { continue };
        out += &format!("  {name:<6}");
        [mean, p50, p90, p95, p99, max].iter().for_each(|s| out += &format!("{:>10.1}", s * 1e3));
        if let Some(means) = server {
            out += &format!("{:>16.1}", means[at].1 * 1e3);
        }
        out.push('\n');
    }
    if !args.goodput.is_empty() {
        let name = |of| match of {
            Time::Ttft => "TTFT",
            Time::Tpot => "TPOT",
            Time::E2e => "e2e",
        };
        let objectives: Vec<String> =
            args.goodput.iter().map(|o| format!("{} ≤ {} ms", name(o.of), o.at_most_s * 1e3)).collect();
        let (rate, share) = (summary.goodput_per_s, summary.goodput_share * 100.0);
        out += &format!("\n  goodput ({}): {rate:.2} requests/s, {share:.0} % of all\n", objectives.join(", "));
    }
    if args.rate.is_some() && late_s > 0.05 {
        out += &format!(
            "\n  this machine sent requests up to {} late: it is too slow for the rate\n",
            units::seconds(late_s)
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine_are_here() {
        assert!(["127.0.0.1", "127.8.0.1", "[::1]", "localhost"].into_iter().all(is_here));
        assert!(!["192.0.2.1", "[2001:db8::1]", "0.0.0.0"].into_iter().any(is_here));
    }

    #[test]
    fn prompts_differ_and_depend_on_seed_and_number_only() {
        let prompts: Vec<String> = (0..50).map(|i| prompt(1, i, 20)).collect();
        let unlike: std::collections::BTreeSet<&String> = prompts.iter().collect();
        assert_eq!((unlike.len(), &prompts[3]), (50, &prompt(1, 3, 20)));
        assert!(prompts.iter().all(|p| p.split(' ').count() == 20) && prompts[0] != prompt(2, 0, 20));
    }

    #[test]
    fn the_servers_own_times_are_read() {
        let page = |sum: f64, count: f64| {
            let names = ["time_to_first_token", "inter_token_latency", "e2e_request_latency"];
            names
                .map(|n| format!("vllm:{n}_seconds_sum{{a=\"b\"}} {sum}\nvllm:{n}_seconds_count{{a=\"b\"}} {count}\n"))
                .concat()
        };
        let (before, after) = (ServerTimes::of(&page(1.0, 2.0)).unwrap(), ServerTimes::of(&page(4.0, 8.0)).unwrap());
        assert_eq!(after.since(&before)[2], ("e2e_s", 0.5));
        assert_eq!(ServerTimes::of("# nothing\n"), None);
    }
}
