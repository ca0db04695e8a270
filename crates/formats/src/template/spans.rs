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
        let messages: Vec<Value> = messages.iter().map(json::message).collect();
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
        // The prompt says more than the turn repeats (an empty thought, say): the turn begins where the two part, or
        // where its content begins if the content happens to begin as the prompt goes on.
        let Ok(bare) = self.render(&messages[..i], false) else { return Ok(None) };
        let mut start = parting(&before, &after);
        match self.marked(messages, i, i + 1)? {
            Some(marked) if marked.text == after => start = start.min(marked.content.start),
            _ if after[..start].ends_with(['\n', '>', ']']) => {}
            _ => return Ok(None),
        }
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
        if message["content"].as_str().is_none_or(str::is_empty) {
            return Err(fail("the template changes earlier turns and this one has no text to find it by"));
        }
        let marked = self.marked(messages, i, messages.len())?;
        let Some(marked) = marked.filter(|marked| marked.text == whole) else {
            return Err(fail("the template rewrites its content"));
        };
        // What ends a turn is all that follows its content when nothing else follows, as far as it is also there when
        // something does.
        let Some(last) = self.marked(messages, i, i + 1)? else {
            return Err(fail("the template cannot render the conversation up to it"));
        };
        let ending = parting(&last.text[last.content.end..], &whole[marked.content.end..]);
        Ok(marked.content.start..marked.content.end + ending)
    }

    /// The text of the first `upto` messages and where in it the content of message `i` is; `None` if the template does
    /// not write the content as it is.
    fn marked(&self, messages: &[Json], i: usize, upto: usize) -> Result<Option<Marked>, TemplateError> {
        let Some(content) = messages[i]["content"].as_str().filter(|content| !content.is_empty()) else {
            return Ok(None);
        };
        let [begin, end] = marks(messages, self.context);
        let mut messages = messages[..upto].to_vec();
        messages[i]["content"] = Json::String(format!("{begin}{content}{end}"));
        let Ok(text) = self.render(&messages, false) else { return Ok(None) };
        let parts = text.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?)));
        let Some((before, (inside, after))) = parts else { return Ok(None) };
        let content = before.len()..before.len() + inside.len();
        Ok(Some(Marked { text: format!("{before}{inside}{after}"), content }))
    }
}

/// A rendered text and where in it a message's content is.
struct Marked {
    text: String,
    content: Range<usize>,
}

/// Where two texts part, but never inside `<…`: what differs then is the whole tag.
fn parting(a: &str, b: &str) -> usize {
    let common: usize = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    match a[..common].rfind('<') {
        Some(open) if !a[open..common].contains(['>', '\n', ' ']) => open,
        _ => common,
    }
}
