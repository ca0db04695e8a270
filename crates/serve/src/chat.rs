//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use ounce_formats::prompt;
use ounce_formats::template::RenderOptions;
use ounce_grammar::{Form, Grammar};
use serde_json::{Map, Value};

use crate::answers::Answers;
use crate::app::{App, model_field, now};
use crate::body;
use crate::calls::{Dialect, Reader, describe};
use crate::error::ApiError;
use crate::fields::{Fields, kind};
use crate::form::{self, Asked};
use crate::messages;
use crate::reply::{Choice, Reply};
use crate::sampling::{MAX_TOP_LOGPROBS, Sampling};
use crate::sse;
use crate::tools::{self, Tools};

/// Settings that a request may give to the template.
const TEMPLATE_SETTINGS: [&str; 3] = ["enable_thinking", "thinking", "reasoning_effort"];

pub async fn handle(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let wanted = body::read(&app, request, Wanted::read).await?;
    let prompt = encode(&app, wanted.messages, wanted.options).await?;
    app.check_prompt("messages", &prompt)?;
    let sampling = wanted.sampling;
    let held = held_to(&app, wanted.tools, wanted.form).await?;
    let requests = sampling.each().map(|params| ounce_engine::Request {
        constraint: held.grammar.as_ref().map(Grammar::constraint),
        ..ounce_engine::Request::new(prompt.clone(), params)
    });
    let answers = Answers::new(
        app.submit(&wanted.model, sampling.n, requests.collect())?,
        &app.served.tokenizer,
        &sampling.params.stop,
        held.skips_special(),
    );
    let choices = (0..sampling.n).map(|_| Choice::new(held.reader())).collect();
    let reply = Reply {
        id: app.id("chatcmpl"),
        created: now(),
        model: wanted.model,
        prompt_tokens: prompt.len(),
        logprobs: wanted.logprobs,
        include_usage: sampling.include_usage,
        app,
    };
    match sampling.stream {
        true => Ok(sse::response(|events| reply.stream(answers, choices, events))),
        false => reply.whole(answers, choices).await,
    }
}

/// What an answer is held to, and what finds calls in it.
pub struct Held {
    pub grammar: Option<Grammar>,
    dialect: Dialect,
    tools: Option<Tools>,
}

impl Held {
    /// A reader of one answer.
    pub fn reader(&self) -> Reader {
        self.tools.as_ref().map_or(Reader::Text, |tools| self.dialect.reader(tools))
    }

    /// Whether special tokens are no part of an answer's text. Where they mark calls, the grammar lets no others through.
    pub fn skips_special(&self) -> bool {
        self.tools.is_none() || !self.dialect.marks_are_tokens()
    }
}

/// Compiles what an answer is held to.
///
/// # Errors
/// 400 for tools or a form that cannot be kept to.
pub async fn held_to(app: &Arc<App>, tools: Option<Tools>, form: Option<Asked>) -> Result<Held, ApiError> {
    let dialect = app.dialect();
    let grammar = match &tools {
        None => form::compile(app, form).await?,
        Some(tools) => tools_grammar(app, dialect, tools, form.as_ref()).await?,
    };
    Ok(Held { grammar, dialect, tools })
}

/// The grammar of an answer that may or must call functions. A schema of arguments that no answer can be kept to is an error
/// only where the function is `strict`; otherwise its arguments are any object.
async fn tools_grammar(
    app: &Arc<App>,
    dialect: Dialect,
    tools: &Tools,
    asked: Option<&Asked>,
) -> Result<Option<Grammar>, ApiError> {
    let answer = match asked {
        None => None,
        Some(Asked { form: Form::JsonSchema(schema), .. }) => Some(schema),
        Some(Asked { param, .. }) => {
            return Err(ApiError::field(param, format!("{param} cannot be asked for together with tools")));
        }
    };
    let compile = async |strict| {
        let grammar = dialect.grammar(tools, answer, strict);
        match grammar.map_err(|e| ApiError::field("tools", format!("tools cannot be used: {e}")))? {
            None => Ok(None),
            Some(grammar) => app.grammar("tools", Form::Lark(grammar)).await.map(Some),
        }
    };
    match compile(true).await {
        Err(_) if tools.callable().iter().any(|function| !function.strict) => compile(false).await,
        compiled => compiled,
    }
}

