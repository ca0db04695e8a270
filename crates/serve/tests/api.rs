//! The shapes of answers and of errors, over a socket, and what they must equal.

mod common;

use std::time::Duration;

use common::{Answer, Server, app, engine, read, served};
use ounce_engine::Request;
use ounce_engine::sampler::SamplingParams;
use ounce_serve::{App, Options};
use serde_json::{Value, json};

fn server() -> Server {
    Server::start(app(2, 8), Duration::from_secs(30))
}

fn choice(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["choices"][0].clone()
}

/// What the engine itself says, greedily.
fn directly(prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let params = SamplingParams { max_tokens, ignore_eos: true, ..SamplingParams::default() };
    let mut tokens = Vec::new();
    let request = Request::new(prompt.to_vec(), params);
    engine(1)
        .run(request, |token| {
            tokens.extend(token);
            true
        })
        .unwrap();
    tokens
}

#[test]
fn a_greedy_answer_is_what_the_engine_says() {
    let server = server();
    let tokenizer = served().tokenizer;
    for prompt in [vec![5u32, 9, 14, 3, 77], vec![40, 41, 42]] {
        let tokens = directly(&prompt, 12);
        let text = tokenizer.decode(&tokens, true);
        let body = json!({"prompt": prompt, "temperature": 0, "max_tokens": 12, "ignore_eos": true, "logprobs": 2});
        let whole = choice(&server.post("/v1/completions", &body));
        assert_eq!((&whole["text"], &whole["finish_reason"]), (&json!(text), &json!("length")));
        for (token, id) in whole["logprobs"]["tokens"].as_array().unwrap().iter().zip(&tokens) {
            assert_eq!(token, &json!(String::from_utf8_lossy(&tokenizer.token_bytes(*id))));
        }
        let mut body = body;
        body["stream"] = true.into();
        let (events, done) = server.post("/v1/completions", &body).events();
        let streamed: String = events.iter().filter_map(|e| e["choices"][0]["text"].as_str()).collect();
        assert_eq!((streamed, done), (text, true));
    }
}

#[test]
fn chat_goes_through_the_template_and_counts_what_it_did() {
    let server = server();
    // A special token that a message spells out is text.
    let messages =
        json!([{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": "</s>"}]}]);
    let ids = server.post("/tokenize", &json!({"messages": messages})).json();
    let tokenizer = served().tokenizer;
    assert_eq!(ids["tokens"].as_array().unwrap().iter().filter(|id| **id == 2).count(), 1, "{ids}");
    let prompt: Vec<u32> = ids["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    assert_eq!(tokenizer.decode(&prompt, false), "u:hi</s></s>a:");
    let body = json!({"model": "tiny", "messages": messages, "temperature": 0, "max_completion_tokens": 9,
        "ignore_eos": true, "logprobs": true, "top_logprobs": 3});
    let answer = server.post("/v1/chat/completions", &body);
    let first = choice(&answer);
    let text = tokenizer.decode(&directly(&prompt, 9), true);
    assert_eq!(first["message"], json!({"role": "assistant", "content": text, "refusal": null}));
    let usage = answer.json()["usage"].clone();
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(prompt.len()), &json!(9)));
    let tokens = first["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 9);
    for token in tokens {
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 3);
        assert_eq!(token["top_logprobs"][0]["logprob"], token["logprob"], "greedy takes the first");
    }

    let mut body = body;
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let answer = server.post("/v1/chat/completions", &body);
    assert!(answer.head.contains("text/event-stream"), "{}", answer.head);
    let (events, done) = answer.events();
    assert!(done);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let streamed: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(streamed, text);
    let [.., finish, last] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(finish["choices"][0]["finish_reason"], "length");
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(9)));
}

