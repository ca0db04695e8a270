//! Adapters beside the base over a socket: who is asked answers, they come and go under traffic, and neither paths nor files can
//! do harm.

mod common;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Answer, Server, engine, read, served};
use ounce_engine::sampler::Dice;
use ounce_engine::sampler::SamplingParams;
use ounce_engine::{Engine, Request};
use ounce_formats::peft::{self, AdapterConfig, Side};
use ounce_formats::{TensorData, Tensors};
use ounce_serve::{AdapterLimits, App, Options};
use serde_json::{Value, json};

const PROMPT: [u32; 5] = [5, 9, 14, 3, 77];
const RANK: usize = 4;
const ADMIN: &str = "Authorization: Bearer admin\r\n";

/// An adapter on the attention of both layers, which changes every answer.
fn tensors(seed: u64) -> Tensors {
    let (mut dice, mut tensors) = (Dice::new(seed), Tensors::new());
    for layer in 0..2 {
        for (module, n, k) in [("q_proj", 32, 24), ("v_proj", 16, 24), ("o_proj", 24, 32)] {
            let module = format!("model.layers.{layer}.self_attn.{module}");
            let mut put = |side, shape: [usize; 2]| {
                let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| dice.roll(1000) as f32 / 500.0 - 1.0).collect();
                tensors.insert(peft::key(&module, side), TensorData::from_f32(shape.to_vec(), &values));
            };
            put(Side::A, [RANK, k]);
            put(Side::B, [n, RANK]);
        }
    }
    tensors
}

fn config() -> AdapterConfig {
    AdapterConfig::lora("tiny", RANK, 4.0, vec!["q_proj".into(), "v_proj".into(), "o_proj".into()])
}

fn write(dir: &Path, seed: u64) -> PathBuf {
    peft::write_adapter(&ounce_formats::vfs::Disk, dir, &config(), &tensors(seed), "").unwrap();
    dir.to_owned()
}

/// What an engine says of which the adapter of `seed` is a part.
fn directly(seed: Option<u64>, max_tokens: usize) -> String {
    let mut engine: Engine = engine(1);
    let adapter = seed.map(|seed| {
        let adapter = engine.layers().read("test", &config(), &tensors(seed)).unwrap_or_else(|e| panic!("{e}"));
        engine.load_adapter(adapter)
    });
    let params = SamplingParams { max_tokens, ignore_eos: true, ..SamplingParams::default() };
    let mut tokens = Vec::new();
    let request = Request { adapter, ..Request::new(PROMPT.to_vec(), params) };
    engine
        .run(request, |token| {
            tokens.extend(token);
            true
        })
        .unwrap();
    served().tokenizer.decode(&tokens, true)
}

fn server(roots: Vec<PathBuf>, count: usize) -> Server {
    let adapters = AdapterLimits { count, roots, ..AdapterLimits::default() };
    let options = Options { queue: 30, admin_keys: vec!["admin".into()], adapters, ..Options::default() };
    Server::start(App::start(engine(4), served(), &options).unwrap(), Duration::from_secs(30))
}

fn ask(server: &Server, model: &str) -> Answer {
    let body = json!({"model": model, "prompt": PROMPT, "temperature": 0, "max_tokens": 12, "ignore_eos": true});
    server.post("/v1/completions", &body)
}

fn text(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["choices"][0]["text"].as_str().unwrap().to_owned()
}

fn admin(server: &Server, what: &str, body: &Value) -> Answer {
    read(server.send("POST", &format!("/v1/{what}_lora_adapter"), ADMIN, &body.to_string()))
}

fn load(server: &Server, name: &str, path: &Path) -> Answer {
    admin(server, "load", &json!({"lora_name": name, "lora_path": path}))
}

