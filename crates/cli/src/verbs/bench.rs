//! `ounce bench`: how fast a model runs on this machine, and how a server bears load.

mod client;
mod load;
mod model;
mod serve;
mod summary;

use super::Context;
use crate::codes::{self, Exit};
use crate::error::{CliError, Result};
use crate::flags::bench::{Args, What};

pub fn run(context: &Context, args: Args) -> Result<Exit> {
    match (&args.what, &args.model) {
        (Some(What::Serve(serve)), _) => serve::run(context, serve),
        (None, Some(name)) => model::run(context, name, &args),
        (None, None) => Err(CliError::new(&codes::USAGE, "there is nothing to measure")
            .help("a model on this machine: ounce bench MODEL")
            .help("a running server: ounce bench serve http://127.0.0.1:8000")),
    }
}