#[test]
fn stop_strings_several_answers_and_bias_are_heeded() {
    let server = server();
    let ask = |extra: Value| {
        let mut body = json!({"prompt": "abc", "temperature": 0, "max_tokens": 20, "ignore_eos": true});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.post("/v1/completions", &body)
    };
    let text = choice(&ask(json!({})))["text"].as_str().unwrap().to_owned();
    let stop = &text[4..6];
    let stopped = choice(&ask(json!({"stop": stop})));
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(stopped["text"], text[..text.find(stop).unwrap()]);
    let several = ask(json!({"n": 3, "temperature": 1.5, "seed": 4})).json();
    let texts: Vec<&str> = several["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts.len(), 3);
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    let again = ask(json!({"n": 3, "temperature": 1.5, "seed": 4})).json();
    assert_eq!(again["choices"], several["choices"]);
    assert_eq!(choice(&ask(json!({"logit_bias": {"40": 100}})))["text"], served().tokenizer.decode(&[40; 20], true));
}

/// What lm-eval reads: scores of a prompt, with the most likely token of each place under the same float.
#[test]
fn prompts_are_scored_with_one_float_for_the_greedy_token() {
    let server = server();
    let prompt: Vec<u32> = [5u32, 9, 14].into_iter().chain(directly(&[5, 9, 14], 8)).collect();
    let body = json!({"prompt": [prompt, [7, 8]], "echo": true, "logprobs": 1, "max_tokens": 1, "temperature": 0});
    let answer = server.post("/v1/completions", &body).json();
    let scores = &answer["choices"][0]["logprobs"];
    let (each, top) = (scores["token_logprobs"].as_array().unwrap(), scores["top_logprobs"].as_array().unwrap());
    assert_eq!(each.len(), prompt.len() + 1);
    assert!(each[0].is_null() && top[0].is_null());
    for at in 3..prompt.len() {
        let best = top[at].as_object().unwrap().values().filter_map(Value::as_f64).fold(f64::MIN, f64::max);
        assert_eq!(Some(best), each[at].as_f64(), "place {at} was chosen greedily");
    }
    assert_eq!(answer["choices"][1]["logprobs"]["token_logprobs"].as_array().unwrap().len(), 3);
    let mut body = body;
    body["max_tokens"] = 0.into();
    let only = server.post("/v1/completions", &body).json();
    assert_eq!(only["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap()[..], each[..prompt.len()]);
    assert_eq!(only["usage"]["completion_tokens"], 0);
}

#[test]
fn tokens_go_there_and_back() {
    let server = server();
    let there = server.post("/tokenize", &json!({"prompt": "two words"})).json();
    assert_eq!((&there["count"], &there["max_model_len"]), (&json!(9), &json!(64)));
    let back = server.post("/detokenize", &json!({"tokens": there["tokens"]})).json();
    assert_eq!(back, json!({"prompt": "two words"}));
}

#[test]
fn errors_have_the_apis_shape_and_name_the_field() {
    let server = server();
    let user = json!([{"role": "user", "content": "x"}]);
    let long = "x".repeat(64);
    let cases = [
        (400, json!("messages"), json!({})),
        (400, json!("messages"), json!({"messages": "x"})),
        (400, json!("messages[0].role"), json!({"messages": [{"content": "x"}]})),
        (
            400,
            json!("messages[0].content[0].type"),
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        ),
        (400, json!("temperature"), json!({"messages": user, "temperature": 2.5})),
        (400, json!("temperature"), json!({"messages": user, "temperature": "hot"})),
        (400, json!("top_p"), json!({"messages": user, "top_p": 0})),
        (400, json!("n"), json!({"messages": user, "n": 9})),
        (400, json!("max_tokens"), json!({"messages": user, "max_tokens": -1})),
        (400, json!("stop"), json!({"messages": user, "stop": ["a", "b", "c", "d", "e"]})),
        (400, json!("top_logprobs"), json!({"messages": user, "logprobs": true, "top_logprobs": 21})),
        (400, json!("logit_bias"), json!({"messages": user, "logit_bias": {"x": 1}})),
        (400, json!("seed"), json!({"messages": user, "seed": 9223372036854775808u64})),
        (400, json!("stream_options"), json!({"messages": user, "stream_options": 1})),
        (400, json!("tools[0].type"), json!({"messages": user, "tools": [{}]})),
        (400, json!("response_format.type"), json!({"messages": user, "response_format": {"type": "yaml"}})),
        (400, json!("chat_template_kwargs"), json!({"messages": user, "chat_template_kwargs": {"chat_template": "x"}})),
        (404, json!("model"), json!({"messages": user, "model": "other"})),
        (400, json!("messages"), json!({"messages": [{"role": "user", "content": long}]})),
    ];
    for (status, param, body) in cases {
        let answer = server.post("/v1/chat/completions", &body);
        assert_eq!(answer.status, status, "{body} {}", answer.body);
        let error = answer.json()["error"].clone();
        assert_eq!((&error["param"], &error["type"]), (&param, &json!("invalid_request_error")), "{body} {error}");
        assert!(error["message"].is_string() && error.as_object().unwrap().contains_key("code"), "{error}");
    }
    let long = server.post("/v1/completions", &json!({"prompt": vec![3; 64]})).json();
    assert_eq!(long["error"]["code"], "context_length_exceeded");
    let message = long["error"]["message"].as_str().unwrap();
    assert!(message.contains("64 tokens") && message.contains("64 positions"), "{message}");
    assert_eq!(
        server.post("/v1/chat/completions", &json!({"messages": user, "model": "other"})).json()["error"]["code"],
        "model_not_found"
    );
    // Fields of other servers are let be.
    let body = json!({"messages": user, "user": "me", "top_a": {}, "max_tokens": 2, "min_tokens": null});
    assert_eq!(server.post("/v1/chat/completions", &body).status, 200);
    for (method, path, status) in
        [("GET", "/nowhere", 404), ("GET", "/v1/completions", 405), ("GET", "/v1/models/x", 404)]
    {
        let answer = read(server.send(method, path, "", ""));
        assert_eq!((answer.status, answer.json()["error"]["type"].as_str()), (status, Some("invalid_request_error")));
    }
    assert_eq!(server.get("/v1/models").json()["data"][0]["id"], "tiny");
    assert_eq!(server.get("/v1/models/tiny").json()["max_model_len"], 64);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn keys_names_and_origins_are_checked() {
    let options =
        Options { queue: 1, keys: vec!["k1".into(), "k2".into()], local_names_only: true, ..Options::default() };
    let server = Server::start(App::start(engine(1), served(), &options).unwrap(), Duration::from_secs(5));
    let status = |headers: &str, path: &str| read(server.send("GET", path, headers, "")).status;
    let denied = read(server.send("GET", "/v1/models", "Authorization: Bearer k3\r\n", ""));
    assert_eq!((denied.status, denied.json()["error"]["type"].as_str()), (401, Some("authentication_error")));
    assert_eq!(status("", "/metrics"), 401);
    assert_eq!(status("", "/health"), 200);
    let key = "Authorization: Bearer k2\r\n";
    assert_eq!(status(key, "/v1/models"), 200);
    assert_eq!(status(&format!("{key}Origin: http://localhost\r\n"), "/v1/models"), 200);
    for origin in ["http://evil.example", "null", "http://localhost.evil.example"] {
        assert_eq!(status(&format!("{key}Origin: {origin}\r\n"), "/v1/models"), 403, "{origin}");
    }
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    std::io::Write::write_all(
        &mut stream,
        format!("GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n{key}Connection: close\r\n\r\n").as_bytes(),
    )
    .unwrap();
    assert_eq!(read(stream).status, 403);
}

/// Where keys are kept apart, a prompt is found again under its own key only; elsewhere under any.
#[test]
fn a_key_finds_in_the_cache_what_itself_has_asked() {
    let prompt: Vec<u32> = (0..40).map(|i| 3 + i * 7 % 90).collect();
    let body = json!({"prompt": prompt, "max_tokens": 1}).to_string();
    for isolate_cache in [true, false] {
        let keys = vec!["k1".into(), "k2".into()];
        let options = Options { queue: 1, keys, isolate_cache, local_names_only: true, ..Options::default() };
        let server = Server::start(App::start(engine(4), served(), &options).unwrap(), Duration::from_secs(5));
        let mut cached = |key: &str| {
            let headers = format!("Authorization: Bearer {key}\r\nContent-Type: application/json\r\n");
            let answer = read(server.send("POST", "/v1/completions", &headers, &body));
            answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64()
        };
        let found = ["k1", "k1", "k2", "k2", "k1"].map(&mut cached);
        let apart = if isolate_cache { 0 } else { 32 };
        assert_eq!(found, [0, 32, apart, 32, 32].map(Some), "{isolate_cache}");
    }
}

/// One prompt with two answers, and a crowd's worth that finds no room: each series has what was asked and what came of it.
#[test]
fn metrics_count_what_was_asked_and_given() {
    let server = server();
    let body = json!({"prompt": [5, 9, 14], "n": 2, "max_tokens": 5, "ignore_eos": true});
    assert_eq!(server.post("/v1/completions", &body).status, 200);
    let value = |name: &str| server.metric(&format!("vllm:{name}{{model_name=\"tiny\",engine=\"0\""));
    common::eventually("both are counted", || server.ended("length") == 2.0);
    for (name, count, sum) in [
        ("request_prompt_tokens", 2.0, 6.0),
        ("request_generation_tokens", 2.0, 10.0),
        ("request_max_num_generation_tokens", 1.0, 5.0),
        ("request_params_n", 1.0, 2.0),
        ("request_params_max_tokens", 2.0, 10.0),
    ] {
        assert_eq!((value(&format!("{name}_count")), value(&format!("{name}_sum"))), (count, sum), "{name}");
    }
    // Tokens in the steps: what was given, and prompts but for what the second found in the cache.
    let worked = value("iteration_tokens_total_sum");
    assert!((13.0..=16.0).contains(&worked) && value("iteration_tokens_total_count") >= 5.0, "{worked}");
    let seconds = |name: &str| {
        assert_eq!(value(&format!("{name}_seconds_count")), 2.0, "{name}");
        value(&format!("{name}_seconds_sum"))
    };
    let [queue, prefill, decode, inference] =
        ["queue", "prefill", "decode", "inference"].map(|name| seconds(&format!("request_{name}_time")));
    let [first, whole] = ["time_to_first_token", "e2e_request_latency"].map(seconds);
    let near = |a: f64, b: f64| (a - b).abs() < 1e-3 + 0.05 * b;
    assert!(
        near(prefill + decode, inference) && near(queue + prefill, first),
        "{queue} {prefill} {decode} {inference}"
    );
    assert!(inference > 0.0 && queue + inference <= whole, "{queue} {inference} {whole}");
    // 64 positions for each of two sequences, in blocks of 16 tokens.
    let cache = server.get("/metrics").body;
    assert!(cache.contains("block_size=\"16\",num_gpu_blocks=\"8\",enable_prefix_caching=\"true\"} 1"), "{cache}");
    assert_eq!(value("admission_rejections_total"), 0.0);
    let many = json!({"prompt": vec!["x"; 10], "max_tokens": 50, "ignore_eos": true});
    let statuses = std::thread::scope(|scope| {
        let asked = [0; 4].map(|_| scope.spawn(|| server.post("/v1/completions", &many).status));
        asked.map(|thread| thread.join().unwrap())
    });
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert_eq!(value("admission_rejections_total"), refused as f64, "{statuses:?}");
    assert!(refused > 0, "{statuses:?}");
}
