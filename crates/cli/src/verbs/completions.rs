//! `ounce completions`: clap's own generator.

use clap::CommandFactory;

use super::Context;
use crate::codes::Exit;
use crate::error::Result;
use crate::flags::{Cli, completions::Args};

pub fn run(context: &Context, args: Args) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ounce", &mut script);
    context.out.piece(&String::from_utf8_lossy(&script));
    Ok(Exit::Done)
}
