//! The smaller model that guesses for the one that answers: opened, and held against it.

use ounce_formats::Checkpoint;
use ounce_formats::tokenizer::Tokenizer;

use crate::codes;
use crate::error::{CliError, Result};
use crate::model::{self, Text};
use crate::verbs::Context;

/// Opens the draft model of a model with this tokenizer. Guesses are numbers of tokens: they must mean the same to both.
pub fn open(context: &Context, name: &str, tokenizer: &Tokenizer) -> Result<Checkpoint> {
    let checkpoint = model::open(name, &context.env)?;
    let own = Text::of(&checkpoint)?.tokenizer;
    let both = tokenizer.vocab_size().min(own.vocab_size());
    let mut differ = (0..both as u32).filter(|&id| tokenizer.token(id) != own.token(id));
    // Some families have a few tokens of their own for some of their sizes; a guess of one is only a wrong guess.
    let few = both / 100;
    if let Some(id) = differ.nth(few) {
        let (theirs, own) = (tokenizer.token(id).unwrap_or_default(), own.token(id).unwrap_or_default());
        let text = format!("{name} has other tokens than the model: token {id} is {own:?}, not {theirs:?}");
        return Err(CliError::new(&codes::TOKENIZER, text)
            .help("a draft model is a smaller one of the same family, such as SmolLM2-135M for SmolLM2-1.7B"));
    }
    Ok(checkpoint)
}
