//! TRL's `prompt` and `completion`: two strings, or two lists of messages.

use serde_json::Value;

use super::{Content, Row, assistant_turns, kind, messages::normalise, tools};

pub fn parse(row: &Row) -> Result<Content, String> {
    match (&row["prompt"], &row["completion"]) {
        (Value::String(prompt), Value::String(completion)) => {
            Ok(Content::PromptCompletion { prompt: prompt.clone(), completion: completion.clone() })
        }
        (prompt @ Value::Array(_), completion @ Value::Array(_)) => {
            let (prompt, completion) = (normalise(prompt, "prompt")?, normalise(completion, "completion")?);
            let given_answers = assistant_turns(&prompt);
            let (Value::Array(mut messages), Value::Array(rest)) = (prompt, completion) else {
                return Err("`prompt` and `completion` are not lists".into());
            };
            messages.extend(rest);
            Ok(Content::Chat { messages: Value::Array(messages), tools: tools(row)?, given_answers })
        }
        (prompt, completion) => Err(format!(
            "`prompt` is {} and `completion` is {}; both must be strings, or both lists of messages",
            kind(prompt),
            kind(completion)
        )),
    }
}
