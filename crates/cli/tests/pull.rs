//! `ounce pull` against a hub and a storage server on 127.0.0.1: layout, resume, checksums, tokens, hostile answers.

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{Place, Ran, finish};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Clone, Debug)]
struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
}

#[derive(Clone, Debug, Default)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Break off after this many bytes of the body.
    cut: Option<usize>,
}

/// A server of one answer per connection that remembers what it was asked. Ends with the test's process.
struct Server {
    url: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(answer: impl Fn(&Request) -> Reply + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log: Arc<Mutex<Vec<Request>>> = Arc::default();
        let seen = log.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(request) = read_request(&stream) {
                    seen.lock().unwrap().push(request.clone());
                    // A client that went away is part of some tests.
                    let _ = send(stream, &request, answer(&request));
                }
            }
        });
        Server { url, log }
    }

    fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    Some(Request { method, path, headers })
}

fn send(mut stream: TcpStream, request: &Request, reply: Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !reply.headers.iter().any(|h| h.0 == "content-length") {
        head += &format!("content-length: {}\r\n", reply.body.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])?;
    }
    stream.flush()?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // Until the other side closes: a reset would destroy what it has not read yet.
    let mut rest = [0; 64];
    while stream.read(&mut rest)? > 0 {}
    Ok(())
}

fn reply(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let headers = headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    Reply { status, headers, body: body.to_vec(), cut: None }
}

/// A part of `body`, as `Range` asks for it.
fn part(request: &Request, body: &[u8]) -> Reply {
    let start = request.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match start {
        None => reply(200, &[], body),
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
            reply(206, &[("content-range", &range)], &body[start..])
        }
    }
}

