//! Embeddings over a socket: every form of input, every form of vector, every fault.

mod common;

use std::time::Duration;

use common::{Answer, Server, app, engine, served};
use ounce_engine::{Embedding, Pooling};
use serde_json::{Value, json};

/// What the engine itself makes of an input.
fn directly(input: &[u32], dimensions: Option<usize>, normalize: bool) -> Vec<f32> {
    let mut engine = engine(1);
    let (input, pooling) = (input.to_vec(), Pooling::Last);
    engine.submit_embedding(Embedding { input, pooling, dimensions, normalize, adapter: None }).unwrap();
    engine.embed().unwrap().remove(0).1
}

fn vectors(answer: &Answer) -> Vec<Vec<f32>> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let data = answer.json()["data"].as_array().unwrap().clone();
    let index: Vec<&Value> = data.iter().map(|d| &d["index"]).collect();
    assert_eq!(index, (0..data.len()).collect::<Vec<_>>());
    data.iter().map(|d| serde_json::from_value(d["embedding"].clone()).unwrap()).collect()
}

/// Equal but for the rounding of products of more rows.
fn near(got: &[Vec<f32>], want: &[Vec<f32>]) -> bool {
    let near =
        |(a, b): (&Vec<f32>, &Vec<f32>)| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
    got.len() == want.len() && got.iter().zip(want).all(near)
}

#[test]
fn texts_and_token_ids_become_vectors() {
    let server = Server::start(app(2, 8), Duration::from_secs(5));
    let tokenizer = served().tokenizer;
    let ids = |text: &str| tokenizer.encode(text, true).unwrap();
    let (one, two) = (ids("one"), ids("a second text"));
    let want = [&one, &two].map(|ids| directly(ids, None, true));
    for (input, want) in [
        (json!("one"), &want[..1]),
        (json!(["one", "a second text"]), &want[..]),
        (json!(one), &want[..1]),
        (json!([one, two]), &want[..]),
    ] {
        let answer = server.post("/v1/embeddings", &json!({"model": "tiny", "input": input, "user": "me"}));
        assert!(near(&vectors(&answer), want), "{input}");
        let answer = answer.json();
        let tokens = if want.len() == 1 { one.len() } else { one.len() + two.len() };
        assert_eq!(answer["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
        assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("tiny")));
    }
    for vector in &want {
        let length = vector.iter().map(|v| v * v).sum::<f32>();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }
    let ask = |extra: Value| {
        let mut body = json!({"input": one});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.post("/v1/embeddings", &body)
    };
    assert_eq!(vectors(&ask(json!({"dimensions": 5}))), [directly(&one, Some(5), true)]);
    assert_eq!(vectors(&ask(json!({"normalize": false}))), [directly(&one, None, false)]);
    let base64 = ask(json!({"encoding_format": "base64", "dimensions": 1})).json();
    let sign = if directly(&one, Some(1), true)[0] < 0.0 { "AACAvw==" } else { "AACAPw==" };
    assert_eq!(base64["data"][0]["embedding"], sign);
    assert!(server.metric("vllm:prompt_tokens_total") > 0.0);
}

#[test]
fn faults_are_named() {
    let server = Server::start(app(2, 8), Duration::from_secs(5));
    let many = vec!["x"; 2049];
    for (param, body) in [
        ("input", json!({})),
        ("input", json!({"input": []})),
        ("input", json!({"input": ""})),
        ("input", json!({"input": ["x", 1], "encoding_format": 1})),
        ("input", json!({"input": [[1], [97]]})),
        ("input", json!({"input": [1, -1]})),
        ("input", json!({"input": many})),
        ("encoding_format", json!({"input": "x", "encoding_format": "int8"})),
        ("dimensions", json!({"input": "x", "dimensions": 25})),
        ("dimensions", json!({"input": "x", "dimensions": 0})),
        ("normalize", json!({"input": "x", "normalize": "yes"})),
    ] {
        let answer = server.post("/v1/embeddings", &body);
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, &error["param"]), (400, &json!(param)), "{body} {error}");
    }
    assert_eq!(server.post("/v1/embeddings", &json!({"input": "x", "model": "other"})).status, 404);
    let long = server.post("/v1/embeddings", &json!({"input": [[1], vec![3; 65]]})).json()["error"].clone();
    assert_eq!(long["code"], "context_length_exceeded");
    let message = long["message"].as_str().unwrap();
    assert!(message.contains("65 tokens") && message.contains("64 positions"), "{message}");
    assert_eq!(server.post("/v1/embeddings", &json!({"input": vec![3; 64]})).status, 200);
}

/// Many clients at once, some of which leave: each gets its own vectors, and every place is free afterwards.
#[test]
fn embeddings_of_many_clients_stay_apart() {
    let server = Server::start(app(2, 60), Duration::from_secs(5));
    std::thread::scope(|scope| {
        for client in 0..12u32 {
            let server = &server;
            scope.spawn(move || {
                for round in 0..10u32 {
                    let inputs: Vec<Vec<u32>> =
                        (0..1 + client % 4).map(|i| vec![client + 3, round + 3, i + 3]).collect();
                    let want: Vec<Vec<f32>> = inputs.iter().map(|input| directly(input, None, true)).collect();
                    let body = json!({"input": inputs});
                    if round % 3 == 2 {
                        drop(server.send("POST", "/v1/embeddings", "", &body.to_string()));
                    } else {
                        assert!(near(&vectors(&server.post("/v1/embeddings", &body)), &want), "client {client}");
                    }
                }
            });
        }
    });
    common::eventually("all places are free", || server.app().desk.busy() == 0);
}
