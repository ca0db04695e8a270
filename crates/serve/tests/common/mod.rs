//! A server on the two-layer llama of the golden files, or the program with a real model, and a client that is a socket.

// Each test binary uses a part of this.
#![allow(dead_code)]

mod program;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ounce_engine::{Engine, Settings};
use ounce_formats::template::ChatTemplate;
use ounce_formats::tokenizer::Tokenizer;
use ounce_model::Model;
use ounce_serve::{App, Options, ServeError, Served};
use ounce_tensor::Device;
use ounce_tensor::kernels::Cpu;
use program::Program;
use serde_json::{Map, Value, json};

const TEMPLATE: &str = "{% for m in messages %}{{ m['role'][0] + ':' + m['content'] + eos_token }}{% endfor %}\
                        {% if add_generation_prompt %}a:{% endif %}";

pub fn engine(slots: usize) -> Engine {
    engine_of("llama", slots, 64)
}

fn engine_of(golden: &str, slots: usize, context: usize) -> Engine {
    engine_with(golden, Settings { slots, context, ..Settings::default() })
}

fn engine_with(golden: &str, settings: Settings) -> Engine {
    let device = Device::cpu(Cpu::new(1));
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(golden);
    let model = Model::load(&device, &ounce_formats::open(&dir).unwrap(), settings.context);
    Engine::new(&device, model.unwrap_or_else(|e| panic!("{e}")), settings)
}

pub fn served() -> Served {
    served_with(TEMPLATE, "<unk>")
}

/// With a chat template, and token 0 a control token of this name.
fn served_with(template: &str, control: &str) -> Served {
    let tokenizer = Tokenizer::from_hf(tokenizer_json(control).as_bytes(), None, None).unwrap().with_eos_ids(&[2]);
    let template = ChatTemplate::new(template, Some("<s>"), Some("</s>")).unwrap();
    Served { name: "tiny".into(), tokenizer, template, generation: Default::default() }
}

pub fn app(slots: usize, queue: usize) -> Arc<App> {
    app_with_options(slots, &Options { queue, local_names_only: true, ..Options::default() })
}

pub fn app_with_options(slots: usize, options: &Options) -> Arc<App> {
    App::start(engine(slots), served(), options).unwrap()
}

/// With the engine's settings.
pub fn app_of(settings: Settings) -> Arc<App> {
    let options = Options { queue: 8, local_names_only: true, ..Options::default() };
    App::start(engine_with("llama", settings), served(), &options).unwrap()
}

/// Two sequences of 256 tokens at a time, on another model, with this chat template and a control token.
pub fn app_with(template: &str, control: &str) -> Arc<App> {
    let options = Options { queue: 8, local_names_only: true, ..Options::default() };
    App::start(engine_of("llama3_rope", 2, 256), served_with(template, control), &options).unwrap()
}

/// 97 tokens: `control`, `<s>`, `</s>`, then the printable ASCII characters from space to `}`.
fn tokenizer_json(control: &str) -> String {
    let specials = [control, "<s>", "</s>"];
    let mut vocab = Map::new();
    for (id, token) in specials.into_iter().enumerate() {
        vocab.insert(token.into(), id.into());
    }
    for (id, c) in (b' '..=b'}').enumerate() {
        // Byte-level tokenizers write the space as Ġ.
        let token = if c == b' ' { 'Ġ' } else { c as char };
        vocab.insert(token.to_string(), (id + 3).into());
    }
    let added = |(id, content)| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    };
    let added: Vec<Value> = specials.into_iter().enumerate().map(added).collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({"version": "1.0", "added_tokens": added, "pre_tokenizer": bytes, "decoder": bytes,
        "model": {"type": "BPE", "unk_token": control, "vocab": vocab, "merges": []}})
    .to_string()
}

/// A number of a test: small by default, that of the promise with `OUNCE_SOAK=1`, as `cargo xtask soak` sets it.
pub fn pick<T>(short: T, full: T) -> T {
    if is_soak() { full } else { short }
}

pub fn is_soak() -> bool {
    std::env::var_os("OUNCE_SOAK").is_some_and(|value| value == "1")
}

/// Longest wait for what is to happen: a real model on a busy machine takes its time.
pub fn patience() -> Duration {
    Duration::from_secs(pick(60, 1200))
}

/// Waits until something holds; how long that took.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < patience(), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

/// Tries what a busy machine may spoil now and then and a fault spoils every time; the tries are counted from 0.
pub fn some_try(act: impl FnMut(u32) -> Result<(), String>) {
    let failed: Vec<String> = (0..5).map(act).map_while(Result::err).collect();
    assert!(failed.len() < 5, "no try of five: {failed:#?}");
}

