//! A response's body that keeps something until it is sent or dropped: how the end of an answer is noticed, whether or not
//! its client was there for it. It knows no endpoint.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Error;
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

/// What lives as long as a body. Its end is its `Drop`.
pub trait Keep: Unpin + Send + 'static {
    /// All of the body has been handed to the connection.
    fn complete(&mut self);
}

pub struct Held<K> {
    body: Body,
    keep: K,
}

impl<K: Keep> Held<K> {
    pub fn new(body: Body, mut keep: K) -> Held<K> {
        if body.is_end_stream() {
            keep.complete();
        }
        Held { body, keep }
    }
}

impl<K: Keep> HttpBody for Held<K> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        // A body whose length is known is not asked for more once it has given that much.
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.keep.complete();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
