//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use ounce_formats::prompt;
use ounce_formats::template::RenderOptions;
use ounce_grammar::Grammar;
use serde_json::{Map, Value, json};

use crate::answers::{Answers, Part};
use crate::app::{App, model_field, now};
use crate::body;
use crate::choices::{chat_logprob, usage};
use crate::error::{ApiError, json_response};
use crate::fields::{Fields, kind};
use crate::form::{self, Asked};
use crate::messages;
use crate::sampling::{MAX_TOP_LOGPROBS, Sampling};
use crate::sse::{self, Events};

/// Settings that a request may give to the template.
const TEMPLATE_SETTINGS: [&str; 3] = ["enable_thinking", "thinking", "reasoning_effort"];

pub async fn handle(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = body::read(request).await?;
    let wanted = Wanted::read(&app, &body)?;
    let prompt = encode(&app, wanted.messages, wanted.options).await?;
    app.check_prompt("messages", &prompt)?;
    let sampling = wanted.sampling;
    let grammar = form::compile(&app, wanted.form).await?;
    let requests = sampling.each().map(|params| ounce_engine::Request {
        constraint: grammar.as_ref().map(Grammar::constraint),
        ..ounce_engine::Request::new(prompt.clone(), params)
    });
    let answers =
        Answers::new(app.submit(&wanted.model, requests.collect())?, &app.served.tokenizer, &sampling.params.stop);
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
        true => Ok(sse::response(|events| reply.stream(answers, sampling.n, events))),
        false => reply.whole(answers, sampling.n).await,
    }
}

/// The tokens of a conversation, made on a thread of its own.
pub async fn encode(app: &Arc<App>, messages: Value, options: RenderOptions) -> Result<Vec<u32>, ApiError> {
    let app = app.clone();
    let encode = move || prompt::encode_chat(&app.served.template, &app.served.tokenizer, &messages, &options);
    let encoded = tokio::task::spawn_blocking(encode).await;
    encoded
        .map_err(|_| ApiError::internal("the prompt could not be made"))?
        .map_err(|e| ApiError::field("messages", format!("messages cannot be made a prompt: {e}")))
}

/// What a request asks for.
struct Wanted {
    model: Arc<str>,
    messages: Value,
    options: RenderOptions,
    sampling: Sampling,
    logprobs: bool,
    form: Option<Asked>,
}

impl Wanted {
    fn read(app: &App, body: &Value) -> Result<Wanted, ApiError> {
        let mut fields = Fields::of(body)?;
        model_field(&mut fields);
        let messages = messages::read(&mut fields);
        let options = options(&mut fields);
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
        refuse_unsupported(&mut fields);
        fields.finish()?;
        let model = app.check_model(body)?;
        Ok(Wanted { model, messages, options, sampling, logprobs, form })
    }
}

pub fn options(fields: &mut Fields) -> RenderOptions {
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

/// What would change the answer's form and is not there yet must not be passed over in silence.
fn refuse_unsupported(fields: &mut Fields) {
    let no_tools = fields.value("tool_choice").is_some_and(|choice| choice == "none");
    match fields.value("tools") {
        None => {}
        Some(Value::Array(tools)) if tools.is_empty() || no_tools => {}
        Some(_) => fields.fault("tools", "must be empty: tools are not supported yet"),
    }
}

/// What all parts of an answer have in common.
struct Reply {
    app: Arc<App>,
    id: String,
    created: u64,
    model: Arc<str>,
    prompt_tokens: usize,
    logprobs: bool,
    include_usage: bool,
}

impl Reply {
    async fn whole(self, mut answers: Answers, n: usize) -> Result<Response, ApiError> {
        let (mut texts, mut logprobs) = (vec![String::new(); n], vec![Vec::new(); n]);
        let mut reasons = vec![""; n];
        while let Some(part) = answers.next().await? {
            texts[part.index] += &part.text;
            logprobs[part.index].extend(self.logprobs_of(&part));
            reasons[part.index] = part.finish.unwrap_or_default();
        }
        let choices = texts.into_iter().zip(logprobs).zip(reasons).enumerate();
        let choices: Vec<Value> = choices
            .map(|(index, ((text, logprobs), reason))| {
                json!({
                    "index": index,
                    "message": {"role": "assistant", "content": text, "refusal": null},
                    "logprobs": self.logprobs.then(|| json!({"content": logprobs})),
                    "finish_reason": reason,
                })
            })
            .collect();
        let mut out = self.head("chat.completion");
        out["choices"] = choices.into();
        out["usage"] = usage(self.prompt_tokens, answers.tokens, answers.cached);
        Ok(json_response(&out))
    }

    async fn stream(self, mut answers: Answers, n: usize, events: Events) {
        for index in 0..n {
            events.send(&self.chunk(index, json!({"role": "assistant", "content": ""}), Value::Null, None)).await;
        }
        loop {
            let part = match answers.next().await {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(error) => return events.send(&error.json()).await,
            };
            let scored = self.logprobs_of(&part);
            if !part.text.is_empty() || scored.is_some() {
                let logprobs = scored.map_or(Value::Null, |scored| json!({"content": [scored]}));
                events.send(&self.chunk(part.index, json!({"content": part.text}), logprobs, None)).await;
            }
            if part.finish.is_some() {
                events.send(&self.chunk(part.index, json!({}), Value::Null, part.finish)).await;
            }
        }
        if self.include_usage {
            let mut out = self.head("chat.completion.chunk");
            out["choices"] = json!([]);
            out["usage"] = usage(self.prompt_tokens, answers.tokens, answers.cached);
            events.send(&out).await;
        }
        events.done().await;
    }

    fn logprobs_of(&self, part: &Part) -> Option<Value> {
        let scored = part.token.as_ref().filter(|_| self.logprobs)?;
        Some(chat_logprob(&self.app.served.tokenizer, scored))
    }

    fn chunk(&self, index: usize, delta: Value, logprobs: Value, finish: Option<&str>) -> Value {
        let mut out = self.head("chat.completion.chunk");
        out["choices"] = json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]);
        out
    }

    fn head(&self, object: &str) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": &*self.model})
    }
}
