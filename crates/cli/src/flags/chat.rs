//! `ounce chat`.

use super::sampling::Sampling;
use super::talk::Model;

/// Talk to a model
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    ounce chat ./smollm2\n  \
    ounce chat smollm2.gguf --adapter runs/a --temperature 0.7\n  \
    ounce chat Qwen/Qwen3-0.6B --system 'You are brief'\n\n\
    Inside: /help, /stats, /reset, /system TEXT, /adapter DIR (or off), /save FILE, /quit.\n\
    Ctrl-C stops an answer, or ends the chat where none is being given.")]
pub struct Args {
    #[command(flatten)]
    pub model: Model,
    /// Instruction that stands before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub sampling: Sampling,
}
