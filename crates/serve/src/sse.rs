//! Responses whose body a task writes: server-sent events, or JSON values one a line. When the client goes, the task ends. It knows no endpoint.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Events that may wait for a slow reader before whoever writes them waits, too.
const BUFFERED: usize = 64;

/// Where a task writes its events.
pub struct Events(mpsc::Sender<Bytes>);

impl Events {
    pub async fn send(&self, value: &Value) {
        self.raw(format!("data: {value}\n\n")).await;
    }

    pub async fn done(&self) {
        self.raw("data: [DONE]\n\n".into()).await;
    }

    /// A value on a line of its own.
    pub async fn line(&self, value: &Value) {
        self.raw(format!("{value}\n")).await;
    }

    async fn raw(&self, text: String) {
        // A reader that is gone has ended this task, or is about to.
        let _ = self.0.send(text.into()).await;
    }
}

/// 200 with the events that `write` sends.
pub fn response<F: Future<Output = ()> + Send + 'static>(write: impl FnOnce(Events) -> F) -> Response {
    written("text/event-stream; charset=utf-8", write)
}

/// 200 with the lines that `write` sends.
pub fn lines<F: Future<Output = ()> + Send + 'static>(write: impl FnOnce(Events) -> F) -> Response {
    written("application/x-ndjson", write)
}

fn written<F: Future<Output = ()> + Send + 'static>(kind: &'static str, write: impl FnOnce(Events) -> F) -> Response {
    let (sender, events) = mpsc::channel(BUFFERED);
    let task = tokio::spawn(write(Events(sender))).abort_handle();
    let headers = [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")];
    (headers, Body::new(EventBody { events, task })).into_response()
}

struct EventBody {
    events: mpsc::Receiver<Bytes>,
    task: AbortHandle,
}

impl HttpBody for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.events.poll_recv(cx).map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl Drop for EventBody {
    /// The connection is gone, or everything is written. What the task holds goes with it, and so ends its sequences.
    fn drop(&mut self) {
        self.task.abort();
    }
}
