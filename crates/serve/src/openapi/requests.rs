//! The bodies of requests, field by field as the parsers read them; a test holds the two against each other. It knows no
//! handler.

use serde_json::{Value, json};

use super::build::{
    Field, any, flag, integer, list, number, object, or_null, positive, request, said, text, token_ids,
};
use crate::embeddings::MAX_INPUTS;
use crate::messages::MAX_MESSAGES;
use crate::sampling::{MAX_N, MAX_STOPS, MAX_TOKENS, MAX_TOP_LOGPROBS};
use crate::tools::MAX_TOOLS;

fn model() -> Field {
    ("model", said(text(), "What /v1/models lists; the base where it is absent."))
}

fn hello() -> Value {
    json!([{"role": "user", "content": "hello"}])
}

fn messages(least: usize) -> Field {
    let part = json!({"type": "object", "required": ["type", "text"],
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}}});
    let message = json!({"type": "object", "required": ["role"], "properties": {
        "role": said(text(), "system, user, assistant, tool, or what the model's template knows."),
        "content": any(vec![text(), list(part), json!({"type": "null"})]),
        "tool_calls": {"description": "What an assistant called."},
    }});
    ("messages", json!({"type": "array", "minItems": least, "maxItems": MAX_MESSAGES, "items": message}))
}

fn stop() -> Field {
    let one = json!({"type": "string", "minLength": 1});
    let several = json!({"type": "array", "maxItems": MAX_STOPS, "items": one});
    ("stop", any(vec![one, several]))
}

/// What chat and text completions share.
fn sampling() -> Vec<Field> {
    vec![
        ("temperature", said(number(0.0..=2.0), "0 is greedy.")),
        ("top_k", said(integer(-1..=i64::from(u32::MAX)), "0 and -1 keep all.")),
        ("top_p", positive(1.0)),
        ("min_p", number(0.0..=1.0)),
        ("repetition_penalty", positive(10.0)),
        ("presence_penalty", number(-2.0..=2.0)),
        ("frequency_penalty", number(-2.0..=2.0)),
        ("seed", integer(i64::MIN..=i64::MAX)),
        (
            "logit_bias",
            json!({"type": "object", "additionalProperties": number(-100.0..=100.0),
            "propertyNames": {"pattern": "^[0-9]+$"}, "description": "Token ids to what is added to their logits."}),
        ),
        stop(),
        ("stop_token_ids", token_ids()),
        ("ignore_eos", said(flag(), "Go on after the model's own end.")),
        ("n", said(integer(1..=MAX_N), "Answers to each prompt.")),
        ("stream", flag()),
        ("stream_options", object(vec![("include_usage", flag())])),
    ]
}

/// The form of the answer; one of these at most.
fn form() -> Vec<Field> {
    let schema = || json!({"type": ["object", "boolean"], "description": "A JSON schema."});
    let schema_or_text = || any(vec![schema(), said(text(), "A JSON schema as text.")]);
    let choice = || json!({"type": "array", "minItems": 1, "items": {"type": "string"}});
    let named = json!({"type": "object", "required": ["name", "schema"],
        "properties": {"name": text(), "schema": schema(), "strict": {"description": "Answers are kept to the schema in any case."}}});
    let kind = |name: &str| json!({"type": "object", "required": ["type"], "properties": {"type": {"const": name}}});
    let mut schema_kind = kind("json_schema");
    schema_kind["required"] = json!(["type", "json_schema"]);
    schema_kind["properties"]["json_schema"] = named;
    vec![
        ("response_format", any(vec![kind("text"), kind("json_object"), schema_kind])),
        (
            "structured_outputs",
            object(vec![
                ("json", schema_or_text()),
                ("regex", text()),
                ("choice", choice()),
                ("grammar", said(text(), "In the syntax of Lark.")),
                ("json_object", flag()),
            ]),
        ),
        ("guided_json", schema_or_text()),
        ("guided_regex", text()),
        ("guided_choice", choice()),
        ("guided_grammar", text()),
        ("guided_json_object", flag()),
    ]
}

fn template() -> Vec<Field> {
    let setting = || any(vec![flag(), text()]);
    let settings = json!({"type": "object", "additionalProperties": false, "properties":
        {"enable_thinking": setting(), "thinking": setting(), "reasoning_effort": setting()}});
    vec![("chat_template_kwargs", settings), ("add_generation_prompt", flag())]
}

/// Functions that the model may call.
fn functions() -> Field {
    let name = name_of_function();
    let function = json!({"type": "object", "required": ["name"], "properties": {
        "name": name, "description": or_null(text()), "strict": {"description": "A hint unless it is true."},
        "parameters": {"type": ["object", "null"], "description": "A JSON schema."},
    }});
    let tool = json!({"type": "object", "required": ["type", "function"],
        "properties": {"type": {"const": "function"}, "function": function}});
    ("tools", json!({"type": "array", "maxItems": MAX_TOOLS, "items": tool}))
}

fn name_of_function() -> Value {
    json!({"type": "string", "pattern": "^[a-zA-Z0-9_.-]{1,64}$"})
}

fn tools() -> Vec<Field> {
    let name = name_of_function();
    let one = json!({"type": "object", "required": ["type", "function"], "properties": {"type": {"const": "function"},
        "function": {"type": "object", "required": ["name"], "properties": {"name": name}}}});
    let choice = any(vec![json!({"enum": ["none", "auto", "required"]}), one]);
    vec![
        functions(),
        ("tool_choice", said(choice, "A function must be among the tools.")),
        ("parallel_tool_calls", flag()),
    ]
}

