//! `ounce serve` through the real binary: adapters that were tuned by it, named on the command line or found while it runs.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr};

use common::{PATIENCE, Place, finish, until};
use serde_json::{Value, json};

struct Server {
    child: Child,
    notes: BufReader<ChildStderr>,
    address: String,
}

impl Server {
    fn start(place: &Place, flags: &[&str]) -> Server {
        let mut args = vec!["serve", "tiny", "--port", "0", "--context", "64"];
        args.extend(flags);
        let mut child = place.command(&args).spawn().unwrap();
        let notes = BufReader::new(child.stderr.take().unwrap());
        let mut server = Server { child, notes, address: String::new() };
        let ready = server.note("serving tiny at http://");
        let address = ready.split("http://").nth(1).unwrap().split('/').next().unwrap();
        server.address = address.to_owned();
        server
    }

    /// The next note that has this in it.
    fn note(&mut self, part: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.notes.read_line(&mut line).unwrap() > 0, "the server ended before it said {part:?}");
            if line.contains(part) {
                return line;
            }
        }
    }

    fn send(&self, method: &str, path: &str, body: &str) -> Value {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    fn answer(&self, model: &str) -> String {
        let body = json!({"model": model, "prompt": "u:b", "temperature": 0, "max_tokens": 8, "ignore_eos": true,
            "logprobs": 0});
        let answer = self.send("POST", "/v1/completions", &body.to_string());
        // With the scores, so that adapters which choose alike are told apart.
        assert!(answer["choices"].is_array(), "{answer}");
        answer["choices"][0]["logprobs"]["token_logprobs"].to_string()
    }

    fn models(&self) -> Vec<String> {
        let models = self.send("GET", "/v1/models", "");
        models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect()
    }

    fn stop(mut self) {
        let mut kill = std::process::Command::new("kill");
        kill.args(["-TERM", &self.child.id().to_string()]);
        assert_eq!(finish(kill).code, Some(0));
        until("the server ends", || self.child.try_wait().unwrap().is_some());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only of a test that failed is it still there.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tune(place: &Place, out: &str, seed: &str) {
    place.ok(&[
        "tune",
        "tiny",
        "--data",
        "d.jsonl",
        "--out",
        out,
        "--max-length",
        "32",
        "--batch-size",
        "2",
        "--lr",
        "3e-2",
        "--max-steps",
        "6",
        "--seed",
        seed,
        "-q",
    ]);
}

#[test]
fn runs_are_served_beside_the_model_and_as_they_end() {
    let place = Place::new();
    place.tiny_model();
    place.echo_rows("d.jsonl", "abcdefgh");
    tune(&place, "first", "1");
    tune(&place, "runs/early", "2");
    let mut server = Server::start(&place, &["--adapter", "one=first", "--watch", "runs"]);
    server.note("runs/early is served as early");
    assert_eq!(server.models(), ["tiny", "early", "one"]);
    let [base, one, early] = ["tiny", "one", "early"].map(|model| server.answer(model));
    assert!(base != one && one != early && base != early);

    // One that cannot be used, and one of another model: told of, and nothing ends.
    std::fs::create_dir_all(place.path("runs/bad")).unwrap();
    for name in ["adapter_config.json", "summary.json"] {
        std::fs::copy(place.path("first").join(name), place.path("runs/bad").join(name)).unwrap();
    }
    place.write("runs/bad/adapter_model.safetensors", "no weights");
    let said = server.note("runs/bad is not used");
    assert!(said.contains("adapter_model.safetensors"), "{said}");
    std::fs::create_dir_all(place.path("runs/other")).unwrap();
    for name in ["adapter_config.json", "summary.json", "adapter_model.safetensors"] {
        std::fs::copy(place.path("first").join(name), place.path("runs/other").join(name)).unwrap();
    }
    let config = std::fs::read_to_string(place.path("runs/other/adapter_config.json")).unwrap();
    place.write("runs/other/adapter_config.json", &config.replace("\"tiny\"", "\"org/large\""));
    server.note("runs/other is not used: it was tuned on another model");

    // One that ends while the server runs, and one that takes the place of another.
    tune(&place, "runs/late", "3");
    server.note("runs/late is served as late");
    let late = server.answer("late");
    std::fs::rename(place.path("runs/early"), place.path("old")).unwrap();
    std::fs::rename(place.path("runs/late"), place.path("runs/early")).unwrap();
    server.note("runs/early is served as early");
    assert_eq!(server.answer("early"), late);
    assert_eq!([server.answer("tiny"), server.answer("one")], [base, one.clone()]);
    server.stop();

    // Without a name it goes on the model itself.
    let server = Server::start(&place, &["--adapter", "first"]);
    assert_eq!((server.models(), server.answer("tiny")), (vec!["tiny".to_owned()], one));
    server.stop();
    let twice = place.run(&["serve", "tiny", "--adapter", "first", "--adapter", "old"]);
    assert!(twice.code == Some(2) && twice.stderr.contains("--adapter NAME=DIR"), "{}", twice.stderr);
    let wrong = place.run(&["serve", "tiny", "--adapter", "x=runs/bad"]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("error[O0203]"), "{}", wrong.stderr);
}
