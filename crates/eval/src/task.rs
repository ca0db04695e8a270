//! A task file: questions with reference answers, one JSON object a line. Knows how rows look, not how they are answered.
//!
//! Rows may be
//! - `{"messages": [{"role", "content"}, …]}`: the last assistant message is the reference, what stands before it the prompt;
//! - `{"prompt": text, "answer": text or object}` (also `completion` for `answer`);
//! - `{"question": text, "choices": [text, …], "answer": index, letter or one of the choices}`.

use serde_json::{Map, Value};

use crate::score::Metric;

#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub metric: Metric,
    pub items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Line in the file, from 1.
    pub line: usize,
    pub prompt: Prompt,
    pub reference: Reference,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// For the chat template: an array of message objects.
    Messages(Vec<Value>),
    /// A bare text, for the template's user turn, or as it is where the model has no template.
    Text(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Reference {
    Text(String),
    Choice { choices: Vec<String>, answer: usize },
}

impl Reference {
    /// The reference as an object, where it is one.
    pub fn json(&self) -> Option<Map<String, Value>> {
        match self {
            Reference::Text(text) => whole_object(text),
            Reference::Choice { .. } => None,
        }
    }
}

/// What is wrong with a task file: every bad row, not the first.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TaskError {
    #[error("the task has no rows")]
    Empty,
    #[error("{} of {rows} rows cannot be read; the first: line {}: {}", bad.len(), bad[0].line, bad[0].why)]
    Rows { rows: usize, bad: Vec<BadRow> },
}

#[derive(Clone, Debug, PartialEq)]
pub struct BadRow {
    pub line: usize,
    pub why: String,
}

impl Task {
    /// Reads a task. Without `metric` it is found in the rows: multiple choice where they have choices, JSON fields
    /// where every reference is an object, exact match otherwise.
    pub fn parse(text: &str, metric: Option<Metric>) -> Result<Task, TaskError> {
        let mut items = Vec::new();
        let mut bad = Vec::new();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (index, row) in text.lines().enumerate().filter(|(_, row)| !row.trim().is_empty()) {
            match parse_row(row) {
                Ok((prompt, reference)) => items.push(Item { line: index + 1, prompt, reference }),
                Err(why) => bad.push(BadRow { line: index + 1, why }),
            }
        }
        let rows = items.len() + bad.len();
        if rows == 0 {
            return Err(TaskError::Empty);
        }
        let metric = metric.unwrap_or_else(|| detect(&items));
        for item in &items {
            let is_choice = matches!(item.reference, Reference::Choice { .. });
            let why = match metric {
                Metric::MultipleChoice if !is_choice => "the row has no choices, the task is multiple choice",
                Metric::JsonFields if item.reference.json().is_none() => "the reference is not a JSON object",
                Metric::ExactMatch if is_choice => "the row has choices, the task is exact match",
                _ => continue,
            };
            bad.push(BadRow { line: item.line, why: why.into() });
        }
        if bad.is_empty() {
            return Ok(Task { metric, items });
        }
        bad.sort_by_key(|b| b.line);
        Err(TaskError::Rows { rows, bad })
    }
}

fn detect(items: &[Item]) -> Metric {
    if items.iter().any(|i| matches!(i.reference, Reference::Choice { .. })) {
        Metric::MultipleChoice
    } else if items.iter().all(|i| i.reference.json().is_some()) {
        Metric::JsonFields
    } else {
        Metric::ExactMatch
    }
}

fn parse_row(row: &str) -> Result<(Prompt, Reference), String> {
    let mut row = match serde_json::from_str(row) {
        Ok(Value::Object(row)) => row,
        Ok(other) => return Err(format!("a row is an object, this is {}", kind(&other))),
        Err(e) => return Err(format!("not JSON: {e}")),
    };
    if let Some(messages) = row.remove("messages") {
        return from_messages(messages);
    }
    let Some(prompt) = row.remove("question").or_else(|| row.remove("prompt")) else {
        let keys: Vec<&str> = row.keys().map(String::as_str).collect();
        return Err(format!("no messages, prompt or question; the row has: {}", keys.join(", ")));
    };
    let prompt = match prompt {
        Value::String(text) => Prompt::Text(text),
        Value::Array(messages) => Prompt::Messages(messages),
        other => return Err(format!("the prompt is {}, it must be a text or messages", kind(&other))),
    };
    let Some(answer) = row.remove("answer").or_else(|| row.remove("completion")) else {
        return Err("no answer".into());
    };
    match row.remove("choices") {
        None => Ok((prompt, Reference::Text(as_text(answer)?))),
        Some(choices) => Ok((prompt, from_choices(choices, &answer)?)),
    }
}