fn weights() -> Vec<u8> {
    (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn listing(files: &[&str]) -> Reply {
    let siblings: Vec<_> = files.iter().map(|f| serde_json::json!({"rfilename": f})).collect();
    reply(200, &[], serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string().as_bytes())
}

/// A hub with config.json of its own and model.safetensors in `storage`, announced with `sha256`.
fn hub(storage: &str, sha256: &str) -> Server {
    let (storage, sha256) = (storage.to_owned(), sha256.to_owned());
    Server::start(move |request| match request.path.as_str() {
        "/api/models/org/tiny/revision/main" => listing(&["config.json", "model.safetensors", "pytorch_model.bin"]),
        path if path == format!("/org/tiny/resolve/{COMMIT}/config.json") => {
            reply(200, &[("etag", "\"c0ffee\"")], b"{\"a\": 1}")
        }
        path if path == format!("/org/tiny/resolve/{COMMIT}/model.safetensors") => {
            let (tag, size) = (format!("\"{sha256}\""), weights().len().to_string());
            let to = format!("{storage}/blob?signature=x");
            reply(
                302,
                &[("location", &to), ("x-linked-etag", &tag), ("x-linked-size", &size), ("etag", "\"other\"")],
                b"",
            )
        }
        _ => reply(404, &[], b""),
    })
}

fn pull(place: &Place, hub: &Server, more: &[&str]) -> Ran {
    let args: Vec<&str> = ["pull", "org/tiny"].iter().chain(more).copied().collect();
    let mut command = place.command(&args);
    command.env("HF_ENDPOINT", &hub.url).env("HF_TOKEN", "secret").env("HF_HOME", place.path("hf"));
    finish(command)
}

fn cache(place: &Place) -> std::path::PathBuf {
    place.path("hf/hub/models--org--tiny")
}

#[test]
fn a_model_lands_in_the_cache_as_the_hubs_tools_have_it() {
    let place = Place::new();
    let storage = Server::start(|request| part(request, &weights()));
    let sha256 = hex(&weights());
    let hub = hub(&storage.url, &sha256);
    let ran = pull(&place, &hub, &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let snapshot = cache(&place).join("snapshots").join(COMMIT);
    assert_eq!(ran.stdout.trim(), snapshot.display().to_string());
    assert_eq!(std::fs::read(snapshot.join("model.safetensors")).unwrap(), weights());
    let link = std::fs::read_link(snapshot.join("model.safetensors")).unwrap();
    assert_eq!(link.display().to_string(), format!("../../blobs/{sha256}"));
    assert_eq!(std::fs::read_to_string(cache(&place).join("blobs/c0ffee")).unwrap(), "{\"a\": 1}");
    assert_eq!(std::fs::read_to_string(cache(&place).join("refs/main")).unwrap(), COMMIT);
    assert!(ran.stderr.contains("model.safetensors  293.0 KiB  sha256 ok"), "{}", ran.stderr);

    // The token is for the hub alone.
    assert!(hub.requests().iter().all(|r| r.headers["authorization"] == "Bearer secret"));
    assert_eq!(storage.requests().len(), 1);
    assert!(!storage.requests()[0].headers.contains_key("authorization"));

    // Nothing is fetched twice.
    let again = pull(&place, &hub, &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    assert!(json["files"].as_array().unwrap().iter().all(|f| f["reused"] == true), "{json}");
    assert_eq!(storage.requests().len(), 1);
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let place = Place::new();
    let turn = AtomicUsize::new(0);
    let storage = Server::start(move |request| {
        let mut reply = part(request, &weights());
        if turn.fetch_add(1, Ordering::Relaxed) < 2 {
            reply.cut = Some(100_000);
        }
        reply
    });
    let hub = hub(&storage.url, &hex(&weights()));
    let ran = pull(&place, &hub, &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let ranges: Vec<_> = storage.requests().iter().map(|r| r.headers.get("range").cloned()).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".into()), Some("bytes=200000-".into())]);
}

#[test]
fn a_killed_pull_goes_on_in_the_next_one() {
    let place = Place::new();
    let sha256 = hex(&weights());
    let incomplete = cache(&place).join(format!("blobs/{sha256}.incomplete"));
    std::fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    std::fs::write(&incomplete, &weights()[..123_456]).unwrap();
    let storage = Server::start(|request| part(request, &weights()));
    let ran = pull(&place, &hub(&storage.url, &sha256), &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(storage.requests()[0].headers["range"], "bytes=123456-");
    assert!(!incomplete.exists());
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let place = Place::new();
    let sha256 = hex(&weights());
    let incomplete = cache(&place).join(format!("blobs/{sha256}.incomplete"));
    std::fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    std::fs::write(&incomplete, b"old bytes").unwrap();
    let storage = Server::start(|_| reply(200, &[], &weights()));
    let ran = pull(&place, &hub(&storage.url, &sha256), &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn a_file_that_is_not_what_was_announced_is_thrown_away() {
    let place = Place::new();
    let storage = Server::start(|request| {
        let mut wrong = weights();
        wrong[77] ^= 1;
        part(request, &wrong)
    });
    let sha256 = hex(&weights());
    let ran = pull(&place, &hub(&storage.url, &sha256), &[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("error[O0405]") && ran.stderr.contains(&sha256), "{}", ran.stderr);
    let left: Vec<_> =
        std::fs::read_dir(cache(&place).join("blobs")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["c0ffee"]);
    // A revision that is not whole is not recorded.
    assert!(!cache(&place).join("refs").exists());
}

#[test]
fn a_server_that_gives_nothing_is_given_up() {
    let place = Place::new();
    let storage = Server::start(|_| reply(503, &[], b""));
    let ran = pull(&place, &hub(&storage.url, &hex(&weights())), &[]);
    assert_eq!(ran.code, Some(75), "{}", ran.stderr);
    assert_eq!(storage.requests().len(), 5);
}

#[test]
fn hostile_answers_write_nothing_outside_the_cache() {
    let long = "x".repeat(5000);
    for name in ["../x", "/x", "C:\\x", "a\0b", "a/../../x", long.as_str()] {
        let place = Place::new();
        let name = name.to_owned();
        let hub = Server::start(move |_| listing(&["config.json", &name, "model.safetensors"]));
        let ran = pull(&place, &hub, &[]);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("error[O0404]"), "{}", ran.stderr);
        assert!(!place.path("hf").exists());
    }
    for tag in ["\"../../../x\"", "\"a/b\"", "", "\"..\""] {
        let place = Place::new();
        let hub = Server::start(move |request| match request.path.starts_with("/api") {
            true => listing(&["model.safetensors"]),
            false => reply(200, &[("etag", tag)], b"x"),
        });
        let ran = pull(&place, &hub, &[]);
        assert!(ran.code == Some(1) && ran.stderr.contains("no usable tag"), "{tag}: {}", ran.stderr);
        assert!(!place.path("x").exists() && !place.path("hf").exists());
    }
    for to in ["ftp://127.0.0.1/x", "file:///etc/passwd", "//127.0.0.1:1/x"] {
        let place = Place::new();
        let hub = Server::start(move |_| reply(302, &[("location", to)], b""));
        let ran = pull(&place, &hub, &[]);
        assert!(ran.code == Some(1) && ran.stderr.contains("error[O0404]"), "{to}: {}", ran.stderr);
    }
}

#[test]
fn redirects_without_end_are_left() {
    let place = Place::new();
    let hub = Server::start(|_| reply(307, &[("location", "/again")], b""));
    let ran = pull(&place, &hub, &[]);
    assert!(ran.stderr.contains("redirects more than 5 times"), "{}", ran.stderr);
    assert_eq!(hub.requests().len(), 6);
}

#[test]
fn refusals_say_what_to_do() {
    for (status, code, help) in [(401, 1, "HF_TOKEN"), (404, 1, "spelling"), (500, 75, "again later")] {
        let place = Place::new();
        let hub = Server::start(move |_| reply(status, &[], b""));
        let ran = pull(&place, &hub, &[]);
        assert!(ran.code == Some(code) && ran.stderr.contains(help), "{status}: {}", ran.stderr);
    }
}

#[test]
fn offline_makes_no_connection() {
    let place = Place::new();
    let hub = Server::start(|_| listing(&["model.safetensors"]));
    let ran = pull(&place, &hub, &["--offline"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("error[O0401]"), "{}", ran.stderr);
    let mut command = place.command(&["pull", "org/tiny"]);
    command.env("HF_ENDPOINT", &hub.url).env("HF_HUB_OFFLINE", "1").env("HF_HOME", place.path("hf"));
    assert_eq!(finish(command).code, Some(1));
    assert!(hub.requests().is_empty());
    // What is in the cache is found.
    std::fs::create_dir_all(cache(&place).join("snapshots").join(COMMIT)).unwrap();
    let ran = pull(&place, &hub, &["--offline"]);
    assert!(ran.code == Some(0) && ran.stdout.trim().ends_with(COMMIT), "{}", ran.stderr);
}
