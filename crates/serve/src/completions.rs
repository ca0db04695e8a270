//! `POST /v1/completions`: texts or token ids continued as they are, and scored where log probabilities are asked for.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use ounce_grammar::Grammar;
use serde_json::{Value, json};

use crate::answers::{Answers, Part};
use crate::app::{App, model_field, now};
use crate::body;
use crate::choices::{TextLogprobs, usage};
use crate::error::{ApiError, json_response};
use crate::fields::{Fields, token_ids};
use crate::form::{self, Asked};
use crate::sampling::{MAX_TOP_LOGPROBS, Sampling};
use crate::sse::{self, Events};

/// What the OpenAI API takes where a request gives no limit.
const DEFAULT_TOKENS: usize = 16;

pub async fn handle(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let wanted = body::read(&app, request, Wanted::read).await?;
    let sampling = wanted.sampling;
    let (prompts, n, capacity) = (wanted.prompts.len(), sampling.n, app.desk.capacity);
    if prompts * n > capacity {
        let what =
            format!("{prompts} prompts with n = {n} are more than the {capacity} sequences that this server takes");
        return Err(ApiError::field("prompt", what));
    }
    let prompts = encode(&app, "prompt", wanted.prompts).await?;
    for prompt in &prompts {
        app.check_prompt("prompt", prompt)?;
    }
    let grammar = form::compile(&app, wanted.asked).await?;
    let requests = prompts.iter().flat_map(|prompt| {
        sampling.each().map(|params| ounce_engine::Request {
            constraint: grammar.as_ref().map(Grammar::constraint),
            ..ounce_engine::Request::new(prompt.clone(), params)
        })
    });
    let answers = Answers::new(
        app.submit(&wanted.model, sampling.n, requests.collect())?,
        &app.served.tokenizer,
        &sampling.params.stop,
        true,
    );
    let choices = prompts.iter().flat_map(|prompt| (0..sampling.n).map(|_| Choice::new(&app, prompt, &wanted.shown)));
    let reply = Reply {
        id: app.id("cmpl"),
        created: now(),
        model: wanted.model,
        prompt_tokens: prompts.iter().map(Vec::len).sum(),
        include_usage: sampling.include_usage,
        choices: choices.collect(),
        shown: wanted.shown,
        app,
    };
    match sampling.stream {
        true => Ok(sse::response(|events| reply.stream(answers, events))),
        false => reply.whole(answers).await,
    }
}

/// A prompt as it was sent.
pub enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

/// What of a sequence is shown.
#[derive(Clone, Copy)]
struct Shown {
    echo: bool,
    logprobs: bool,
    /// No answer is wanted, only the prompt with its scores.
    prompt_only: bool,
}

struct Wanted {
    model: Arc<str>,
    prompts: Vec<Prompt>,
    sampling: Sampling,
    shown: Shown,
    asked: Option<Asked>,
}

impl Wanted {
    fn read(app: &App, body: &Value) -> Result<Wanted, ApiError> {
        let mut fields = Fields::of(body)?;
        model_field(&mut fields);
        let prompts = prompts(fields.value("prompt"));
        if prompts.is_none() {
            fields.fault("prompt", "must be a string, a list of strings, a list of token ids or a list of such lists");
        }
        let mut sampling = Sampling::read(&mut fields, &app.served.generation);
        let echo = fields.flag("echo").unwrap_or(false);
        sampling.limit(&mut fields, &["max_tokens"], i64::from(!echo), DEFAULT_TOKENS);
        let logprobs = fields.integer("logprobs", 0..=MAX_TOP_LOGPROBS).map(|n| n as usize);
        for name in ["suffix", "best_of"] {
            let usual = |value: &Value| name == "best_of" && value.as_u64() == Some(sampling.n as u64);
            if fields.value(name).is_some_and(|value| !usual(value)) {
                fields.fault(name, "is not supported");
            }
        }
        let asked = form::read(&mut fields);
        fields.finish()?;
        let model = app.check_model(body)?;
        let shown = Shown { echo, logprobs: logprobs.is_some(), prompt_only: sampling.params.max_tokens == 0 };
        // The engine generates at least one; it is left out.
        sampling.params.max_tokens = sampling.params.max_tokens.max(1);
        sampling.params.logprobs = logprobs.unwrap_or(0);
        sampling.params.prompt_logprobs = logprobs.filter(|_| echo);
        Ok(Wanted { model, prompts: prompts.unwrap_or_default(), sampling, shown, asked })
    }
}

