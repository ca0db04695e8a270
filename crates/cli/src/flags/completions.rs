//! `ounce completions`.

use clap_complete::Shell;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    ounce completions bash > ~/.local/share/bash-completion/completions/ounce\n  \
    ounce completions zsh > ~/.zfunc/_ounce\n  \
    ounce completions fish > ~/.config/fish/completions/ounce.fish")]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}
