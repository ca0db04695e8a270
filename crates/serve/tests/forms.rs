//! Answers that must have a form, over a socket: what they are, and how they go with everything else that a request may ask for.

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Answer, Server, app, app_of, some_try};
use ounce_engine::Settings;
use serde_json::{Value, json};

fn server() -> Server {
    Server::start(app(2, 8), Duration::from_secs(30))
}

fn ask(server: &Server, path: &str, extra: Value) -> Answer {
    let mut body = json!({"temperature": 1.5, "seed": 11, "max_tokens": 40});
    match path {
        "/v1/completions" => body["prompt"] = "abc".into(),
        _ => body["messages"] = json!([{"role": "user", "content": "x"}]),
    }
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    server.post(path, &body)
}

fn chat(server: &Server, extra: Value) -> Answer {
    ask(server, "/v1/chat/completions", extra)
}

fn format(schema: Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "answer", "strict": true, "schema": schema}})
}

fn small() -> Value {
    json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"], "additionalProperties": false})
}

fn check(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(value["a"].as_u64().is_some_and(|a| a < 100), "{text}");
    assert!(value["b"] == "x" || value["b"] == "y", "{text}");
    assert_eq!(value.as_object().unwrap().len(), 2, "{text}");
}

fn text(choice: &Value) -> &str {
    choice["message"]["content"].as_str().or(choice["text"].as_str()).unwrap()
}

#[test]
fn several_answers_are_what_the_schema_takes_whole_streamed_and_scored() {
    let server = server();
    let extra = json!({"response_format": format(small()), "n": 3, "logprobs": true, "top_logprobs": 2,
        "ignore_eos": true});
    let answer = chat(&server, extra.clone());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    for choice in choices {
        check(text(choice));
        assert_eq!(choice["finish_reason"], "stop");
        let tokens = choice["logprobs"]["content"].as_array().unwrap();
        let joined: String = tokens.iter().map(|t| t["token"].as_str().unwrap()).collect();
        assert_eq!(joined, text(choice));
        // Numbers are the model's own: what the schema leaves no choice about is not certain to the model.
        assert!(tokens.iter().all(|t| t["logprob"].as_f64().unwrap() < -0.1), "{tokens:?}");
    }
    assert_ne!(text(&choices[0]), text(&choices[1]));

    let mut extra = extra;
    extra["stream"] = true.into();
    let (events, done) = chat(&server, extra).events();
    assert!(done);
    for (index, choice) in choices.iter().enumerate() {
        let own = events.iter().filter(|e| e["choices"][0]["index"] == index);
        let streamed: String = own.filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(streamed, text(choice));
    }
}

#[test]
fn every_way_to_ask_is_heeded_in_chats_and_texts() {
    let server = server();
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let said = |extra: Value| {
            let answer = ask(&server, path, extra.clone());
            assert_eq!(answer.status, 200, "{extra} {}", answer.body);
            text(&answer.json()["choices"][0]).to_owned()
        };
        check(&said(json!({"response_format": format(small())})));
        check(&said(json!({"structured_outputs": {"json": small()}})));
        check(&said(json!({"guided_json": small().to_string()})));
        assert!(["left", "right"].contains(&said(json!({"guided_choice": ["left", "right"]})).as_str()));
        assert!(["ab", "abab"].contains(&said(json!({"structured_outputs": {"regex": "(ab){1,2}"}})).as_str()));
        assert_eq!(said(json!({"guided_grammar": "start: \"a\" word\nword: \"b\" \"c\""})), "abc");
        assert!(serde_json::from_str::<Value>(&said(json!({"response_format": {"type": "text"}}))).is_err());
    }
    let object = chat(&server, json!({"response_format": {"type": "json_object"}, "max_tokens": 50}));
    let object = object.json()["choices"][0].clone();
    assert!(text(&object).starts_with('{'), "{object}");
    if object["finish_reason"] == "stop" {
        assert!(serde_json::from_str::<Value>(text(&object)).unwrap().is_object(), "{object}");
    }
}

#[test]
fn limits_and_stop_strings_cut_it() {
    let server = server();
    let long = json!({"type": "string", "minLength": 30});
    let cut = chat(&server, json!({"response_format": format(long.clone()), "max_tokens": 10})).json();
    assert_eq!((&cut["choices"][0]["finish_reason"], text(&cut["choices"][0]).len()), (&json!("length"), 10));
    let stopped = chat(&server, json!({"response_format": format(small()), "stop": ["\"b\""]})).json();
    let said = text(&stopped["choices"][0]);
    assert!(said.starts_with('{') && said.contains("\"a\"") && !said.contains("\"b\""), "{said}");
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
}