/// A text, a list of texts, a list of token ids or a list of such lists.
pub fn prompts(value: Option<&Value>) -> Option<Vec<Prompt>> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(Prompt::Text(text.clone())),
        other => token_ids(other).map(Prompt::Tokens),
    };
    match value? {
        Value::Array(list) if list.is_empty() => None,
        Value::Array(list) if !list[0].is_number() => list.iter().map(one).collect(),
        other => Some(vec![one(other)?]),
    }
}

/// The tokens of all prompts, made on a thread of its own. A text's special tokens count: it is the whole prompt.
pub async fn encode(app: &Arc<App>, param: &'static str, prompts: Vec<Prompt>) -> Result<Vec<Vec<u32>>, ApiError> {
    let of = app.clone();
    let bytes = prompts.iter().map(|prompt| if let Prompt::Text(text) = prompt { text.len() } else { 0 }).sum();
    let encode = move || {
        let one = |prompt| match prompt {
            Prompt::Text(text) => of.served.tokenizer.encode(&text, true),
            Prompt::Tokens(ids) => Ok(ids),
        };
        prompts.into_iter().map(one).collect::<Result<Vec<_>, _>>()
    };
    let encoded = app.texts.run(bytes, encode).await;
    encoded
        .ok_or_else(|| ApiError::internal("the prompt could not be made"))?
        .map_err(|e| ApiError::field(param, format!("{param} cannot be tokenized: {e}")))
}

/// A sequence as its client sees it.
struct Choice {
    text: String,
    logprobs: TextLogprobs,
    reason: &'static str,
}

impl Choice {
    fn new(app: &App, prompt: &[u32], shown: &Shown) -> Choice {
        let tokenizer = &app.served.tokenizer;
        let mut choice = Choice { text: String::new(), logprobs: TextLogprobs::default(), reason: "" };
        if shown.echo {
            choice.text = tokenizer.decode(prompt, false);
            choice.logprobs.push_first(tokenizer, prompt[0]);
        }
        choice
    }

    fn take(&mut self, app: &App, part: &Part, shown: &Shown) {
        if let Some(scored) = &part.prompt {
            self.logprobs.push(&app.served.tokenizer, scored);
        }
        if !shown.prompt_only {
            self.text += &part.text;
            // Clients that score prompts leave out the last entry, so a token that ended the answer has one, too.
            for scored in part.token.iter().chain(&part.end) {
                self.logprobs.push(&app.served.tokenizer, scored);
            }
        }
        self.reason = part.finish.unwrap_or_default();
    }

    /// What has come since the last call.
    fn json(&mut self, index: usize, shown: &Shown) -> Value {
        let logprobs = self.logprobs.take();
        json!({
            "index": index,
            "text": std::mem::take(&mut self.text),
            "logprobs": shown.logprobs.then_some(logprobs),
            "finish_reason": Some(self.reason).filter(|reason| !reason.is_empty()),
        })
    }
}

struct Reply {
    app: Arc<App>,
    id: String,
    created: u64,
    model: Arc<str>,
    prompt_tokens: usize,
    include_usage: bool,
    shown: Shown,
    choices: Vec<Choice>,
}

impl Reply {
    async fn whole(mut self, mut answers: Answers) -> Result<Response, ApiError> {
        while let Some(part) = answers.next().await? {
            self.choices[part.index].take(&self.app, &part, &self.shown);
        }
        let choices = self.choices.iter_mut().enumerate().map(|(index, choice)| choice.json(index, &self.shown));
        let choices: Vec<Value> = choices.collect();
        let mut out = self.head();
        out["choices"] = choices.into();
        out["usage"] = self.usage(&answers);
        Ok(json_response(&out))
    }

    async fn stream(mut self, mut answers: Answers, events: Events) {
        loop {
            let part = match answers.next().await {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(error) => return events.send(&error.json()).await,
            };
            let choice = &mut self.choices[part.index];
            choice.take(&self.app, &part, &self.shown);
            // Scores of a prompt go out with what follows it.
            if part.prompt.is_none() && (!choice.text.is_empty() || self.shown.logprobs || part.finish.is_some()) {
                let choice = choice.json(part.index, &self.shown);
                let mut out = self.head();
                out["choices"] = json!([choice]);
                events.send(&out).await;
            }
        }
        if self.include_usage {
            let mut out = self.head();
            out["choices"] = json!([]);
            out["usage"] = self.usage(&answers);
            events.send(&out).await;
        }
        events.done().await;
    }

    fn usage(&self, answers: &Answers) -> Value {
        usage(self.prompt_tokens, if self.shown.prompt_only { 0 } else { answers.tokens }, answers.cached)
    }

    fn head(&self) -> Value {
        json!({"id": self.id, "object": "text_completion", "created": self.created, "model": &*self.model})
    }
}
