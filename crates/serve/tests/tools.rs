//! Functions offered to a model, over a socket: calls in every dialect, whole and as a stream, and what is refused. The model is
//! random, so each call is one that the grammar forced.

mod common;

use std::time::Duration;

use common::{Answer, Server, app_with};
use serde_json::{Value, json};

const MESSAGES: &str = "{% for m in messages %}{{ m['role'][0] + ':' + m['content'] + eos_token }}{% endfor %}\
                        {% if add_generation_prompt %}a:{% endif %}";

/// Chat templates that give dialects away.
fn templates() -> [(&'static str, String); 5] {
    let knows = "{% if tools %}{{ tools | length }}{% endif %}";
    [
        ("tagged", format!("{knows}{{# <tool_call> #}}{MESSAGES}")),
        ("llama", format!("{knows}{{# \"parameters\": #}}{MESSAGES}")),
        ("mistral", format!("{knows}{{# [TOOL_CALLS] #}}{MESSAGES}")),
        ("plain", format!("{knows}{MESSAGES}")),
        ("pairs", format!("{knows}{{# <tool_call> <arg_key> <arg_value> #}}{MESSAGES}")),
    ]
}

fn server(template: &str) -> Server {
    Server::start(app_with(template, "[TOOL_CALLS]"), Duration::from_secs(30))
}

fn tools() -> Value {
    let point = json!({"type": "object", "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["x"], "additionalProperties": false});
    let word = json!({"type": "object", "properties": {"w": {"enum": ["a}b", "c\"d"]}}, "required": ["w"],
        "additionalProperties": false});
    json!([
        {"type": "function", "function": {"name": "point", "parameters": point, "strict": true}},
        {"type": "function", "function": {"name": "word", "description": "says </s> a word", "parameters": word}},
    ])
}

fn ask(server: &Server, extra: Value) -> Answer {
    let mut body = json!({"messages": [{"role": "user", "content": "x"}], "temperature": 1.0, "seed": 5, "max_tokens": 150,
        "tools": tools(), "tool_choice": "required", "parallel_tool_calls": false});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    server.post("/v1/chat/completions", &body)
}

/// A whole call is one of a function that was offered, with arguments that its schema takes.
fn check(call: &Value) {
    assert_eq!(call["type"], "function");
    assert_eq!(call["id"].as_str().unwrap().len(), 9);
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    match call["function"]["name"].as_str().unwrap() {
        "point" => assert!(arguments["x"].as_u64().is_some_and(|x| x < 100), "{call}"),
        "word" => assert!(arguments["w"] == "a}b" || arguments["w"] == "c\"d", "{call}"),
        other => panic!("{other}"),
    }
    assert_eq!(arguments.as_object().unwrap().len(), 1);
}

/// The calls of a stream for choice `index`, put together as clients do.
fn streamed(events: &[Value], index: usize) -> Vec<Value> {
    let mut calls: Vec<Value> = Vec::new();
    for event in events.iter().filter(|e| e["choices"][0]["index"] == index) {
        for delta in event["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let at = delta["index"].as_u64().unwrap() as usize;
            if at == calls.len() {
                assert_eq!(delta["function"]["arguments"], "", "the first has a name: {delta}");
                calls.push(delta.clone());
                continue;
            }
            assert!(delta.get("id").is_none() && delta["function"].get("name").is_none(), "{delta}");
            let more = delta["function"]["arguments"].as_str().unwrap();
            let so_far = calls[at]["function"]["arguments"].as_str().unwrap().to_owned();
            calls[at]["function"]["arguments"] = (so_far + more).into();
        }
    }
    calls
}

#[test]
fn forced_calls_are_made_in_every_dialect_whole_and_streamed() {
    for (dialect, template) in templates() {
        let server = server(&template);
        let extra = json!({"n": 2, "logprobs": true});
        let answer = ask(&server, extra);
        assert_eq!(answer.status, 200, "{dialect}: {}", answer.body);
        let answer = answer.json();
        for choice in answer["choices"].as_array().unwrap() {
            assert_eq!(choice["finish_reason"], "tool_calls", "{dialect}: {choice}");
            assert_eq!(choice["message"]["content"], Value::Null, "{dialect}: {choice}");
            let calls = choice["message"]["tool_calls"].as_array().unwrap();
            assert_eq!(calls.len(), 1, "{dialect}");
            check(&calls[0]);
            assert!(!choice["logprobs"]["content"].as_array().unwrap().is_empty());
        }
        let (events, done) = ask(&server, json!({"n": 2, "stream": true})).events();
        assert!(done);
        for index in 0..2 {
            let calls = streamed(&events, index);
            check(&calls[0]);
            let function = &answer["choices"][index]["message"]["tool_calls"][0]["function"];
            assert_eq!(&calls[0]["function"], function, "{dialect}");
            let mut own = events.iter().filter(|e| e["choices"][0]["index"] == index);
            assert_eq!(own.next_back().unwrap()["choices"][0]["finish_reason"], "tool_calls");
        }
        let named = json!({"tool_choice": {"type": "function", "function": {"name": "word"}}});
        let call = ask(&server, named).json()["choices"][0]["message"]["tool_calls"][0].clone();
        assert_eq!(call["function"]["name"], "word", "{dialect}: {call}");
        check(&call);
    }
}

#[test]
fn several_calls_are_several_and_a_limit_cuts_the_last() {
    for (dialect, template) in [&templates()[0], &templates()[2]] {
        let server = server(template);
        let mut most = 0;
        for seed in 0..8 {
            let extra = json!({"parallel_tool_calls": true, "max_tokens": 200, "seed": seed});
            let choice = ask(&server, extra).json()["choices"][0].clone();
            let mut calls = choice["message"]["tool_calls"].as_array().unwrap().clone();
            most = most.max(calls.len());
            if choice["finish_reason"] == "length" {
                calls.pop();
            }
            calls.iter().for_each(check);
        }
        assert!(most > 1, "{dialect}");
        let cut = ask(&server, json!({"max_tokens": 45})).json()["choices"][0].clone();
        assert_eq!(cut["finish_reason"], "length", "{dialect}: {cut}");
    }
}

#[test]
fn a_schema_and_tools_leave_the_choice_between_an_answer_and_a_call() {
    let server = server(&templates()[0].1);
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["yes", "no"]}}});
    let (mut answers, mut calls) = (0, 0);
    for seed in 0..12 {
        let extra = json!({"tool_choice": "auto", "response_format": format, "seed": seed, "temperature": 2.0});
        let choice = ask(&server, extra).json()["choices"][0].clone();
        match choice["message"]["tool_calls"].as_array() {
            Some(list) => {
                list.iter().for_each(check);
                calls += 1;
            }
            None => {
                let said = choice["message"]["content"].as_str().unwrap();
                assert!(["\"yes\"", "\"no\""].contains(&said.trim()), "{said}");
                answers += 1;
            }
        }
    }
    assert!(answers > 0 && calls > 0, "{answers} {calls}");
}

