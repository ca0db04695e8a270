//! Chat templates: a conversation to the text that a model was trained on, and where in it the assistant speaks. It knows
//! nothing of tokens or models.
//!
//! A template is a program from a stranger. It is compiled once, when a model is opened, and never taken from a request;
//! it runs on a thread of its own with limits on its source, its steps, its output and its time.

mod clock;
mod engine;
mod error;
mod generation;
mod json;
mod spans;

use std::ops::Range;
use std::sync::Arc;

use minijinja::Value;
use serde_json::{Map, Value as Json};

pub use clock::strftime;
pub use engine::{MAX_OUTPUT_BYTES, MAX_SOURCE_BYTES};
pub use error::TemplateError;

use crate::guard;
use engine::Compiled;

/// ChatML, for models that come without a template. A caller who uses it should say so: a model that was trained on
/// another format answers badly.
pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// A compiled chat template. Cloning shares it.
#[derive(Clone)]
pub struct ChatTemplate {
    compiled: Arc<Compiled>,
    source: Arc<str>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

/// What a render may be given besides the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// Functions that the assistant may call, a list of JSON schemas.
    pub tools: Option<Json>,
    pub documents: Option<Json>,
    /// End with the beginning of an assistant turn.
    pub add_generation_prompt: bool,
    /// More variables, such as `enable_thinking`.
    pub extra: Map<String, Json>,
    /// What `strftime_now` takes for now, in seconds since 1970; the clock if absent.
    pub now: Option<i64>,
}

/// Names that mean something already: a request must not change what a template sees under them.
const RESERVED: [&str; 9] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "raise_exception",
    "strftime_now",
    "chat_template",
];

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// A source above [`MAX_SOURCE_BYTES`], a syntax error, or a source built to take forever.
    pub fn new(source: &str, bos_token: Option<&str>, eos_token: Option<&str>) -> Result<Self, TemplateError> {
        Ok(ChatTemplate {
            compiled: Compiled::new(source)?,
            source: source.into(),
            bos_token: bos_token.map(String::from),
            eos_token: eos_token.map(String::from),
        })
    }

    /// The source as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// True if the template itself marks what the assistant says.
    pub fn has_generation_blocks(&self) -> bool {
        self.compiled.has_generation
    }

    /// The text of a conversation. `messages` is a list of objects with `role` and `content` and whatever else the
    /// template knows (`tool_calls`, `name`, `reasoning_content`).
    ///
    /// # Errors
    /// The template's own refusal, a template that does not fit the messages, or one of the limits.
    pub fn render(&self, messages: &Json, options: &RenderOptions) -> Result<String, TemplateError> {
        check_messages(messages)?;
        let (compiled, context) = (self.compiled.clone(), self.context(options)?);
        let messages: Vec<Value> = messages.as_array().into_iter().flatten().map(json::message).collect();
        guard::run(move || compiled.render(with_messages(&context, messages.into(), None)))
    }

    /// As [`ChatTemplate::render`], with the bytes of every assistant turn: what the model would have to write, its
    /// end-of-turn token included. Ranges are ascending and apart; `add_generation_prompt` is taken as false.
    ///
    /// They come from the template's `{% generation %}` blocks if it has them. Otherwise a turn begins where the text of
    /// the messages before it with a generation prompt ends, and ends where the text of the messages up to it ends. For
    /// templates that change earlier turns once later ones are there, the turn is found by its content, and of what ends it
    /// only that is counted which the template writes with and without later turns.
    ///
    /// # Errors
    /// As for `render`; [`TemplateError::NoSpan`] if a turn cannot be found with certainty.
    pub fn render_with_answer_spans(
        &self,
        messages: &Json,
        options: &RenderOptions,
    ) -> Result<(String, Vec<Range<usize>>), TemplateError> {
        check_messages(messages)?;
        let options = RenderOptions { add_generation_prompt: false, ..options.clone() };
        let (compiled, context) = (self.compiled.clone(), self.context(&options)?);
        let messages = messages.as_array().cloned().unwrap_or_default();
        guard::run(move || spans::render(&compiled, &context, &messages))
    }

    /// Every variable but the messages.
    fn context(&self, options: &RenderOptions) -> Result<Vec<(String, Value)>, TemplateError> {
        let mut context = Vec::new();
        for (name, value) in &options.extra {
            if RESERVED.contains(&name.as_str()) || name.starts_with("__") {
                return Err(TemplateError::ReservedName { name: name.clone() });
            }
            context.push((name.clone(), json::to_template(value)));
        }
        // As in Hugging Face, tools and documents that are not given are none, not undefined: templates ask for both.
        let or_none = |json: &Option<Json>| json.as_ref().map_or(Value::from(()), json::to_template);
        context.push(("tools".into(), or_none(&options.tools)));
        context.push(("documents".into(), or_none(&options.documents)));
        context.push(("add_generation_prompt".into(), options.add_generation_prompt.into()));
        for (name, token) in [("bos_token", &self.bos_token), ("eos_token", &self.eos_token)] {
            if let Some(token) = token {
                context.push((name.into(), token.as_str().into()));
            }
        }
        if let Some(now) = options.now {
            context.push((engine::NOW.into(), now.into()));
        }
        Ok(context)
    }
}

/// The context of one render.
fn with_messages(context: &[(String, Value)], messages: Value, more: Option<(&str, Value)>) -> Value {
    let more = more.into_iter().map(|(name, value)| (name.to_string(), value));
    Value::from_pairs(context.iter().cloned().chain([("messages".to_string(), messages)]).chain(more))
}

fn check_messages(messages: &Json) -> Result<(), TemplateError> {
    let wrong = |why: String| Err(TemplateError::Messages { why });
    let Some(list) = messages.as_array() else { return wrong("this is no list".into()) };
    let bad: Vec<usize> = (0..list.len()).filter(|&i| !list[i]["role"].is_string()).collect();
    match bad.as_slice() {
        [] => Ok(()),
        [one] => wrong(format!("message {one} has none")),
        many => wrong(format!("{} messages have none, the first is {}", many.len(), many[0])),
    }
}
