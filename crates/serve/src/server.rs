//! The beginning and the end of a server: it accepts connections until it is told to stop, then lets running requests finish,
//! and tells whoever still comes that it is too late. It knows no endpoint.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use serde_json::json;
use tokio::io::AsyncWrite;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::app::{App, FORM_THREADS};
use crate::error::RETRY_AFTER_S;
use crate::router::router;
use crate::{connection, texts};

/// How often the flag that stops a server is looked at.
const POLL: Duration = Duration::from_millis(50);
/// For the last bytes of answers, once no sequence runs: at least.
const CLOSING: Duration = Duration::from_secs(2);
/// Connections beyond the limit that are told so at a time; further ones are closed without a word.
const REFUSALS: usize = 64;
/// For a client that is told so to go.
const LEAVING: Duration = Duration::from_secs(1);
/// Once a server closes, for those whose connection is being made: so long nobody new has come, or so long at most.
const QUIET: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(1);
/// Code and message of an answer to whom no request is heard of.
const TOO_MANY: (&str, &str) = ("too_many_connections", "too many connections; try again later");
const TOO_LATE: (&str, &str) = ("stopping", "the server is about to end and takes no new requests");

/// Why a server cannot serve.
#[derive(Debug)]
pub enum ServeError {
    /// The system gives no thread, timer or sockets.
    Start(std::io::Error),
    /// The address cannot be listened on.
    Bind { address: SocketAddr, reason: std::io::Error },
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            ServeError::Start(reason) => write!(f, "cannot start serving: {reason}"),
            ServeError::Bind { address, reason } => write!(f, "cannot listen on {address}: {reason}"),
        }
    }
}

impl std::error::Error for ServeError {}

/// Serves on `address` until `stop` is set: then new requests are answered with 503, running ones finish within
/// `drain`, and what still runs after it is cut off. `ready` is told the address, with the port that a 0 became.
///
/// # Errors
/// Where the system does not let it start. Once it serves, no request ends it.
pub fn run(
    app: Arc<App>,
    address: SocketAddr,
    drain: Duration,
    stop: &AtomicBool,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(texts::THREADS + FORM_THREADS)
        .build()
        .map_err(ServeError::Start)?;
    runtime.block_on(async {
        let listener =
            listen(address, app.limits.connections).map_err(|reason| ServeError::Bind { address, reason })?;
        ready(listener.local_addr().map_err(ServeError::Start)?);
        let (closing, closed) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, app.clone(), closed));
        while !stop.load(Ordering::Relaxed) {
            sleep(POLL).await;
        }
        app.desk.close();
        let end = Instant::now() + drain;
        while app.desk.busy() > 0 && Instant::now() < end {
            sleep(POLL).await;
        }
        app.desk.cut();
        // Connections finish what they write; each holds a receiver until it is gone.
        let _ = closing.send(true);
        let _ = timeout_at(end.max(Instant::now() + CLOSING), closing.closed()).await;
        accepting.abort();
        Ok(())
    })
}

/// As many may wait to be taken as there are connections: of a crowd that comes at once, whoever finds no room in the system's queue
/// is hung up on, as its connection is made without one (SYN cookies). The system may allow fewer (`net.core.somaxconn`).
fn listen(address: SocketAddr, connections: usize) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that starts again finds its port, although connections of the one before are not quite gone.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(u32::try_from(connections + REFUSALS).unwrap_or(u32::MAX))
}

/// Takes connections until the server closes.
async fn accept(listener: TcpListener, app: Arc<App>, mut closing: watch::Receiver<bool>) {
    let router: Router = router(app.clone());
    let (places, refusals) = (Arc::new(Semaphore::new(app.limits.connections)), Arc::new(Semaphore::new(REFUSALS)));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closing.changed() => return turn_away(listener, &app, &closing).await,
        };
        // Too many open files, or a client that left at once: others go on.
        let Ok((stream, _)) = accepted else {
            sleep(POLL).await;
            continue;
        };
        if let Ok(place) = places.clone().try_acquire_owned() {
            let connection = connection::serve(stream, router.clone(), app.limits, closing.clone());
            tokio::spawn(async move {
                connection.await;
                drop(place);
            });
        } else {
            app.metrics.http("connection", "other", 503);
            if let Ok(place) = refusals.clone().try_acquire_owned() {
                tokio::spawn(async move {
                    let _ = timeout(LEAVING, refuse(stream, TOO_MANY)).await;
                    drop(place);
                });
            }
        }
    }
}

/// Answers those who wait to be taken when the server closes: closing the socket before would reset their connections, and a proxy
/// does not know then whether it may ask elsewhere. Who comes after this finds nobody listening, which everyone understands.
async fn turn_away(listener: TcpListener, app: &App, closing: &watch::Receiver<bool>) {
    let refuse = |stream| {
        app.metrics.http("connection", "other", 503);
        // The server waits for whoever holds one of these.
        let held = closing.clone();
        tokio::spawn(async move {
            let _ = timeout(LEAVING, refuse(stream, TOO_LATE)).await;
            drop(held);
        });
    };
    let end = Instant::now() + LATE;
    // Without open files left nobody can be answered.
    while let Ok(Ok((stream, _))) = timeout_at(end.min(Instant::now() + QUIET), listener.accept()).await {
        refuse(stream);
    }
    // Those who came at the last moment, without waiting once more.
    let Ok(listener) = listener.into_std() else { return };
    let last: Vec<_> = std::iter::from_fn(|| listener.accept().ok()).collect();
    drop(listener);
    let last = last.into_iter().filter_map(|(stream, _)| {
        stream.set_nonblocking(true).ok()?;
        TcpStream::from_std(stream).ok()
    });
    last.for_each(refuse);
}

/// Answers whom nobody hears, and takes what it sends until it goes: were the socket closed before, the answer would be lost with
/// what nobody has read.
async fn refuse(mut stream: TcpStream, why: (&str, &str)) -> std::io::Result<()> {
    stream.writable().await?;
    stream.try_write(refusal(why).as_bytes())?;
    poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await?;
    let mut taken = [0; 4096];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut taken) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

/// An answer with 503, head and all.
fn refusal((code, message): (&str, &str)) -> String {
    let error = json!({"message": message, "type": "server_error", "param": null, "code": code});
    let body = json!({"error": error}).to_string();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: {RETRY_AFTER_S}\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody takes them here, so that the queue alone decides.
    #[test]
    fn as_many_may_wait_as_there_are_connections() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        for connections in [40, 200] {
            let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), connections).unwrap();
            let address = listener.local_addr().unwrap();
            let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok();
            // A second try for whom the machine, not the queue, kept waiting.
            let waiting: Vec<_> = (0..connections + 2 * REFUSALS).map_while(|_| connect().or_else(connect)).collect();
            let (room, found) = (connections + REFUSALS, waiting.len());
            assert!((room..=room + 2).contains(&found), "{found} wait where {room} have room");
        }
    }

    #[test]
    fn the_refusal_is_an_error_of_the_api() {
        for (code, message) in [TOO_MANY, TOO_LATE] {
            let text = refusal((code, message));
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{} bytes", body.len());
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!((&body["error"]["code"], &body["error"]["message"]), (&json!(code), &json!(message)));
        }
    }
}
