//! `ounce doctor`.

/// Say what this machine can do, and what stands in the way
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    ounce doctor\n  \
    ounce doctor --fresh --threads 2\n  \
    ounce doctor --json > machine.json\n\n\
    Speed is measured once and remembered; --fresh measures again. Each line is ok or a warning with what to do.")]
pub struct Args {
    /// Measure again, whatever is remembered
    #[arg(long)]
    pub fresh: bool,
}
