//! `ounce runs`.

use std::path::PathBuf;

use clap::Subcommand;

/// Look at earlier runs of ounce tune
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    ounce runs list\n  \
    ounce runs show runs/a\n  \
    ounce runs plot runs/a runs/b\n  \
    ounce runs diff runs/a runs/b\n  \
    ounce runs export runs/a > a.csv")]
pub struct Args {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// The runs in a directory, newest first
    List {
        /// Directory that holds runs
        #[arg(value_name = "DIR", default_value = "runs")]
        dir: PathBuf,
    },
    /// How one run went: losses, speed, checkpoints, its recipe
    Show {
        /// Directory of a run
        #[arg(value_name = "RUN")]
        run: PathBuf,
    },
    /// Loss curves in the terminal
    Plot {
        /// Directories of runs
        #[arg(value_name = "RUN", required = true)]
        runs: Vec<PathBuf>,
    },
    /// What two runs did differently: their recipes and their results
    Diff {
        /// The one run
        #[arg(value_name = "RUN")]
        a: PathBuf,
        /// The other
        #[arg(value_name = "OTHER")]
        b: PathBuf,
    },
    /// One row per step as CSV (TensorBoard files are in the run's directory already)
    Export {
        /// Directory of a run
        #[arg(value_name = "RUN")]
        run: PathBuf,
    },
}