fn from_messages(messages: Value) -> Result<(Prompt, Reference), String> {
    let Value::Array(mut messages) = messages else { return Err("messages is not an array".into()) };
    let role = |m: &Value| m.get("role").and_then(Value::as_str).map(str::to_owned);
    if let Some(at) = messages.iter().position(|m| role(m).is_none()) {
        return Err(format!("message {} has no role", at + 1));
    }
    let last = messages.iter().rposition(|m| role(m).as_deref() == Some("assistant"));
    let Some(last) = last else { return Err("no assistant message to take as the reference".into()) };
    if last == 0 {
        return Err("nothing stands before the assistant's message".into());
    }
    let reference = messages[last].get("content").cloned().unwrap_or(Value::Null);
    messages.truncate(last);
    Ok((Prompt::Messages(messages), Reference::Text(as_text(reference)?)))
}

fn from_choices(choices: Value, answer: &Value) -> Result<Reference, String> {
    let Value::Array(choices) = choices else { return Err("choices is not an array".into()) };
    let choices = choices.into_iter().map(as_text).collect::<Result<Vec<_>, _>>()?;
    if choices.len() < 2 {
        return Err(format!("{} choices, at least 2 are needed", choices.len()));
    }
    let index = match answer {
        Value::Number(n) => n.as_u64().map(|n| n as usize),
        Value::String(text) => choices.iter().position(|c| c == text).or_else(|| letter(text)),
        _ => None,
    };
    match index {
        Some(answer) if answer < choices.len() => Ok(Reference::Choice { choices, answer }),
        _ => Err(format!("answer {answer} is none of the {} choices", choices.len())),
    }
}

/// `A` is 0, `B` is 1, …
fn letter(text: &str) -> Option<usize> {
    match text.as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
        _ => None,
    }
}

fn as_text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null | Value::Array(_) => Err(format!("the answer is {}, it must be a text", kind(&value))),
        other => Ok(other.to_string()),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The object that is the whole text, not one inside it.
fn whole_object(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_prompts_and_choices_are_read() {
        let task = Task::parse(
            r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"},{"role":"assistant","content":"a"}]}

{"prompt":"p","answer":"b"}
"#,
            None,
        )
        .unwrap();
        assert_eq!(task.metric, Metric::ExactMatch);
        assert_eq!(task.items.iter().map(|i| i.line).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(task.items[0].reference, Reference::Text("a".into()));
        assert!(matches!(&task.items[0].prompt, Prompt::Messages(m) if m.len() == 2));
        assert_eq!(task.items[1].prompt, Prompt::Text("p".into()));

        let choice = |answer: usize| Reference::Choice { choices: vec!["x".into(), "C".into(), "z".into()], answer };
        let task = Task::parse(
            r#"{"question":"q","choices":["x","C","z"],"answer":2}
{"question":"q","choices":["x","C","z"],"answer":"A"}
{"question":"q","choices":["x","C","z"],"answer":"C"}"#,
            None,
        )
        .unwrap();
        assert_eq!(task.metric, Metric::MultipleChoice);
        let found: Vec<_> = task.items.into_iter().map(|i| i.reference).collect();
        assert_eq!(found, [choice(2), choice(0), choice(1)], "a choice's own text goes before its letter");
    }

    #[test]
    fn objects_as_references_make_a_json_task() {
        let rows = "{\"prompt\":\"p\",\"answer\":{\"a\":1}}\n{\"prompt\":\"p\",\"answer\":\"{\\\"a\\\": 2}\"}";
        assert_eq!(Task::parse(rows, None).unwrap().metric, Metric::JsonFields);
        assert_eq!(Task::parse(rows, Some(Metric::ExactMatch)).unwrap().metric, Metric::ExactMatch);
    }

    #[test]
    fn all_bad_rows_are_reported() {
        let rows = "[1]\n{\"prompt\":\"p\",\"answer\":\"a\"}\nnot json\n{\"x\":1}\n{\"prompt\":\"p\"}\n\
                    {\"messages\":[{\"role\":\"user\",\"content\":\"u\"}]}\n\
                    {\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":7}";
        let Err(TaskError::Rows { rows, bad }) = Task::parse(rows, None) else { panic!("no rows are bad") };
        assert_eq!(rows, 7);
        assert_eq!(bad.iter().map(|b| b.line).collect::<Vec<_>>(), [1, 3, 4, 5, 6, 7]);
        assert_eq!(bad[2].why, "no messages, prompt or question; the row has: x");
        assert_eq!(bad[5].why, "answer 7 is none of the 2 choices");
        assert_eq!(Task::parse(" \n\n", None), Err(TaskError::Empty));
        let Err(TaskError::Rows { bad, .. }) =
            Task::parse("{\"prompt\":\"p\",\"answer\":\"a\"}", Some(Metric::JsonFields))
        else {
            panic!("a plain text is not an object")
        };
        assert_eq!(bad[0].why, "the reference is not a JSON object");
    }
}
