//! `ounce schema`.

use clap::ValueEnum;

/// Print the form of a file: JSON Schema for editors, and the table of errors
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    ounce schema recipe > recipe.schema.json\n  \
    ounce schema errors\n\n\
    With the YAML language server, the first line of a recipe then is:\n  \
    # yaml-language-server: $schema=recipe.schema.json")]
pub struct Args {
    /// What to print
    #[arg(value_enum)]
    pub of: Of,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Of {
    /// Recipes of `ounce tune`
    Recipe,
    /// Error codes, what they mean and the exit codes that go with them
    Errors,
}
