//! Holds the document against the server: every route, every field that a parser asks for, every example.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{Request, StatusCode};
use serde_json::Value;
use tower::ServiceExt;

#[path = "../../tests/common/mod.rs"]
mod common;

use super::describe;
use crate::endpoints::{Access, ENDPOINTS};
use crate::fields::SEEN;
use crate::{App, Options, router};

fn app() -> Arc<App> {
    let options = Options { queue: 8, admin_keys: vec!["admin".into()], local_names_only: true, ..Options::default() };
    App::start(common::engine(2), common::served(), &options).unwrap()
}

fn ask(app: &Arc<App>, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(HOST, "localhost").header(AUTHORIZATION, "Bearer admin");
        let response = router(app.clone()).oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    })
}

#[test]
fn the_document_is_served_and_has_every_endpoint() {
    let app = app();
    let (status, document) = ask(&app, "GET", "/openapi.json", &Value::Null);
    assert_eq!((status, &document), (StatusCode::OK, &describe()));
    for endpoint in &ENDPOINTS {
        let method = if endpoint.takes.is_some() { "post" } else { "get" };
        assert!(document["paths"][endpoint.path][method]["summary"].is_string(), "{}", endpoint.path);
        // The router knows the path, and not for another method.
        let path = endpoint.path.replace("{model}", "tiny");
        let other = if method == "get" { "POST" } else { "GET" };
        assert_eq!(ask(&app, other, &path, &Value::Null).0, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    assert_eq!(document["paths"].as_object().unwrap().len(), ENDPOINTS.len());
    // No route but those of the list and of the page.
    assert_eq!(include_str!("../router.rs").matches(".route(").count(), 1);
}

#[test]
fn every_field_that_a_parser_asks_for_is_in_the_document_and_no_other() {
    let (app, document) = (app(), describe());
    for endpoint in &ENDPOINTS {
        let Some(takes) = &endpoint.takes else { continue };
        let schema = &document["components"]["schemas"][takes.0];
        SEEN.take();
        let examples = schema["examples"].as_array().unwrap();
        assert!(!examples.is_empty(), "{}", endpoint.path);
        for example in examples {
            let (status, answer) = ask(&app, "POST", endpoint.path, example);
            // There is no adapter to load here.
            let well = status == StatusCode::OK || endpoint.access == Access::Admin;
            assert!(well, "{} {example}: {status} {answer}", endpoint.path);
        }
        let seen = SEEN.take();
        let known = names(schema, "");
        let outer = |names: &BTreeSet<String>| -> BTreeSet<String> {
            names.iter().filter(|name| !name.contains('.')).cloned().collect()
        };
        assert_eq!(outer(&seen), outer(&known), "{}", endpoint.path);
        // Fields within fields, where the same reader reads them.
        for name in seen.iter().filter(|name| name.contains('.')) {
            assert!(known.contains(name), "{}: {name}", endpoint.path);
        }
        for name in known.iter().filter(|name| name.starts_with("options.")) {
            assert!(seen.contains(name), "{}: {name}", endpoint.path);
        }
    }
}

/// `a`, `a.b` for each field and those within it.
fn names(schema: &Value, under: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        out.insert(format!("{under}{name}"));
        out.extend(names(field, &format!("{under}{name}.")));
    }
    // One way to ask or another.
    for way in schema["anyOf"].as_array().into_iter().flatten() {
        out.extend(names(way, under));
    }
    out
}

#[test]
fn every_reference_leads_somewhere() {
    let document = describe();
    let mut waiting = vec![&document];
    let mut seen = 0;
    while let Some(value) = waiting.pop() {
        match value {
            Value::Object(object) => {
                if let Some(to) = object.get("$ref").and_then(Value::as_str) {
                    assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
                    seen += 1;
                }
                waiting.extend(object.values());
            }
            Value::Array(list) => waiting.extend(list),
            _ => {}
        }
    }
    assert!(seen > 50, "{seen} references");
}
