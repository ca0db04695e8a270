//! `ounce plan`.

use clap::Subcommand;

use super::tune;

/// Forecast what a run will cost on this machine, without running it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Peak memory by part and time of a tuning run
    ///
    /// Takes what `ounce tune` takes. The real code is run without computing to count bytes and operations, and the
    /// machine's speed is measured on the model's own matrices; nothing is estimated by formula.
    #[command(after_long_help = "Examples:\n  \
        ounce plan tune smollm2.gguf --data train.jsonl --epochs 3\n  \
        ounce plan tune ./smollm2 --data train.jsonl --method full --mem 4GiB\n  \
        ounce plan tune --config recipe.yaml --json")]
    Tune(Box<tune::Args>),
}