#[test]
fn each_adapter_is_a_model_of_its_own() {
    let home = tempfile::tempdir().unwrap();
    let [one, two] = [1, 2].map(|seed| write(&home.path().join(format!("run-{seed}")), seed));
    let server = server(Vec::new(), 8);
    server.app().load_adapter(Some("one"), &one, false).unwrap();
    server.app().load_adapter(Some("org/two"), &two, false).unwrap();
    let answers = [None, Some(1), Some(2)].map(|seed| directly(seed, 12));
    assert!(answers[0] != answers[1] && answers[1] != answers[2], "{answers:?}");
    for (model, want) in ["tiny", "one", "org/two"].into_iter().zip(&answers) {
        let answer = ask(&server, model);
        assert_eq!((&text(&answer), &answer.json()["model"]), (want, &json!(model)));
        let mut body = json!({"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 4});
        assert_eq!(server.post("/v1/chat/completions", &body).json()["model"], model);
        body["stream"] = true.into();
        let (events, done) = server.post("/v1/chat/completions", &body).events();
        assert!(done && events.iter().all(|event| event["model"] == model), "{events:?}");
    }
    assert_eq!(text(&ask(&server, "one")), answers[1], "what the cache remembers is its own");
    for (name, asked) in [("tiny", 3.0), ("one", 4.0), ("org/two", 3.0)] {
        assert_eq!(server.metric(&format!("ounce:requests_total{{model_name=\"{name}\"")), asked, "{name}");
    }
    let unknown = ask(&server, "three");
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (404, &json!("model_not_found")));
    let models = server.get("/v1/models").json();
    let shown: Vec<(&Value, &Value, &Value)> =
        models["data"].as_array().unwrap().iter().map(|m| (&m["id"], &m["root"], &m["parent"])).collect();
    let path = |path: &PathBuf| json!(path.display().to_string());
    assert_eq!(
        shown,
        [
            (&json!("tiny"), &json!("tiny"), &Value::Null),
            (&json!("one"), &path(&one), &json!("tiny")),
            (&json!("org/two"), &path(&two), &json!("tiny"))
        ]
    );
    assert_eq!(server.get("/v1/models/org/two").json()["parent"], "tiny");
    // An adapter on the base itself leaves the others as they are.
    server.app().load_adapter(None, &two, false).unwrap();
    assert_eq!((text(&ask(&server, "tiny")), text(&ask(&server, "one"))), (answers[2].clone(), answers[1].clone()));
    assert_eq!(server.get("/v1/models").json()["data"].as_array().unwrap().len(), 3);
}

#[test]
fn metrics_name_the_adapters_that_run() {
    let home = tempfile::tempdir().unwrap();
    let one = write(&home.path().join("one"), 1);
    let server = server(Vec::new(), 8);
    server.app().load_adapter(Some("one"), &one, false).unwrap();
    let info = |labels: &str| {
        let text = server.get("/metrics").body;
        text.contains(&format!("vllm:lora_requests_info{{max_lora=\"8\",running_lora_adapters=\"{labels}\""))
    };
    assert!(info("") && !info("one"));
    let mut answers = common::four(1);
    (answers["model"], answers["n"]) = ("one".into(), 8.into());
    let vectors = json!({"model": "one", "input": vec!["a".repeat(60); 200]});
    for (path, body) in [("/v1/completions", answers), ("/v1/embeddings", vectors)] {
        // So small a model is soon done: until one is caught at it.
        common::eventually("it is named", || {
            let streams = [0; 4].map(|_| server.send("POST", path, "", &body.to_string()));
            let named = (0..50).any(|_| info("one"));
            streams.into_iter().for_each(|stream| drop(read(stream)));
            named
        });
        common::eventually("it is named no more", || info(""));
    }
}

#[test]
fn only_the_admin_key_loads_and_unloads() {
    let home = tempfile::tempdir().unwrap();
    let one = write(&home.path().join("one"), 1);
    let body = json!({"lora_name": "one", "lora_path": one}).to_string();
    let status =
        |server: &Server, headers: &str| read(server.send("POST", "/v1/load_lora_adapter", headers, &body)).status;
    let plain = Server::start(common::app(1, 1), Duration::from_secs(5));
    assert_eq!(status(&plain, ADMIN), 404, "nobody has been given the right");
    let options = Options {
        queue: 4,
        keys: vec!["user".into()],
        admin_keys: vec!["admin".into()],
        adapters: AdapterLimits { roots: vec![home.path().into()], ..AdapterLimits::default() },
        ..Options::default()
    };
    let server = Server::start(App::start(engine(1), served(), &options).unwrap(), Duration::from_secs(5));
    for (key, wanted) in [("", 401), ("Authorization: Bearer user\r\n", 403), ("Authorization: Bearer x\r\n", 401)] {
        assert_eq!(status(&server, key), wanted, "{key}");
    }
    assert_eq!(status(&server, ADMIN), 200);
    assert_eq!(read(server.send("GET", "/v1/models", ADMIN, "")).status, 401, "it opens nothing else");
    let unload = json!({"lora_name": "one"}).to_string();
    let unloaded = |headers: &str| read(server.send("POST", "/v1/unload_lora_adapter", headers, &unload)).status;
    assert_eq!([unloaded("Authorization: Bearer user\r\n"), unloaded(ADMIN), unloaded(ADMIN)], [403, 200, 404]);
}

#[test]
fn adapters_are_loaded_swapped_and_unloaded_under_traffic() {
    let home = tempfile::tempdir().unwrap();
    let [one, two] = [1, 2].map(|seed| write(&home.path().join(format!("run-{seed}")), seed));
    let server = server(vec![home.path().into()], 2);
    let [base, first, second] = [None, Some(1), Some(2)].map(|seed| directly(seed, 12));
    assert_eq!(load(&server, "fixed", &one).status, 200);
    assert_eq!(load(&server, "swapped", &one).status, 200);
    let full = load(&server, "third", &two);
    assert!(full.status == 400 && full.body.contains("2 adapters"), "{}", full.body);
    let over = AtomicBool::new(false);
    let answered = [AtomicUsize::new(0), AtomicUsize::new(0)];
    std::thread::scope(|scope| {
        let until_over = |model: &'static str, right: Vec<&str>| {
            let right: Vec<String> = right.into_iter().map(String::from).collect();
            let (server, over, answered) = (&server, &over, &answered);
            scope.spawn(move || {
                let mut seen = vec![0; right.len()];
                while !over.load(Ordering::Relaxed) {
                    let text = text(&ask(server, model));
                    let at = right.iter().position(|r| *r == text);
                    let at = at.unwrap_or_else(|| panic!("{model} answered {text}"));
                    seen[at] += 1;
                    if model == "swapped" {
                        answered[at].fetch_add(1, Ordering::Relaxed);
                    }
                }
                seen
            })
        };
        let traffic = [
            until_over("tiny", vec![&base]),
            until_over("fixed", vec![&first]),
            until_over("swapped", vec![&first, &second]),
        ];
        // Until answers of both have been seen, whatever else the machine does.
        let started = Instant::now();
        for round in 0.. {
            if round >= 20 && answered.iter().all(|n| n.load(Ordering::Relaxed) > 0) {
                break;
            }
            assert!(started.elapsed() < common::patience(), "{answered:?}");
            let path = if round % 2 == 0 { &two } else { &one };
            let body = json!({"lora_name": "swapped", "lora_path": path, "load_inplace": true});
            let swapped = admin(&server, "load", &body);
            assert_eq!(swapped.status, 200, "{}", swapped.body);
        }
        over.store(true, Ordering::Relaxed);
        let [base, fixed, swapped] = traffic.map(|t| t.join().unwrap());
        assert!(base[0] > 0 && fixed[0] > 0 && swapped.iter().all(|n| *n > 0), "{base:?} {fixed:?} {swapped:?}");
    });
    // A stream that runs when its adapter goes comes to its end.
    let body = json!({"model": "fixed", "prompt": PROMPT, "temperature": 0, "max_tokens": 50, "ignore_eos": true, "stream": true});
    let mut stream = server.send("POST", "/v1/completions", "", &body.to_string());
    // Once the answer begins, the engine has the request.
    stream.read_exact(&mut [0]).unwrap();
    assert_eq!(admin(&server, "unload", &json!({"lora_name": "fixed"})).status, 200);
    assert_eq!(ask(&server, "fixed").status, 404);
    let (events, done) = read(stream).events();
    let streamed: String = events.iter().filter_map(|e| e["choices"][0]["text"].as_str()).collect();
    assert_eq!((streamed, done), (directly(Some(1), 50), true));
    assert_eq!(load(&server, "fixed", &two).status, 200);
    assert_eq!(text(&ask(&server, "fixed")), second);
}

