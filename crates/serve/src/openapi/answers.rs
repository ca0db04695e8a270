//! What answers hold, as clients may rely on it. It knows no handler.

use serde_json::{Value, json};

use super::build::{answer, any, count, flag, list, or_null, text};

pub fn error() -> Value {
    let error =
        answer(vec![("message", text()), ("type", text()), ("param", or_null(text())), ("code", or_null(text()))]);
    answer(vec![("error", error)])
}

pub fn ollama_error() -> Value {
    answer(vec![("error", text())])
}

fn constant(value: &str) -> Value {
    json!({"const": value})
}

fn usage() -> Value {
    answer(vec![
        ("prompt_tokens", count()),
        ("completion_tokens", count()),
        ("total_tokens", count()),
        ("prompt_tokens_details", answer(vec![("cached_tokens", count())])),
    ])
}

fn completion_of(object: &str, choice: Value) -> Value {
    answer(vec![
        ("id", text()),
        ("object", constant(object)),
        ("created", count()),
        ("model", text()),
        ("choices", list(choice)),
        ("usage", usage()),
    ])
}

fn logprob(more: bool) -> Value {
    let mut fields = vec![("token", text()), ("logprob", json!({"type": "number"})), ("bytes", list(count()))];
    if more {
        fields.push(("top_logprobs", list(logprob(false))));
    }
    answer(fields)
}

pub fn chat() -> Value {
    let mut message = answer(vec![
        ("role", constant("assistant")),
        ("content", or_null(text())),
        ("refusal", json!({"type": "null"})),
    ]);
    let function = answer(vec![("name", text()), ("arguments", text())]);
    message["properties"]["tool_calls"] =
        list(answer(vec![("id", text()), ("type", constant("function")), ("function", function)]));
    completion_of(
        "chat.completion",
        answer(vec![
            ("index", count()),
            ("message", message),
            ("logprobs", or_null(answer(vec![("content", list(logprob(true)))]))),
            ("finish_reason", json!({"enum": ["stop", "length", "tool_calls"]})),
        ]),
    )
}

pub fn completion() -> Value {
    let number = || json!({"type": ["number", "null"]});
    let top = json!({"type": ["object", "null"], "additionalProperties": {"type": "number"}});
    let scores = answer(vec![
        ("tokens", list(text())),
        ("token_logprobs", list(number())),
        ("top_logprobs", list(top)),
        ("text_offset", list(count())),
    ]);
    completion_of(
        "text_completion",
        answer(vec![
            ("index", count()),
            ("text", text()),
            ("logprobs", or_null(scores)),
            ("finish_reason", json!({"enum": ["stop", "length", null]})),
        ]),
    )
}

pub fn embeddings() -> Value {
    let vector = any(vec![list(json!({"type": "number"})), text()]);
    let one = answer(vec![("object", constant("embedding")), ("index", count()), ("embedding", vector)]);
    let usage = answer(vec![("prompt_tokens", count()), ("total_tokens", count())]);
    answer(vec![("object", constant("list")), ("data", list(one)), ("model", text()), ("usage", usage)])
}

pub fn model() -> Value {
    answer(vec![
        ("id", text()),
        ("object", constant("model")),
        ("created", count()),
        ("owned_by", text()),
        ("root", text()),
        ("parent", or_null(text())),
        ("max_model_len", count()),
    ])
}

pub fn models() -> Value {
    answer(vec![("object", constant("list")), ("data", list(model()))])
}

pub fn tokens() -> Value {
    answer(vec![("count", count()), ("max_model_len", count()), ("tokens", list(count()))])
}

pub fn text_of() -> Value {
    answer(vec![("prompt", text())])
}

/// Both the first answer to a request without a prompt and the last of a stream are like this.
fn ollama(piece: (&'static str, Value)) -> Value {
    let mut schema = answer(vec![("model", text()), ("created_at", text()), ("done", flag()), piece]);
    schema["properties"]["done_reason"] = json!({"enum": ["stop", "length", "load"]});
    for name in
        ["total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"]
    {
        schema["properties"][name] = count();
    }
    schema
}

pub fn ollama_chat() -> Value {
    let mut message = answer(vec![("role", constant("assistant")), ("content", text())]);
    let arguments = json!({"type": "object"});
    let function = answer(vec![("name", text()), ("arguments", arguments)]);
    message["properties"]["tool_calls"] = list(answer(vec![("function", function)]));
    ollama(("message", message))
}

pub fn ollama_generate() -> Value {
    ollama(("response", text()))
}

fn details() -> Value {
    answer(vec![
        ("parent_model", text()),
        ("family", text()),
        ("families", list(text())),
        ("parameter_size", text()),
        ("quantization_level", text()),
    ])
}

pub fn ollama_models() -> Value {
    let model = answer(vec![
        ("name", text()),
        ("model", text()),
        ("modified_at", text()),
        ("size", count()),
        ("digest", text()),
        ("details", details()),
    ]);
    answer(vec![("models", list(model))])
}

pub fn ollama_model() -> Value {
    answer(vec![
        ("modelfile", text()),
        ("parameters", text()),
        ("template", text()),
        ("details", details()),
        ("model_info", json!({"type": "object", "additionalProperties": any(vec![text(), count()])})),
        ("capabilities", list(text())),
        ("modified_at", text()),
    ])
}

pub fn version() -> Value {
    answer(vec![("version", text())])
}

pub fn health() -> Value {
    answer(vec![("status", constant("ok"))])
}

pub fn document() -> Value {
    json!({"type": "object", "required": ["openapi", "paths"]})
}
