//! Flags of `generate` that hold an answer to a form.

use std::path::{Path, PathBuf};

use ounce_grammar::Form;

use crate::codes;
use crate::error::{CliError, Result};

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Form of the answer")]
#[group(multiple = false)]
pub struct Asked {
    /// File with a JSON schema: the answer is JSON that it takes
    #[arg(long, value_name = "FILE")]
    pub json_schema: Option<PathBuf>,
    /// Regular expression that matches the whole answer
    #[arg(long, value_name = "EXPRESSION")]
    pub regex: Option<String>,
    /// File with a grammar in Lark's notation, beginning with the rule start
    #[arg(long, value_name = "FILE")]
    pub grammar: Option<PathBuf>,
}

impl Asked {
    /// The form that is asked for, and the flag that does.
    pub fn form(&self) -> Result<Option<(&'static str, Form)>> {
        let read = |path: &Path| std::fs::read_to_string(path).map_err(|e| CliError::read(path, &e));
        Ok(match (&self.json_schema, &self.regex, &self.grammar) {
            (Some(path), ..) => {
                let schema = serde_json::from_str(&read(path)?).map_err(|e| {
                    CliError::new(&codes::FORM, format!("{} is no JSON: {e}", path.display()))
                        .help("give a file that holds one JSON schema")
                })?;
                Some(("--json-schema", Form::JsonSchema(schema)))
            }
            (_, Some(text), _) => Some(("--regex", Form::Regex(text.clone()))),
            (.., Some(path)) => Some(("--grammar", Form::Lark(read(path)?))),
            _ => None,
        })
    }
}