pub fn chat() -> Value {
    let mut fields = vec![model(), messages(1)];
    fields.extend(template());
    fields.extend(sampling());
    fields.extend([
        ("max_completion_tokens", integer(1..=MAX_TOKENS)),
        ("max_tokens", said(integer(1..=MAX_TOKENS), "The older name.")),
        ("logprobs", flag()),
        ("top_logprobs", said(integer(0..=MAX_TOP_LOGPROBS), "Needs logprobs.")),
    ]);
    fields.extend(form());
    fields.extend(tools());
    request(&["messages"], fields, json!([{"messages": hello(), "max_tokens": 4}]))
}

pub fn completion() -> Value {
    let ids = || json!({"type": "array", "minItems": 1, "items": integer(0..=i64::from(u32::MAX))});
    let several = json!({"type": "array", "minItems": 1, "items": any(vec![text(), ids()])});
    let mut fields = vec![model(), ("prompt", any(vec![text(), ids(), several]))];
    fields.extend(sampling());
    fields.extend([
        ("max_tokens", said(integer(0..=MAX_TOKENS), "0 with echo only: the prompt's own scores.")),
        ("echo", flag()),
        ("logprobs", integer(0..=MAX_TOP_LOGPROBS)),
        ("suffix", said(json!({"type": "null"}), "Not supported.")),
        ("best_of", said(integer(1..=MAX_N), "As n only.")),
    ]);
    fields.extend(form());
    request(&["prompt"], fields, json!([{"prompt": "hello", "max_tokens": 4}]))
}

pub fn embedding() -> Value {
    let ids = || json!({"type": "array", "minItems": 1, "items": integer(0..=i64::from(u32::MAX))});
    let several = json!({"type": "array", "minItems": 1, "maxItems": MAX_INPUTS, "items": any(vec![text(), ids()])});
    let fields = vec![
        model(),
        ("input", any(vec![text(), ids(), several])),
        ("encoding_format", json!({"enum": ["float", "base64"]})),
        ("dimensions", said(json!({"type": "integer", "minimum": 1}), "The first so many values, of length 1 again.")),
        ("normalize", said(flag(), "To length 1, which is the default.")),
    ];
    request(&["input"], fields, json!([{"input": "hello"}, {"input": ["hello", "you"], "dimensions": 2}]))
}

pub fn tokenize() -> Value {
    let examples = json!([{"prompt": "hello"}, {"messages": hello()}]);
    let mut schema = request(&[], vec![model()], examples);
    let mut conversation = vec![messages(1)];
    conversation.extend(template());
    conversation.extend(tools());
    schema["anyOf"] = json!([
        request(&["prompt"], vec![("prompt", text()), ("add_special_tokens", flag())], json!([])),
        request(&["messages"], conversation, json!([])),
    ]);
    schema
}

pub fn detokenize() -> Value {
    request(&["tokens"], vec![model(), ("tokens", token_ids())], json!([{"tokens": [5, 6]}]))
}

pub fn load_adapter() -> Value {
    let fields = vec![("lora_name", text()), ("lora_path", text()), ("load_inplace", flag())];
    request(&["lora_name", "lora_path"], fields, json!([{"lora_name": "notes", "lora_path": "/adapters/notes"}]))
}

pub fn unload_adapter() -> Value {
    request(&["lora_name"], vec![("lora_name", text())], json!([{"lora_name": "notes"}]))
}

/// What Ollama's chat and generate share.
fn ollama() -> Vec<Field> {
    let options = object(vec![
        ("temperature", number(0.0..=2.0)),
        ("top_k", integer(-1..=i64::from(u32::MAX))),
        ("top_p", positive(1.0)),
        ("min_p", number(0.0..=1.0)),
        ("typical_p", positive(1.0)),
        ("repeat_penalty", positive(10.0)),
        ("presence_penalty", number(-2.0..=2.0)),
        ("frequency_penalty", number(-2.0..=2.0)),
        ("seed", said(integer(i64::MIN..=i64::MAX), "-1 is any.")),
        ("num_predict", said(integer(-2..=MAX_TOKENS), "Longest answer; 0 and below: as there is room.")),
        ("mirostat", said(integer(0..=0), "Not supported.")),
        stop(),
    ]);
    vec![
        model(),
        ("options", options),
        ("stream", said(flag(), "True where it is absent.")),
        ("think", any(vec![flag(), text()])),
        (
            "format",
            any(vec![json!({"enum": ["", "json"]}), json!({"type": "object", "description": "A JSON schema."})]),
        ),
        ("keep_alive", said(json!({}), "Ignored: the model stays.")),
    ]
}

/// A field that Ollama has and this server has not: it may be there, with nothing in it.
fn nothing(what: &str) -> Value {
    said(any(vec![json!({"const": ""}), json!({"type": "array", "maxItems": 0})]), what)
}

pub fn ollama_chat() -> Value {
    let mut fields = ollama();
    fields.extend([messages(0), functions()]);
    request(&[], fields, json!([{"messages": hello(), "stream": false, "options": {"num_predict": 4}}]))
}

pub fn ollama_generate() -> Value {
    let mut fields = ollama();
    fields.extend([
        ("prompt", text()),
        ("system", text()),
        ("raw", said(flag(), "Without the chat template.")),
        ("suffix", nothing("Not supported.")),
        ("template", nothing("The model's own is used; send raw to do without.")),
        ("context", nothing("Not supported; send the conversation to /api/chat.")),
        ("images", nothing("Not supported.")),
    ]);
    request(&[], fields, json!([{"prompt": "hello", "stream": false, "options": {"num_predict": 4}}]))
}

pub fn ollama_show() -> Value {
    request(&[], vec![model(), ("name", said(text(), "The older name of model.")), ("verbose", flag())], json!([{}]))
}
