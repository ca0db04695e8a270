//! Where in a rendered conversation the assistant speaks. It knows templates only by rendering them.

use std::ops::Range;

use minijinja::Value;
use serde_json::Value as Json;

use super::engine::Compiled;
use super::{TemplateError, generation, json};

type Context = [(String, Value)];

/// Renders and finds every assistant turn; to be called where templates may run.
pub(super) fn render(
    compiled: &Compiled,
    context: &Context,
    messages: &[Json],
) -> Result<(String, Vec<Range<usize>>), TemplateError> {
    if compiled.has_generation {
        return by_blocks(compiled, context, messages);
    }
    let session = Session { compiled, context };
    let whole = session.render(messages, false)?;
    let mut spans: Vec<Range<usize>> = Vec::new();
    for (i, message) in messages.iter().enumerate().filter(|(_, message)| message["role"] == "assistant") {
        let span = match session.by_prefix(&whole, messages, i)? {
            Some(span) => span,
            None => session.by_content(&whole, messages, i, message)?,
        };
        if spans.last().is_some_and(|last| last.end > span.start) {
            return Err(TemplateError::NoSpan { message: i, why: "it overlaps the turn before" });
        }
        spans.push(span);
    }
    Ok((whole, spans))
}

/// From the template's own marks.
fn by_blocks(
    compiled: &Compiled,
    context: &Context,
    messages: &[Json],
) -> Result<(String, Vec<Range<usize>>), TemplateError> {
    let [begin, end] = marks(messages, context);
    let mut variables = context.to_vec();
    variables.push((generation::BEGIN.into(), Value::from(begin.as_str())));
    variables.push((generation::END.into(), Value::from(end.as_str())));
    let marked = Session { compiled, context: &variables }.render(messages, false)?;
    let (mut text, mut spans, mut open) = (String::with_capacity(marked.len()), Vec::new(), None);
    let mut rest = marked.as_str();
    // Both marks have the same first character and length.
    while let Some(at) = rest.find(&begin[..begin.len() - 1]) {
        text += &rest[..at];
        let mark = &rest[at..at + begin.len()];
        match open.take() {
            None if mark == begin => open = Some(text.len()),
            Some(start) if mark == end => spans.push(start..text.len()),
            _ => return Err(TemplateError::NoSpan { message: spans.len(), why: "its generation blocks are nested" }),
        }
        rest = &rest[at + begin.len()..];
    }
    text += rest;
    Ok((text, spans))
}

/// Two marks of one length that differ in the last byte and are nowhere in what a template gets to see.
fn marks(messages: &[Json], context: &Context) -> [String; 2] {
    let seen = format!("{}{context:?}", Json::Array(messages.to_vec()));
    let stem = (0u32..).map(|n| format!("\u{fdd0}{n}:")).find(|stem| !seen.contains(stem.as_str()));
    let stem = stem.unwrap_or_default();
    [format!("{stem}<"), format!("{stem}>")]
}

struct Session<'a> {
    compiled: &'a Compiled,
    context: &'a Context,
}

impl Session<'_> {
    fn render(&self, messages: &[Json], prompt: bool) -> Result<String, TemplateError> {
        let messages: Vec<Value> = messages.iter().map(json::to_template).collect();
        let prompt = prompt.then(|| ("add_generation_prompt", Value::from(true)));
        self.compiled.render(super::with_messages(self.context, Value::from(messages), prompt))
    }

    /// The turn as the difference between the texts before and after it, if both begin the whole text.
    fn by_prefix(&self, whole: &str, messages: &[Json], i: usize) -> Result<Option<Range<usize>>, TemplateError> {
        // Templates may refuse a part of a conversation; that is no answer about the whole.
        let (Ok(before), Ok(after)) = (self.render(&messages[..i], true), self.render(&messages[..=i], false)) else {
            return Ok(None);
        };
        if !whole.starts_with(&after) {
            return Ok(None);
        }
        if after.starts_with(&before) {
            return Ok(Some(before.len()..after.len()));
        }
        // The prompt says more than the turn repeats (an empty thought, say): the turn begins where the two part.
        let Ok(bare) = self.render(&messages[..i], false) else { return Ok(None) };
        let start = parting(&before, &after);
        Ok((after.starts_with(&bare) && start > bare.len()).then_some(start..after.len()))
    }

    /// The turn as the place where its content is, with what the template puts after a turn.
    fn by_content(
        &self,
        whole: &str,
        messages: &[Json],
        i: usize,
        message: &Json,
    ) -> Result<Range<usize>, TemplateError> {
        let fail = |why| TemplateError::NoSpan { message: i, why };
        let Some(content) = message["content"].as_str() else {
            return Err(fail("the template changes earlier turns and this one has no text content"));
        };
        let [begin, end] = marks(messages, self.context);
        let marked = |upto: usize| -> Result<(String, Range<usize>, String), TemplateError> {
            let mut messages = messages[..upto].to_vec();
            messages[i]["content"] = Json::String(format!("{begin}{content}{end}"));
            let text = self.render(&messages, false)?;
            let (before, rest) =
                text.split_once(&begin).ok_or_else(|| fail("the template does not write its content as it is"))?;
            let (inside, after) =
                rest.split_once(&end).ok_or_else(|| fail("the template does not write its content as it is"))?;
            Ok((format!("{before}{inside}{after}"), before.len()..before.len() + inside.len(), after.to_string()))
        };
        let (text, span, after) = marked(messages.len())?;
        if text != whole {
            return Err(fail("the template rewrites its content"));
        }
        // What ends a turn is all that follows its content when nothing else follows.
        let ending = marked(i + 1)?.2;
        if !after.starts_with(&ending) {
            return Err(fail("the template ends it differently when more follows"));
        }
        Ok(span.start..span.end + ending.len())
    }
}

/// Where two texts part, but never inside `<…`: what differs then is the whole tag.
fn parting(a: &str, b: &str) -> usize {
    let common: usize = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    match a[..common].rfind('<') {
        Some(open) if !a[open..common].contains(['>', '\n', ' ']) => open,
        _ => common,
    }
}
