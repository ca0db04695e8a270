//! `ounce pull`: a repository of the hub into the cache.

use std::time::{Duration, Instant};

use ounce_formats::hub::is_hub_name;
use serde_json::json;

use super::Context;
use crate::codes::{self, Exit};
use crate::error::{CliError, Result};
use crate::flags::pull::Args;
use crate::hub::client::Client;
use crate::hub::{Cache, download, is_commit, is_safe_path};
use crate::output::units;

pub fn run(context: &Context, args: Args) -> Result<Exit> {
    let bad = |what: String| CliError::new(&codes::USAGE, what).help("for example: ounce pull Qwen/Qwen3-0.6B");
    if !is_hub_name(&args.name) {
        return Err(bad(format!("{:?} is no name of a repository", args.name)));
    }
    if !is_safe_path(&args.revision) {
        return Err(bad(format!("{:?} is no revision", args.revision)));
    }
    if let Some(file) = args.file.iter().find(|f| !is_safe_path(f)) {
        return Err(bad(format!("{file:?} is no name of a file in a repository")));
    }
    let env = &context.env;
    if context.offline() {
        let revision = (args.revision != "main").then_some(args.revision.as_str());
        let path = ounce_formats::hub::resolve(&args.name, &env.hub_cache, revision).map_err(|_| {
            let what = format!("{} is not in the cache {}", args.name, env.hub_cache.display());
            CliError::new(&codes::OFFLINE, what)
                .detail("the network is switched off, by --offline or HF_HUB_OFFLINE")
                .help("allow the network for this command, or copy a model directory here and give its path")
        })?;
        context.out.note("offline: taken from the cache as it is");
        context.out.data(path.display().to_string());
        return Ok(Exit::Done);
    }
    let client = Client::new(&env.endpoint, env.token.clone());
    let repository = client.repository(&args.name, &args.revision)?;
    let cache = Cache::of(&env.hub_cache, &args.name);
    let mut fetched = Vec::new();
    for file in repository.wanted(&args.file)? {
        let mut line = Line::new(context, &file);
        let result = download::fetch(&client, &cache, &repository, &file, &mut |done, size| line.draw(done, size));
        line.clear();
        let result = result?;
        let check = match (&result.sha256, result.reused) {
            (_, true) => "in the cache",
            (Some(_), _) => "sha256 ok",
            (None, _) => "size ok",
        };
        context.out.note(format!("{file}  {}  {check}", units::bytes(result.size as usize)));
        fetched.push(json!({"file": file, "bytes": result.size, "sha256": result.sha256, "reused": result.reused}));
    }
    // Last, so that a revision that is there is whole.
    if !is_commit(&args.revision) {
        download::write_reference(&cache, &args.revision, &repository.commit)?;
    }
    let path = cache.snapshot(&repository.commit);
    match context.out.json {
        true => context.out.value(&json!({"path": path, "commit": repository.commit, "files": fetched})),
        false => context.out.data(path.display().to_string()),
    }
    Ok(Exit::Done)
}

/// The live line of one download.
struct Line<'a> {
    context: &'a Context,
    file: &'a str,
    started: Instant,
    /// Bytes that were there when it started.
    from: Option<u64>,
    drawn: Option<Instant>,
}

impl Line<'_> {
    fn new<'a>(context: &'a Context, file: &'a str) -> Line<'a> {
        Line { context, file, started: Instant::now(), from: None, drawn: None }
    }

    fn draw(&mut self, done: u64, size: u64) {
        let from = *self.from.get_or_insert(done);
        if !self.context.out.live || self.drawn.is_some_and(|at| at.elapsed() < Duration::from_millis(200)) {
            return;
        }
        self.drawn = Some(Instant::now());
        let rate = (done - from.min(done)) as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let left = size.saturating_sub(done) as f64 / rate.max(1.0);
        self.context.out.alarm(&format!(
            "\r\x1b[K{}  {} of {}  {}/s  {} left",
            self.file,
            units::bytes(done as usize),
            units::bytes(size as usize),
            units::bytes(rate as usize),
            units::seconds(left)
        ));
    }

    fn clear(&self) {
        if self.drawn.is_some() {
            self.context.out.alarm("\r\x1b[K");
        }
    }
}
