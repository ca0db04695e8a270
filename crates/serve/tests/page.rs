//! The web page's files: there without a key, whole, and under their policy. How it behaves is tested in a browser.

mod common;

use std::time::Duration;

use common::{Server, engine, read, served};
use ounce_serve::{App, Options};

fn server() -> Server {
    let options = Options { keys: vec!["k".into()], local_names_only: true, ..Options::default() };
    Server::start(App::start(engine(1), served(), &options).unwrap(), Duration::from_secs(5))
}

#[test]
fn every_file_that_the_page_names_is_there_without_a_key() {
    let server = server();
    let page = server.get("/");
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html"), "{}", page.head);
    let mut waiting = vec![page.body];
    let mut seen = Vec::new();
    while let Some(text) = waiting.pop() {
        for path in text.split('"').filter(|piece| piece.starts_with("/page/")) {
            if seen.iter().any(|known| known == path) {
                continue;
            }
            let file = server.get(path);
            assert_eq!(file.status, 200, "{path}");
            assert!(file.head.contains("content-security-policy: default-src 'none'"), "{}", file.head);
            seen.push(path.to_owned());
            waiting.push(file.body);
        }
    }
    assert_eq!(seen.len(), 6, "{seen:?}");
    assert_eq!(server.get("/page/other.js").status, 401);
    assert_eq!(server.get("/v1/models").status, 401);
}

#[test]
fn the_page_holds_nothing_that_its_policy_forbids() {
    let server = server();
    let page = server.get("/");
    for forbidden in ["http:", "https:", "style=", "onclick", "<style", "<script>"] {
        assert!(!page.body.contains(forbidden), "{forbidden}");
    }
    for path in ["/page/page.js", "/page/talk.js", "/page/load.js", "/page/api.js"] {
        let script = server.get(path).body;
        for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write", "https:"] {
            assert!(!script.contains(forbidden), "{path}: {forbidden}");
        }
    }
}

#[test]
fn the_page_answers_to_this_machines_names_only_and_to_no_other_method() {
    let server = server();
    assert_eq!(read(server.send("GET", "/", "Origin: http://evil.example\r\n", "")).status, 403);
    assert_eq!(read(server.send("POST", "/", "", "")).status, 405);
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    std::io::Write::write_all(&mut stream, request).unwrap();
    assert_eq!(read(stream).status, 403);
}