#[test]
fn paths_outside_the_allowed_folders_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let (inside, outside) = (home.path().join("in"), home.path().join("out"));
    write(&inside.join("one"), 1);
    write(&outside.join("two"), 2);
    write(&home.path().join("inner"), 2);
    let server = server(vec![inside.clone()], 8);
    let long = "x/".repeat(2500);
    let shown = |path: &Path| path.display().to_string();
    for path in [
        &shown(&outside.join("two")),
        &shown(&home.path().join("inner")),
        &shown(&inside.join("../out/two")),
        &shown(&inside.join("one/../../out/two")),
        "../out/two",
        "one/../../out/two",
        "/",
        "/etc",
        "",
        "one\0",
        &long,
    ] {
        let answer = load(&server, "x", Path::new(path));
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, &error["param"]), (403, &json!("lora_path")), "{path:?} {error}");
    }
    for path in ["C:\\two", "none", "..\\out\\two"] {
        let answer = load(&server, "x", Path::new(path));
        assert!(answer.status == 400 && answer.body.contains("cannot read"), "{path} {}", answer.body);
    }
    for (name, path) in
        [("relative", "one".to_owned()), ("absolute", shown(&inside.join("one"))), ("dot", "./one".into())]
    {
        assert_eq!(load(&server, name, Path::new(&path)).status, 200, "{path}");
    }
    for name in ["", "tiny", "relative", "a b", "a\nb", &"n".repeat(200)] {
        let answer = load(&server, name, Path::new("one"));
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("lora_name")), "{name:?}");
    }
    let both = admin(&server, "load", &json!({"lora_name": 3, "load_inplace": "x"})).json();
    let message = both["error"]["message"].as_str().unwrap();
    assert!(
        ["lora_name must", "lora_path is missing", "load_inplace must"].iter().all(|m| message.contains(m)),
        "{message}"
    );
    let nowhere = Server::start(
        App::start(engine(1), served(), &Options { queue: 1, admin_keys: vec!["admin".into()], ..Options::default() })
            .unwrap(),
        Duration::from_secs(5),
    );
    let answer = load(&nowhere, "x", &inside.join("one"));
    assert!(answer.status == 403 && answer.body.contains("--adapter-root"), "{}", answer.body);
}

