//! One file per verb: from what was typed to what is done and shown.

pub mod bench;
pub mod chat;
pub mod completions;
pub mod convert;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod generate;
pub mod plan;
pub mod pull;
pub mod runs;
pub mod schema;
pub mod serve;
pub mod tune;

use crate::codes::Exit;
use crate::env::Env;
use crate::error::Result;
use crate::flags::{Cli, Global, Verb};
use crate::output::Output;
use crate::signals;

/// What every verb is given.
pub struct Context {
    pub out: Output,
    pub env: Env,
    pub global: Global,
}

impl Context {
    pub fn offline(&self) -> bool {
        self.global.offline || self.env.offline
    }

    /// Threads to compute on; 0: as many as the process may use.
    pub fn threads(&self) -> usize {
        if self.global.threads > 0 { self.global.threads } else { self.env.threads.unwrap_or(0) }
    }
}

pub fn run(cli: Cli, env: Env, out: Output) -> Result<Exit> {
    signals::let_large_writes_fail();
    let context = Context { out, env, global: cli.global };
    match cli.verb {
        Verb::Doctor(args) => doctor::run(&context, args),
        Verb::Plan(args) => plan::run(&context, args),
        Verb::Pull(args) => pull::run(&context, args),
        Verb::Tune(args) => tune::run(&context, *args),
        Verb::Merge(args) => convert::merge(&context, args),
        Verb::Convert(args) => convert::convert(&context, args),
        Verb::Runs(args) => runs::run(&context, args),
        Verb::Eval(args) => eval::run(&context, args),
        Verb::Bench(args) => bench::run(&context, args),
        Verb::Chat(args) => chat::run(&context, args),
        Verb::Generate(args) => generate::run(&context, args),
        Verb::Serve(args) => serve::run(&context, args),
        Verb::Data(args) => data::run(&context, args),
        Verb::Schema(args) => schema::run(&context, args),
        Verb::Completions(args) => completions::run(&context, args),
    }
}