/// The tokens of a conversation, made on a thread of its own.
pub async fn encode(app: &Arc<App>, messages: Value, options: RenderOptions) -> Result<Vec<u32>, ApiError> {
    let (of, bytes) = (app.clone(), contents_bytes(&messages));
    let encode = move || prompt::encode_chat(&of.served.template, &of.served.tokenizer, &messages, &options);
    let encoded = app.texts.run(bytes, encode).await;
    encoded
        .ok_or_else(|| ApiError::internal("the prompt could not be made"))?
        .map_err(|e| ApiError::field("messages", format!("messages cannot be made a prompt: {e}")))
}

/// How much text is in a conversation.
fn contents_bytes(messages: &Value) -> usize {
    messages.as_array().into_iter().flatten().filter_map(|message| Some(message["content"].as_str()?.len())).sum()
}

/// What a request asks for.
struct Wanted {
    model: Arc<str>,
    messages: Value,
    options: RenderOptions,
    sampling: Sampling,
    logprobs: bool,
    form: Option<Asked>,
    tools: Option<Tools>,
}

impl Wanted {
    fn read(app: &App, body: &Value) -> Result<Wanted, ApiError> {
        let mut fields = Fields::of(body)?;
        model_field(&mut fields);
        let Conversation { messages, options, tools } = conversation(app, &mut fields);
        let mut sampling = Sampling::read(&mut fields, &app.served.generation);
        sampling.limit(&mut fields, &["max_completion_tokens", "max_tokens"], 1, app.context);
        let logprobs = fields.flag("logprobs").unwrap_or(false);
        if let Some(top) = fields.integer("top_logprobs", 0..=MAX_TOP_LOGPROBS) {
            sampling.params.logprobs = top as usize;
            if top > 0 && !logprobs {
                fields.fault("top_logprobs", "needs logprobs to be true");
            }
        }
        if sampling.n > app.desk.capacity {
            fields
                .fault("n", format!("is {}, this server takes {} sequences at a time", sampling.n, app.desk.capacity));
        }
        let form = form::read(&mut fields);
        fields.finish()?;
        let model = app.check_model(body)?;
        Ok(Wanted { model, messages, options, sampling, logprobs, form, tools })
    }
}

/// What a prompt is made of.
pub struct Conversation {
    pub messages: Value,
    pub options: RenderOptions,
    pub tools: Option<Tools>,
}

/// Reads messages and tools, and brings them into the form that the model's template takes.
pub fn conversation(app: &App, fields: &mut Fields) -> Conversation {
    let messages = messages::read(fields);
    let tools = tools::read(fields);
    let options = options(fields);
    composed(app, messages, tools, options)
}

/// The same of messages and tools that have been read.
pub fn composed(app: &App, messages: Vec<Value>, tools: Option<Tools>, mut options: RenderOptions) -> Conversation {
    let list = tools.as_ref().map(|tools| &tools.list);
    let source = app.served.template.source();
    if describe::knows_tools(source) {
        options.tools = list.cloned();
        return Conversation { messages: messages.into(), options, tools };
    }
    let (dialect, writes) = (app.dialect(), app.writes_calls());
    let messages = if writes { messages } else { describe::written_out(messages, dialect) };
    let messages = match list {
        Some(list) => describe::told(messages, list, dialect, describe::takes_system(source), !writes),
        None => messages,
    };
    Conversation { messages: messages.into(), options, tools }
}

fn options(fields: &mut Fields) -> RenderOptions {
    let mut extra = Map::new();
    match fields.value("chat_template_kwargs") {
        None => {}
        Some(Value::Object(settings)) => {
            for (name, value) in settings {
                if TEMPLATE_SETTINGS.contains(&name.as_str()) && (value.is_boolean() || value.is_string()) {
                    extra.insert(name.clone(), value.clone());
                } else {
                    let known = TEMPLATE_SETTINGS.join(", ");
                    fields.fault("chat_template_kwargs", format!("may hold {known} (true, false or a string)"));
                }
            }
        }
        Some(other) => fields.fault("chat_template_kwargs", format!("must be an object, it is {}", kind(other))),
    }
    let add_generation_prompt = fields.flag("add_generation_prompt").unwrap_or(true);
    RenderOptions { add_generation_prompt, extra, ..RenderOptions::default() }
}