#[test]
fn a_template_that_knows_no_tools_is_told_of_them_in_words() {
    let server = server(MESSAGES);
    let call = json!({"id": "1", "type": "function", "function": {"name": "point", "arguments": "{\"x\": 1}"}});
    let messages = json!([
        {"role": "developer", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "</s>42"}]},
    ]);
    let ids = server.post("/tokenize", &json!({"messages": messages, "tools": tools()})).json()["tokens"].clone();
    let ids: Vec<u32> = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    // Line breaks are not in this vocabulary, so they are token 0.
    let text = server.app().served.tokenizer.decode(&ids, false).replace("[TOOL_CALLS]", "");
    assert!(text.starts_with("s:sYou can call functions"), "{text}");
    assert!(text.contains("<tools>{\"type\":\"function\",\"function\":{\"name\":\"point\""), "{text}");
    assert!(text.contains("a:<tool_call>{\"name\": \"point\", \"arguments\": {\"x\":1}}</tool_call></s>"), "{text}");
    assert!(text.ends_with("u:<tool_response></s>42</tool_response></s>a:"), "{text}");
    // What is written out in a result or a description is text: only the template ends turns.
    assert_eq!(ids.iter().filter(|&&id| id == 2).count(), 4, "{text}");
}

#[test]
fn tools_of_a_template_are_its_own_and_none_are_none() {
    let server = server(&templates()[0].1);
    let count = |extra: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "x"}], "tools": tools()});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.post("/tokenize", &body).json()["count"].as_u64().unwrap()
    };
    assert_eq!(count(json!({})), count(json!({"tool_choice": "none"})) + 1);
    let free = ask(&server, json!({"tool_choice": "none", "max_tokens": 5, "ignore_eos": true})).json();
    assert!(free["choices"][0]["message"].get("tool_calls").is_none(), "{free}");
    assert_eq!(free["choices"][0]["finish_reason"], "length");
}

#[test]
fn what_cannot_be_called_is_refused() {
    let server = server(&templates()[0].1);
    let with = |parameters: Value, strict: bool| json!([{"type": "function", "function": {"name": "f", "parameters": parameters, "strict": strict}}]);
    let unique = json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
    for (extra, param) in [
        (json!({"tools": [{"type": "search"}]}), "tools[0].type"),
        (json!({"tools": with(unique.clone(), true)}), "tools"),
        (json!({"guided_regex": "a", "tool_choice": "auto"}), "guided_regex"),
        (json!({"tools": null}), "tool_choice"),
        (json!({"messages": [{"role": "assistant", "tool_calls": 3}]}), "messages[0].tool_calls"),
        (json!({"messages": [{"role": "assistant", "tool_calls": [{}]}]}), "messages[0].tool_calls[0].function"),
    ] {
        let answer = ask(&server, extra);
        assert_eq!((answer.status, answer.json()["error"]["param"].as_str()), (400, Some(param)), "{}", answer.body);
    }
    // A hint that cannot be kept to is left out.
    let call = ask(&server, json!({"tools": with(unique, false), "max_tokens": 200})).json();
    assert_eq!(call["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "f", "{call}");
}
