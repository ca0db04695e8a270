//! `ounce data`.

use clap::Subcommand;

/// Look at data sets
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    Check(Check),
}

/// Say what a data set holds and what is wrong with it: format, counts, lengths, duplicates, bad rows
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    ounce data check notes.jsonl\n  \
    ounce data check notes.jsonl --model ./smollm2 --max-length 512\n  \
    ounce data check train.csv --valid valid.csv --json\n\n\
    With a model, lengths are counted in its tokens and one example is shown as the model sees it; what it is\n\
    taught to write stands between » and «. Exit code 1 if any row cannot be used.")]
pub struct Check {
    /// Files (.jsonl, .json, .csv, .txt, .parquet) or directories to train on
    #[arg(required = true, value_name = "FILE")]
    pub train: Vec<String>,
    /// Files to evaluate on; examples that are also in the training data are reported
    #[arg(long, value_name = "FILE")]
    pub valid: Vec<String>,
    /// Model whose tokenizer and chat template are used: directory, GGUF file or hub name
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Format of the rows: auto, messages, sharegpt, alpaca, prompt_completion, text
    #[arg(long, default_value = "auto", value_name = "NAME")]
    pub format: String,
    /// Longest example, tokens; longer ones are listed
    #[arg(long, default_value_t = 1024, value_name = "TOKENS")]
    pub max_length: usize,
}