#[test]
fn hostile_files_are_refused_with_their_faults_and_the_server_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let good = write(&home.path().join("good"), 1);
    let (weights, json_file) = (peft::WEIGHTS, peft::CONFIG);
    let [bytes, settings] = [weights, json_file].map(|name| std::fs::read(good.join(name)).unwrap());
    let server = server(vec![home.path().into()], 8);
    let place = home.path().join("bad");
    std::fs::create_dir(&place).unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(place.join(name), bytes).unwrap();
    let faults = |what: &str, parts: &[&str]| {
        let answer = load(&server, "bad", &place);
        assert_eq!(answer.status, 400, "{what}: {}", answer.body);
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(parts.iter().all(|part| message.contains(part)), "{what}: {message}");
    };
    faults("empty", &["adapter_config.json"]);
    put(json_file, &settings);
    faults("no weights", &["adapter_model.safetensors"]);
    put("adapter_model.bin", b"\x80\x02.");
    faults("pickled", &["pickled"]);
    std::fs::create_dir(place.join(weights)).unwrap();
    faults("a directory", &["pickled"]);
    std::fs::remove_file(place.join("adapter_model.bin")).unwrap();
    faults("a directory", &["not a regular file"]);
    std::fs::remove_dir(place.join(weights)).unwrap();
    for (what, header) in
        [("a header of 2^63 bytes", u64::MAX / 2), ("a header beyond the file", 1 << 20), ("no header", 0)]
    {
        put(weights, &[&header.to_le_bytes()[..], b"{}"].concat());
        faults(what, &["adapter_model.safetensors"]);
    }
    put(weights, &bytes[..bytes.len() - 1]);
    faults("cut short", &["incomplete"]);
    // Everything that is wrong, not the first.
    let mut wrong = tensors(1);
    let names: Vec<String> = wrong.names().map(String::from).collect();
    wrong.insert(&*names[0], TensorData::from_f32(vec![RANK, 7], &[0.0; 7 * RANK]));
    wrong.insert(&*names[3], TensorData::from_f32(vec![24, RANK], &[f32::INFINITY; 24 * RANK]));
    let far = peft::key("model.layers.7.self_attn.q_proj", Side::A);
    wrong.insert(&*far, TensorData::from_f32(vec![RANK, 24], &[0.0; 24 * RANK]));
    wrong.insert(
        &*peft::key("model.layers.7.self_attn.q_proj", Side::B),
        TensorData::from_f32(vec![32, RANK], &[0.0; 32 * RANK]),
    );
    ounce_formats::safetensors_file::write(&place.join(weights), &wrong).unwrap();
    faults("three faults", &[&names[0], &far, "the model has no such layer"]);
    put(weights, &bytes);
    for (what, text, part) in [
        ("another method", r#"{"peft_type": "IA3"}"#, "LORA"),
        ("a huge rank", r#"{"peft_type": "LORA", "r": 18446744073709551615}"#, "r is"),
        ("no rank", r#"{"peft_type": "LORA", "r": 0, "lora_alpha": 1e400}"#, ""),
        ("a pattern", r#"{"peft_type": "LORA", "r": 4, "rank_pattern": {"(a+)+$": 4}}"#, "regular expression"),
        (
            "whole weights",
            r#"{"peft_type": "LORA", "r": 4, "modules_to_save": ["lm_head"], "use_dora": true}"#,
            "use_dora",
        ),
        ("no JSON", "{", "EOF"),
        ("deep JSON", &format!(r#"{{"peft_type": "LORA", "x": {}"#, "[".repeat(100_000)), "recursion"),
    ] {
        put(json_file, text.as_bytes());
        faults(what, &[part]);
    }
    put(json_file, &settings);
    let tight = AdapterLimits { bytes: 1000, roots: vec![home.path().into()], ..AdapterLimits::default() };
    let options = Options { queue: 1, admin_keys: vec!["admin".into()], adapters: tight, ..Options::default() };
    let small = Server::start(App::start(engine(1), served(), &options).unwrap(), Duration::from_secs(5));
    let answer = load(&small, "good", &good);
    assert!(answer.status == 400 && answer.body.contains("at most 1000"), "{}", answer.body);
    // Files with a few bytes changed: whatever comes of it, it is an answer, and one that was there stays.
    let mut dice = Dice::new(5);
    let mut counts = [0, 0];
    for _ in 0..300 {
        let (mut weights_now, mut settings_now) = (bytes.clone(), settings.clone());
        let changed = if dice.roll(3) == 0 { &mut settings_now } else { &mut weights_now };
        for _ in 0..1 + dice.roll(3) {
            let reach = [1500, usize::MAX][dice.roll(2)];
            let at = dice.roll(changed.len().min(reach));
            changed[at] = dice.roll(256) as u8;
        }
        put(weights, &weights_now);
        put(json_file, &settings_now);
        let body = json!({"lora_name": "mutated", "lora_path": place, "load_inplace": true});
        let answer = admin(&server, "load", &body);
        assert!(matches!(answer.status, 200 | 400), "{} {}", answer.status, answer.body);
        counts[usize::from(answer.status == 200)] += 1;
    }
    assert!(counts[0] > 20 && counts[1] > 10, "{counts:?}");
    assert_eq!(ask(&server, "mutated").status, 200);
    assert_eq!(text(&ask(&server, "tiny")), directly(None, 12));
}
