//! Ollama's paths: the same answers as OpenAI's, in the other form.

mod common;

use std::time::Duration;

use common::{Answer, Server, app, app_with, read};
use serde_json::{Value, json};

fn server() -> Server {
    Server::start(app(2, 8), Duration::from_secs(30))
}

fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.head.contains("application/x-ndjson"), "{}", answer.head);
    // Chunked: sizes stand on lines of their own.
    answer.body.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_chat_is_answered_as_the_openai_path_answers_it() {
    let server = server();
    let messages = json!([{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]);
    let same = json!({"messages": messages, "temperature": 0, "max_tokens": 12, "repetition_penalty": 1.3});
    let openai = server.post("/v1/chat/completions", &same).json();
    let text = openai["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(!text.is_empty());
    let options = json!({"temperature": 0, "num_predict": 12, "repeat_penalty": 1.3, "num_ctx": 4096, "num_thread": 1});
    let mut body = json!({"model": "tiny:latest", "messages": messages, "options": options, "stream": false});
    let whole = server.post("/api/chat", &body).json();
    assert_eq!(whole["message"], json!({"role": "assistant", "content": text}));
    assert_eq!((&whole["model"], &whole["done"]), (&json!("tiny:latest"), &json!(true)));
    assert_eq!(whole["done_reason"], openai["choices"][0]["finish_reason"]);
    assert_eq!(whole["prompt_eval_count"], openai["usage"]["prompt_tokens"]);
    assert_eq!(whole["eval_count"], openai["usage"]["completion_tokens"]);
    let time = |name: &str| whole[name].as_u64().unwrap();
    assert!(time("prompt_eval_duration") > 0 && time("eval_duration") > 0, "{whole}");
    assert_eq!(time("total_duration"), time("prompt_eval_duration") + time("eval_duration"));
    // A stream is what nobody has to ask for.
    body.as_object_mut().unwrap().remove("stream");
    let pieces = lines(&server.post("/api/chat", &body));
    let streamed: String = pieces.iter().map(|piece| piece["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(streamed, text);
    let [first @ .., last] = pieces.as_slice() else { panic!("{pieces:?}") };
    assert!(first.len() > 3 && first.iter().all(|piece| piece["done"] == false));
    assert_eq!((&last["done"], &last["eval_count"]), (&json!(true), &whole["eval_count"]));
}

#[test]
fn a_prompt_is_answered_through_the_template_or_raw() {
    let server = server();
    let options = json!({"temperature": 0, "num_predict": 8});
    let ask = |extra: Value| {
        let mut body = json!({"model": "tiny", "options": options, "stream": false});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.post("/api/generate", &body).json()
    };
    let openai = |path: &str, prompt: Value| {
        let mut body = json!({"temperature": 0, "max_tokens": 8});
        body.as_object_mut().unwrap().extend(prompt.as_object().unwrap().clone());
        server.post(path, &body).json()["choices"][0].clone()
    };
    let chat = openai("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "abc"}]}));
    assert_eq!(ask(json!({"prompt": "abc"}))["response"], chat["message"]["content"]);
    let messages = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "abc"}]);
    let chat = openai("/v1/chat/completions", json!({"messages": messages}));
    assert_eq!(ask(json!({"prompt": "abc", "system": "s"}))["response"], chat["message"]["content"]);
    let raw = openai("/v1/completions", json!({"prompt": "abc"}));
    assert_eq!(ask(json!({"prompt": "abc", "raw": true}))["response"], raw["text"]);
    let body = json!({"prompt": "abc", "raw": true, "options": options});
    let streamed: String = lines(&server.post("/api/generate", &body))
        .iter()
        .map(|piece| piece["response"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(raw["text"], streamed);
    let schema = json!({"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2});
    let formed = ask(json!({"prompt": "abc", "format": schema}));
    let value: Vec<u8> = serde_json::from_str(formed["response"].as_str().unwrap()).unwrap();
    assert!(value.len() == 2 && value.iter().all(|n| [1, 2].contains(n)), "{formed}");
    let loaded = ask(json!({}));
    assert_eq!((&loaded["response"], &loaded["done_reason"]), (&json!(""), &json!("load")));
    assert_eq!(server.post("/api/chat", &json!({"model": "tiny"})).json()["done_reason"], "load");
}

const MESSAGES: &str = "{% for m in messages %}{{ m['role'][0] + ':' + m['content'] + eos_token }}{% endfor %}\
                        {% if add_generation_prompt %}a:{% endif %}";

/// The model is random: what it may say besides a call is one value, which begins in this way or that, so that both come about.
#[test]
fn functions_are_called_whole_and_with_objects() {
    let template = format!("{{% if tools %}}{{{{ tools | length }}}}{{% endif %}}{{# <tool_call> #}}{MESSAGES}");
    let server = Server::start(app_with(&template, "<unk>"), Duration::from_secs(30));
    let x = json!({"type": "object", "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["x"], "additionalProperties": false});
    let tools = json!([{"type": "function", "function": {"name": "point", "description": "a point", "parameters": x}}]);
    let values = [json!("no"), json!(7), json!(true), Value::Null, json!([])];
    let body = |seed: usize, stream: bool| {
        let user = json!({"role": "user", "content": "x".repeat(seed)});
        json!({"messages": [user], "tools": tools, "format": {"const": values[seed % 5]}, "stream": stream,
            "options": {"temperature": 2.0, "seed": seed, "num_predict": 100}})
    };
    let (mut said, mut called) = (0, 0);
    for seed in 0..40 {
        let whole = server.post("/api/chat", &body(seed, false)).json();
        assert_eq!((&whole["done"], &whole["message"]["role"]), (&json!(true), &json!("assistant")), "{whole}");
        let calls = &whole["message"]["tool_calls"];
        let pieces = lines(&server.post("/api/chat", &body(seed, true)));
        let text: String = pieces.iter().map(|piece| piece["message"]["content"].as_str().unwrap()).collect();
        let of_pieces = pieces.iter().flat_map(|piece| piece["message"]["tool_calls"].as_array().into_iter().flatten());
        let of_pieces: Vec<Value> = of_pieces.cloned().collect();
        let made = calls.as_array().cloned().unwrap_or_default();
        assert_eq!((json!(text), of_pieces), (whole["message"]["content"].clone(), made));
        // One call may follow another until the limit cuts the last: it is not told.
        assert_eq!(pieces.last().unwrap()["done_reason"], whole["done_reason"]);
        match calls.as_array() {
            None => said += usize::from(serde_json::from_str(&text).is_ok_and(|said: Value| said == values[seed % 5])),
            Some(calls) => {
                called += 1;
                for call in calls {
                    let function = &call["function"];
                    assert_eq!((&function["name"], text.as_str()), (&json!("point"), ""), "{whole}");
                    assert!(function["arguments"]["x"].as_u64().is_some_and(|x| x < 10), "{whole}");
                }
            }
        }
    }
    assert!(said > 0 && called > 0, "{said} values, {called} calls");
}

/// Without ids, and with arguments that are objects, a conversation is the prompt that it is on the OpenAI path.
#[test]
fn results_come_back_under_the_names_of_ollama() {
    let server = Server::start(app_with(MESSAGES, "<unk>"), Duration::from_secs(30));
    let user = json!({"role": "user", "content": "where?"});
    let theirs = json!([user, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "point",
        "arguments": {"x": 1}}}]}, {"role": "tool", "content": "there", "tool_name": "point"}]);
    let ours = json!([user, {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
        "function": {"name": "point", "arguments": "{\"x\": 1}"}}]}, {"role": "tool", "content": "there", "tool_call_id": "1"}]);
    let options = json!({"temperature": 0, "num_predict": 8});
    let ollama = server.post("/api/chat", &json!({"messages": theirs, "options": options, "stream": false})).json();
    let openai =
        server.post("/v1/chat/completions", &json!({"messages": ours, "temperature": 0, "max_tokens": 8})).json();
    assert_eq!(ollama["prompt_eval_count"], openai["usage"]["prompt_tokens"], "{ollama} {openai}");
    assert_eq!(ollama["message"]["content"], openai["choices"][0]["message"]["content"]);
    assert!(ollama["prompt_eval_count"].as_u64().unwrap() > 80, "{ollama}");
}

#[test]
fn the_model_is_listed_and_described() {
    let server = server();
    let listed = server.get("/api/tags").json()["models"][0].clone();
    assert_eq!((&listed["model"], &listed["details"]["family"]), (&json!("tiny"), &json!("llama")));
    assert!(listed["size"].as_u64().unwrap() > 10_000, "{listed}");
    let shown = server.post("/api/show", &json!({"model": "tiny"})).json();
    assert_eq!(shown["model_info"]["llama.context_length"], 64);
    assert_eq!(shown["model_info"]["general.architecture"], "llama");
    assert!(shown["template"].as_str().unwrap().contains("add_generation_prompt"));
    assert_eq!(server.post("/api/show", &json!({"name": "tiny"})).status, 200);
    assert_eq!(server.post("/api/show", &json!({"name": "other"})).status, 404);
    assert_eq!(server.get("/api/version").json(), server.get("/version").json());
}

#[test]
fn errors_are_one_text() {
    let server = server();
    let user = json!([{"role": "user", "content": "x"}]);
    for (status, path, body, says) in [
        (404, "/api/chat", json!({"model": "other", "messages": user}), "no model `other`"),
        (400, "/api/chat", json!({"messages": user, "options": {"temperature": 3}}), "options.temperature is 3.0"),
        (400, "/api/chat", json!({"messages": user, "options": {"mirostat": 1}}), "options.mirostat is not supported"),
        (400, "/api/chat", json!({"messages": user, "options": []}), "options must be an object"),
        (400, "/api/chat", json!({"messages": user, "tools": [{}]}), "tools[0].type must be"),
        (400, "/api/chat", json!({"messages": [{"role": "user", "content": "x", "images": ["eA=="]}]}), "images"),
        (400, "/api/generate", json!({"prompt": "x", "context": [1]}), "context must be empty"),
        (400, "/api/generate", json!({"prompt": "x", "think": 3}), "think must be"),
        (400, "/api/generate", json!({"prompt": "x".repeat(70)}), "64 positions"),
        (400, "/api/generate", json!({"prompt": "x", "format": "xml"}), "format must be"),
        (400, "/api/generate", json!({"prompt": "x", "format": {"type": 3}}), "format cannot be used"),
        (400, "/api/show", json!([]), "must be a JSON object"),
    ] {
        let answer = server.post(path, &body);
        assert_eq!(answer.status, status, "{body} {}", answer.body);
        let error = answer.json();
        assert!(error["error"].as_str().unwrap_or_default().contains(says), "{error} lacks {says}");
    }
    assert!(read(server.send("GET", "/api/nowhere", "", "")).json()["error"].is_string());
    assert!(read(server.send("GET", "/api/chat", "", "")).json()["error"].is_string());
    assert!(read(server.send("GET", "/v1/nowhere", "", "")).json()["error"].is_object());
}
