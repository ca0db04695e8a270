//! `ounce generate`.

use super::form::Asked;
use super::sampling::Sampling;
use super::talk::Model;

/// Answer one prompt, for scripts
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    ounce generate ./smollm2 'Name three rivers'\n  \
    echo 'Translate to French: good morning' | ounce generate model.gguf -\n  \
    ounce generate ./base --adapter runs/a --system 'Answer in JSON' \"$(cat note.txt)\" --json\n  \
    ounce generate ./smollm2 'A city, as JSON' --json-schema city.json\n  \
    ounce generate ./gpt2 --raw 'Once upon a time' --temperature 0.8 --seed 3\n\n\
    The answer goes to stdout as it comes; --json gives one object with its tokens, times and why it ended.")]
pub struct Args {
    #[command(flatten)]
    pub model: Model,
    /// The prompt; - or nothing: read it from stdin
    #[arg(value_name = "PROMPT")]
    pub prompt: Option<String>,
    /// Instruction that stands before the conversation
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
    /// Continue the prompt as it is, without the chat template; special tokens written in it count (otherwise they are text)
    #[arg(long)]
    pub raw: bool,
    #[command(flatten)]
    pub sampling: Sampling,
    #[command(flatten)]
    pub form: Asked,
}
