//! `ounce generate`: one prompt, one answer.

use std::io::Read;

use ounce_engine::{Asks, Constraint, Request};
use ounce_grammar::{Form, Grammars};
use serde_json::json;

use super::Context;
use crate::codes::{self, Exit};
use crate::error::{CliError, Result};
use crate::flags::generate::Args;
use crate::signals::Signals;
use crate::talk::{Speaker, Uses};

pub fn run(context: &Context, args: Args) -> Result<Exit> {
    let prompt = match args.prompt.as_deref() {
        None | Some("-") => read_stdin()?,
        Some(prompt) => prompt.to_owned(),
    };
    let asked = args.form.form()?;
    let asks = Asks { forms: asked.is_some(), ..Asks::default() };
    let uses = Uses { answers: Some(asks), likelihoods: false };
    let mut speaker = Speaker::open(context, &args.model.base, args.model.adapter.as_deref(), 1, uses)?;
    let params = args.sampling.params(&speaker.generation)?;
    let ids = if args.raw {
        speaker.raw_prompt(&prompt)?
    } else {
        let mut messages = Vec::new();
        if let Some(system) = &args.system {
            messages.push(json!({"role": "system", "content": system}));
        }
        messages.push(json!({"role": "user", "content": prompt}));
        speaker.chat_prompt(&messages)?
    };
    let signals = Signals::listen();
    let out = context.out;
    let constraint = asked.map(|(flag, form)| constraint(&speaker, flag, &form)).transpose()?;
    let request = Request { constraint, ..Request::new(ids, params) };
    let answer = speaker.answer(request, |text| {
        if !out.json {
            out.piece(text);
        }
        !signals.stopped()
    })?;
    if out.json {
        out.value(&json!({
            "text": answer.text,
            "reason": answer.reason,
            "prompt_tokens": answer.prompt_tokens,
            "tokens": answer.tokens,
            "first_token_s": answer.first_s,
            "tokens_per_s": answer.rate(),
            "drafted_tokens": answer.drafted,
            "accepted_tokens": answer.accepted,
        }));
    } else {
        out.piece("\n");
    }
    match signals.stopped() {
        false => Ok(Exit::Done),
        true => Err(CliError::new(signals.code(), "the answer was interrupted").help("run the same command again")),
    }
}

fn constraint(speaker: &Speaker, flag: &str, form: &Form) -> Result<Box<dyn Constraint>> {
    let compiled = Grammars::new(&speaker.text.tokenizer).and_then(|grammars| grammars.compile(form));
    match compiled {
        Ok(grammar) => Ok(grammar.constraint()),
        Err(error) => Err(CliError::new(&codes::FORM, format!("{flag} cannot be used: {error}"))
            .help("docs/FORMS.md lists what forms may hold")),
    }
}

fn read_stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|e| CliError::read("stdin".as_ref(), &e))?;
    let text = text.trim_end_matches(['\n', '\r']).to_owned();
    match text.is_empty() {
        false => Ok(text),
        true => Err(CliError::new(&codes::USAGE, "there is no prompt")
            .help("give it as an argument or on stdin: ounce generate MODEL 'Name three rivers'")),
    }
}