/// What a form leaves no choice about is guessed and run at once. Here all of it holds, since a token is a character: told is each in its
/// place, with the numbers that the same text has as a prompt, and counted is what it saved.
#[test]
fn guessed_tokens_are_told_in_order_scored_and_counted() {
    for speculate in [0, 8] {
        let settings = Settings { slots: 1, context: 64, speculate, ..Settings::default() };
        let server = Server::start(app_of(settings), Duration::from_secs(30));
        let value = |name: &str| server.metric(&format!("vllm:{name}{{model_name=\"tiny\",engine=\"0\""));
        let count = || {
            [
                "iteration_tokens_total_count",
                "spec_decode_num_accepted_tokens_total",
                "spec_decode_num_draft_tokens_total",
            ]
            .map(&value)
        };
        for (form, runs) in [
            (json!({"guided_regex": "Name: [A-C]{3}; Age: [0-9]{2}; known"}), 19.0),
            (json!({"guided_grammar": "start: \"Is it \" word \", is it?\"\nword: \"so\" | \"not\""}), 14.0),
            (json!({"guided_json": {"enum": ["left side", "right side"]}}), 9.0),
        ] {
            let before = count();
            let mut asked = json!({"logprobs": 2, "stream": true});
            asked.as_object_mut().unwrap().extend(form.as_object().unwrap().clone());
            let (events, done) = ask(&server, "/v1/completions", asked.clone()).events();
            let told: Vec<&Value> = events.iter().map(|e| &e["choices"][0]).filter(|c| c.is_object()).collect();
            let all = |part: &str| -> Vec<Value> {
                told.iter().filter_map(|c| c["logprobs"][part].as_array()).flatten().cloned().collect()
            };
            let said: String = told.iter().filter_map(|c| c["text"].as_str()).collect();
            assert!(
                done && all("tokens").iter().map(|t| t.as_str().unwrap()).eq(said.split("").filter(|c| !c.is_empty()))
            );
            asked["stream"] = false.into();
            asked["max_tokens"] = 40.into();
            assert_eq!(ask(&server, "/v1/completions", asked).json()["choices"][0]["text"], said);

            let scored = json!({"prompt": format!("abc{said}"), "max_tokens": 0, "echo": true, "logprobs": 2});
            let scored = server.post("/v1/completions", &scored).json()["choices"][0]["logprobs"].clone();
            for part in ["token_logprobs", "top_logprobs"] {
                let scored = scored[part].as_array().unwrap();
                assert_eq!(all(part), scored[scored.len() - said.len()..], "{said}");
            }

            // Two answers of as many passes, and the pass that scored.
            common::eventually("all steps are counted", || server.is_free() && count()[0] > before[0] + 2.0);
            let now = count();
            let [steps, accepted, drafted] = [now[0] - before[0] - 1.0, now[1] - before[1], now[2] - before[2]];
            assert_eq!(steps + accepted, 2.0 * said.len() as f64, "{said}: {steps} steps, {accepted} accepted");
            assert!(accepted >= 2.0 * runs && drafted >= accepted, "{said}: {accepted} of {drafted}");
            // A guess that ends the answer saves no pass and does not count.
            assert!(speculate > 0 || drafted - accepted == 2.0, "{said}: {accepted} of {drafted}");
        }
    }
}

/// A sequence without a form beside one with: it is what it is alone.
#[test]
fn neighbours_are_left_alone() {
    let server = server();
    let free = json!({"seed": 3, "max_tokens": 30, "ignore_eos": true});
    let alone = chat(&server, free.clone()).json()["choices"].clone();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| chat(&server, json!({"response_format": format(small())})));
        assert_eq!(chat(&server, free).json()["choices"], alone);
        check(text(&held.join().unwrap().json()["choices"][0]));
    });
}

