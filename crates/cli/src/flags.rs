//! The command line: one file per verb. Flags only say what was typed; verbs decide what it means.

pub mod bench;
pub mod chat;
pub mod completions;
pub mod convert;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod form;
pub mod generate;
pub mod plan;
pub mod pull;
pub mod runs;
pub mod sampling;
pub mod schema;
pub mod serve;
pub mod talk;
pub mod tune;

use clap::{Parser, Subcommand};

use crate::output::ColorChoice;

#[derive(Debug, Parser)]
#[command(name = "ounce", version, about, long_about = LONG, after_help = AFTER, max_term_width = 100)]
#[command(disable_help_subcommand = true, infer_subcommands = false, subcommand_required = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

const LONG: &str = "Tune, evaluate and talk to language models on small machines.\n\n\
    Data goes to stdout, progress and notes to stderr.\n\
    Exit codes: 0 done, 1 failed, 2 usage or a refused plan, 3 a quality gate missed, \
    75 temporary (the same command can go on), 130 Ctrl-C.";

const AFTER: &str = "`ounce <verb> --help` explains a verb with examples.";

/// Flags that every verb takes.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Write data as JSON to stdout, errors as JSON to stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// No notes and no progress
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// When to use colour (NO_COLOR is heeded)
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,
    /// Threads to compute on; 0: as many as the process may use (OMP_NUM_THREADS is heeded)
    #[arg(long, global = true, default_value_t = 0, value_name = "N", hide_default_value = true)]
    pub threads: usize,
    /// Never use the network (as HF_HUB_OFFLINE=1)
    #[arg(long, global = true)]
    pub offline: bool,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    Doctor(doctor::Args),
    Plan(plan::Args),
    Pull(pull::Args),
    Data(data::Args),
    Tune(Box<tune::Args>),
    Eval(eval::Args),
    Bench(bench::Args),
    Chat(chat::Args),
    Generate(generate::Args),
    Serve(serve::Args),
    Merge(convert::Merge),
    Convert(convert::Convert),
    Runs(runs::Args),
    Schema(schema::Args),
    Completions(completions::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
