//! A conversation to the tokens that a model is to answer: where template and tokenizer meet. What people typed is only
//! text here: a control token that is written out in a message does not steer the model. It knows nothing of models.
//!
//! Each such token is cut in two by a mark before the template sees the message, and the rendered text is encoded in the
//! pieces between the marks. So it does not matter what the template does with a message, and a conversation that holds no
//! such token has exactly the ids that its rendered text has. (Half a token at the end of a message would need a template
//! that writes the other half by itself after it. None of the 71 that are tested does.)

use std::collections::HashSet;

use serde_json::Value as Json;

use crate::template::{ChatTemplate, RenderOptions, TemplateError};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Why a conversation cannot be made a prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error("the messages hold every character that could mark a special token in them; shorten them")]
    NoMark,
}

/// The ids of a conversation as `template` writes it. Special tokens that the template writes steer the model; those
/// written out anywhere in a message, but for its role, or in the description of a tool or a document, do not.
///
/// # Errors
/// Those of rendering and of encoding.
pub fn encode_chat(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    messages: &Json,
    options: &RenderOptions,
) -> Result<Vec<u32>, PromptError> {
    let (mut cut, mut options) = (messages.clone(), options.clone());
    let given = [Some(messages.clone()), options.tools.clone(), options.documents.clone()];
    let mut mark = None;
    let mut cut_text = |text: &mut String| {
        let Some(cut) = cuts(tokenizer, text) else { return Ok(()) };
        let mark = match mark {
            Some(mark) => mark,
            None => *mark.insert(unused(&given, template.source()).ok_or(PromptError::NoMark)?),
        };
        *text = joined(text, &cut, mark);
        Ok(())
    };
    for message in cut.as_array_mut().into_iter().flatten().filter_map(Json::as_object_mut) {
        for (_, value) in message.iter_mut().filter(|(key, _)| *key != "role") {
            cut_strings(value, &mut cut_text)?;
        }
    }
    for given in [&mut options.tools, &mut options.documents].into_iter().flatten() {
        cut_strings(given, &mut cut_text)?;
    }
    let text = template.render(&cut, &options)?;
    match mark {
        None => Ok(tokenizer.encode(&text, false)?),
        Some(mark) => Ok(tokenizer.encode_apart(text.split(mark))?),
    }
}

/// Runs `change` on every text of a value, names of fields included.
fn cut_strings(
    value: &mut Json,
    change: &mut impl FnMut(&mut String) -> Result<(), PromptError>,
) -> Result<(), PromptError> {
    match value {
        Json::String(text) => change(text),
        Json::Array(list) => list.iter_mut().try_for_each(|value| cut_strings(value, change)),
        Json::Object(object) => {
            for (mut key, mut value) in std::mem::take(object) {
                change(&mut key)?;
                cut_strings(&mut value, change)?;
                object.insert(key, value);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Where a text must be cut so that no control token in it is whole: after the first character of each. `None`: nowhere.
fn cuts(tokenizer: &Tokenizer, text: &str) -> Option<Vec<usize>> {
    let after_first = |start: usize| start + text[start..].chars().next().map_or(0, char::len_utf8);
    let cuts: Vec<usize> = tokenizer.control_tokens_in(text).map(|range| after_first(range.start)).collect();
    (!cuts.is_empty()).then_some(cuts)
}

/// `text` with `mark` at each of the ascending places `cuts`.
fn joined(text: &str, cuts: &[usize], mark: char) -> String {
    let mut out = String::with_capacity(text.len() + cuts.len() * mark.len_utf8());
    let mut from = 0;
    for &cut in cuts {
        out += &text[from..cut];
        out.push(mark);
        from = cut;
    }
    out + &text[from..]
}

/// A character that neither what was given nor the template hold: a noncharacter or one for private use.
fn unused(given: &[Option<Json>], template: &str) -> Option<char> {
    let mut held: HashSet<char> = template.chars().collect();
    for mut given in given.iter().flatten().cloned() {
        let _ = cut_strings(&mut given, &mut |text| {
            held.extend(text.chars());
            Ok(())
        });
    }
    ('\u{fdd0}'..='\u{fdef}').chain('\u{f0000}'..='\u{ffffd}').find(|c| !held.contains(c))
}