/// A stream of fifty tokens.
pub fn long(seed: usize) -> Value {
    let temperature = if seed.is_multiple_of(2) { 0.0 } else { 1.0 };
    json!({"prompt": format!("prompt {seed}"), "max_tokens": 50, "ignore_eos": true, "temperature": temperature,
        "seed": seed, "stream": true})
}

/// Work that takes a tiny model long enough to be caught at.
pub fn four(seed: usize) -> Value {
    let mut body = long(seed);
    body["n"] = 4.into();
    body
}

/// A server on a port of its own.
pub struct Server {
    pub address: SocketAddr,
    place: Place,
}

enum Place {
    /// In this process.
    Here {
        app: Arc<App>,
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<Result<(), ServeError>>>,
    },
    There(Option<Program>),
}

/// Whether [`Server::open`] starts the program with a real model.
pub fn is_program() -> bool {
    program::model().is_some()
}

impl Server {
    /// With `slots` sequences at a time: the program with `flags` where there is a model for it, else the tiny model in here.
    pub fn open(slots: usize, queue: usize, drain: Duration, flags: &[&str]) -> Server {
        let Some(model) = program::model() else { return Server::start(app(slots, queue), drain) };
        let flags: Vec<String> = flags.iter().map(|flag| flag.to_string()).collect();
        let program = Program::start(model, slots, queue, drain, &flags);
        Server { address: program.address, place: Place::There(Some(program)) }
    }

    pub fn start(app: Arc<App>, drain: Duration) -> Server {
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, told) = std::sync::mpsc::channel();
        let (served, seen) = (app.clone(), stop.clone());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let thread = std::thread::spawn(move || {
            ounce_serve::run(served, any, drain, &seen, |address| tell.send(address).unwrap())
        });
        Server { address: told.recv().unwrap(), place: Place::Here { app, stop, thread: Some(thread) } }
    }

    /// What serves, where it is in this process.
    pub fn app(&self) -> &App {
        match &self.place {
            Place::Here { app, .. } => app,
            Place::There(_) => panic!("it is another process"),
        }
    }

    /// The process that serves.
    pub fn process(&self) -> u32 {
        match &self.place {
            Place::There(Some(program)) => program.id(),
            _ => std::process::id(),
        }
    }

    pub fn tell_to_stop(&self) {
        match &self.place {
            Place::Here { stop, .. } => stop.store(true, Ordering::Relaxed),
            Place::There(program) => program.iter().for_each(Program::tell_to_stop),
        }
    }

    /// Waits for the end of a server that was told to stop, which must be in order.
    pub fn join(mut self) {
        match &mut self.place {
            Place::Here { thread, .. } => thread.take().unwrap().join().unwrap().unwrap(),
            Place::There(program) => program.take().unwrap().join(patience()),
        }
    }

    pub fn send(&self, method: &str, path: &str, headers: &str, body: &(impl AsRef<[u8]> + ?Sized)) -> TcpStream {
        let body = body.as_ref();
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        // A server that has seen enough may answer before it has read everything.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        stream
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        read(self.send("POST", path, "", &body.to_string()))
    }

    pub fn get(&self, path: &str) -> Answer {
        read(self.send("GET", path, "", ""))
    }

    /// Sequences that run or wait.
    pub fn busy(&self) -> f64 {
        self.metric("vllm:num_requests_running") + self.metric("vllm:num_requests_waiting")
    }

    /// Whether nothing is left of any sequence: none runs, none waits, none has a place or a block of the cache.
    pub fn is_free(&self) -> bool {
        let places = match &self.place {
            Place::Here { app, .. } => app.desk.busy(),
            Place::There(_) => 0,
        };
        self.busy() == 0.0 && places == 0 && self.metric("vllm:kv_cache_usage_perc") == 0.0
    }

    /// Sequences that ended, by how.
    pub fn ended(&self, reason: &str) -> f64 {
        let labels = format!("{{model_name=\"tiny\",engine=\"0\",finished_reason=\"{reason}\"}}");
        self.metric(&format!("vllm:request_success_total{labels}"))
    }

    /// The value of a line of `/metrics`.
    pub fn metric(&self, line: &str) -> f64 {
        let text = self.get("/metrics").body;
        let found = text.lines().find(|l| l.starts_with(line)).unwrap_or_else(|| panic!("no {line} in {text}"));
        found.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Place::Here { stop, .. } = &self.place {
            stop.store(true, Ordering::Relaxed);
        }
    }
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

pub fn read(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    // A reset after the answer takes nothing from it.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_lowercase(), body: body.into() }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {} {}", self.head, self.body))
    }

    /// The data of a stream; whether it ended with `[DONE]`.
    pub fn events(&self) -> (Vec<Value>, bool) {
        let data: Vec<&str> = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        let done = data.last() == Some(&"[DONE]");
        let events = data.iter().filter(|d| **d != "[DONE]").map(|d| serde_json::from_str(d).unwrap()).collect();
        (events, done)
    }
}