#[test]
fn forms_that_cannot_be_kept_to_are_errors_that_say_why() {
    let server = server();
    for (extra, param, says) in [
        (
            json!({"response_format": format(json!({"type": "strange"}))}),
            "response_format.json_schema.schema",
            "strange",
        ),
        (
            json!({"response_format": format(json!({"type": "array", "uniqueItems": true}))}),
            "response_format.json_schema.schema",
            "uniqueItems",
        ),
        (json!({"guided_regex": "("}), "guided_regex", "regex"),
        (json!({"guided_regex": "x".repeat(70_000)}), "guided_regex", "at most 65536"),
        // None of the model's tokens is one of a Greek letter.
        (json!({"guided_choice": ["αβγ"]}), "guided_choice", "none that this model has tokens for"),
        (json!({"guided_regex": "a", "response_format": {"type": "json_object"}}), "guided_regex", "together with"),
    ] {
        let answer = chat(&server, extra);
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, error["param"].as_str()), (400, Some(param)), "{error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    // What shows only on the way.
    let answer = chat(&server, json!({"guided_regex": "ab(αβγ)?c", "logit_bias": {"68": -100}}));
    assert_eq!(text(&answer.json()["choices"][0]), "abc");
    let answer = chat(&server, json!({"guided_regex": "ab[α-ω]"}));
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (400, Some("grammar_too_complex")));
    assert_eq!(server.get("/health").status, 200);
}

/// Forms that take long to compile, or too long, several at a time: meanwhile others are answered, by the thread of the sockets
/// (health) and by the engine's (text).
#[test]
fn forms_that_take_long_hold_nobody_up() {
    let server = server();
    let hostile = [
        json!({"guided_regex": "(((((a{1,99}){1,99}){1,99}){1,99}){1,99}){1,99}"}),
        json!({"guided_regex": "a?".repeat(20_000)}),
        json!({"guided_regex": "(x+x+)+y"}),
        json!({"guided_json": {"type": "string", "pattern": "^(a?){500}b{500}$"}}),
        json!({"guided_json": {"type": "array", "minItems": 1_000_000_000}}),
        json!({"guided_grammar": format!("start: {}\n", "\"a\"? ".repeat(10_000))}),
    ];
    let text = json!({"prompt": "x", "max_tokens": 4, "ignore_eos": true});
    some_try(|_| {
        let over = AtomicUsize::new(0);
        let count = |act: &dyn Fn() -> u16| {
            let mut n = 0;
            while over.load(Ordering::Relaxed) < hostile.len() {
                assert_eq!(act(), 200);
                n += 1;
            }
            n
        };
        let began = Instant::now();
        let (health, texts) = std::thread::scope(|scope| {
            for form in &hostile {
                let (server, over) = (&server, &over);
                scope.spawn(move || {
                    for _ in 0..2 {
                        let answer = chat(server, form.clone());
                        assert!(matches!(answer.status, 200 | 400), "{} {}", answer.status, answer.body);
                    }
                    over.fetch_add(1, Ordering::Relaxed);
                });
            }
            let texts = scope.spawn(|| count(&|| server.post("/v1/completions", &text).status));
            (count(&|| server.get("/health").status), texts.join().unwrap())
        });
        let took = began.elapsed();
        let forms = 2 * hostile.len();
        let told =
            format!("{forms} hostile forms in {took:?}: {health} answers of health and {texts} texts beside them");
        println!("{told}");
        // Were a form compiled by either thread, some dozen of each would come between two forms.
        let enough = took > Duration::from_millis(500) && health > 200 && texts > 100;
        if enough { Ok(()) } else { Err(told) }
    });
}

/// A form is compiled to its end though its client has left: those who leave must not take the threads that prompts need.
#[test]
fn forms_of_clients_that_left_hold_nobody_up() {
    let server = server();
    some_try(|_| {
        let form = json!({"guided_regex": "a?".repeat(20_000)});
        let began = Instant::now();
        assert!(matches!(chat(&server, form.clone()).status, 200 | 400));
        let one = began.elapsed();
        let body =
            json!({"messages": [{"role": "user", "content": "x"}], "guided_regex": form["guided_regex"]}).to_string();
        for _ in 0..16 {
            let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length:";
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
            // Time to be read and to begin.
            std::thread::sleep(Duration::from_millis(20));
        }
        let (began, text) = (Instant::now(), json!({"prompt": "x", "max_tokens": 4, "ignore_eos": true}));
        for _ in 0..10 {
            assert_eq!(server.post("/v1/completions", &text).status, 200);
        }
        let texts = began.elapsed();
        let told = format!("a form takes {one:?}, ten texts {texts:?}");
        println!("{told}");
        // Behind sixteen forms they would wait for several of them.
        if one > Duration::from_millis(100) && texts < 2 * one { Ok(()) } else { Err(told) }
    });
}
