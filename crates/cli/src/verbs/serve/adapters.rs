//! The adapters that `ounce serve` starts with: what was typed, and putting them beside the model.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ounce_serve::{AdapterFault, App};

use crate::codes;
use crate::error::{CliError, Result};

/// An adapter that was asked for; without a name, it goes on the model itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    name: Option<String>,
    dir: PathBuf,
}

/// Reads `NAME=DIR` and `DIR`. What is a directory as it stands has no name.
pub fn parse(typed: &[String]) -> Result<Vec<Asked>> {
    let one = |text: &String| match text.split_once('=') {
        Some((name, dir)) if !Path::new(text).is_dir() => Asked { name: Some(name.into()), dir: dir.into() },
        _ => Asked { name: None, dir: text.into() },
    };
    let asked: Vec<Asked> = typed.iter().map(one).collect();
    let mut seen = BTreeSet::new();
    let twice: Vec<&Asked> = asked.iter().filter(|a| !seen.insert(&a.name)).collect();
    let Some(first) = twice.first() else { return Ok(asked) };
    let what = match &first.name {
        Some(name) => format!("two adapters are called `{name}`"),
        None => "two adapters have no name".to_owned(),
    };
    Err(CliError::new(&codes::USAGE, what)
        .help("give each its own name: --adapter NAME=DIR; one may go without, on the model"))
}

pub fn load(app: &App, asked: &[Asked]) -> Result<()> {
    for Asked { name, dir } in asked {
        app.load_adapter(name.as_deref(), dir, false).map_err(|fault| refused(&fault, dir))?;
    }
    Ok(())
}

fn refused(fault: &AdapterFault, dir: &Path) -> CliError {
    let out = CliError::of(&codes::ADAPTER, fault);
    match fault {
        AdapterFault::Full(_) => out.at(dir.display().to_string(), "").help("raise --max-adapters or --adapter-mem"),
        AdapterFault::Name(_) | AdapterFault::Taken(_) => {
            out.at(dir.display().to_string(), "").help("choose another name: --adapter NAME=DIR")
        }
        _ => out.help("give the directory of a PEFT LoRA adapter that was made for this base model"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_have_names_of_their_own_or_go_on_the_model() {
        let parse = |typed: &[&str]| parse(&typed.iter().map(|t| t.to_string()).collect::<Vec<_>>());
        let asked = |name: Option<&str>, dir: &str| Asked { name: name.map(String::from), dir: dir.into() };
        assert_eq!(parse(&["runs/a"]).unwrap(), [asked(None, "runs/a")]);
        assert_eq!(parse(&["n=runs/a=1", "x"]).unwrap(), [asked(Some("n"), "runs/a=1"), asked(None, "x")]);
        assert!(parse(&["a", "b"]).unwrap_err().what.contains("no name"));
        assert!(parse(&["n=a", "n=b"]).unwrap_err().what.contains("`n`"));
    }
}
