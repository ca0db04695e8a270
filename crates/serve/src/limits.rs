//! What clients may ask of the server's memory and patience, in one place. It knows no endpoint.

use std::time::Duration;

/// Limits of a server. They hold for everyone, with a key or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; whoever comes beyond them is told to try again later.
    pub connections: usize,
    /// Bytes of large bodies that are read or worked on at a time. JSON takes several times its text.
    pub bodies_bytes: usize,
    /// For the head of a request, from its first byte on; from the start of the connection for the first.
    pub head: Duration,
    /// For the body of a request.
    pub body: Duration,
    /// For an answer, from its place in the queue to its last token.
    pub answer: Duration,
    /// Silence between two requests of a connection.
    pub idle: Duration,
    /// How long a client may take nothing of what it is sent.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 2048,
            bodies_bytes: 64 << 20,
            head: Duration::from_secs(10),
            body: Duration::from_secs(60),
            answer: Duration::from_secs(600),
            idle: Duration::from_secs(60),
            stall: Duration::from_secs(60),
        }
    }
}
