//! One connection, and how long its client may take: to send a head, to come with the next request, to take what it is sent.
//! Who is too slow is hung up on, so that nobody can hold a connection by doing nothing. It knows no endpoint.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::held::{Held, Keep};
use crate::limits::Limits;

/// Largest head of a request.
const MAX_HEADER_BYTES: usize = 32 << 10;

/// Serves what comes over `stream` until either side has enough, or `closing` changes and the answer that is under way is out.
pub async fn serve(stream: TcpStream, router: Router, limits: Limits, mut closing: watch::Receiver<bool>) {
    // Tokens are small; waiting to send several at once would be felt.
    let _ = stream.set_nodelay(true);
    let clock = Arc::new(Clock::default());
    let mut builder = http1::Builder::new();
    // The limit of a head is kept here: hyper's would hold for the silence between requests, too.
    builder.timer(TokioTimer::new()).header_read_timeout(None).max_header_size(MAX_HEADER_BYTES);
    let (router, seen) = (TowerToHyperService::new(router), clock.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        seen.enter(Phase::Request);
        let (answer, open) = (router.call(request), Open(seen.clone()));
        async move {
            let response: Response<Body> = answer.await?;
            Ok::<_, std::convert::Infallible>(response.map(|body| Held::new(body, open)))
        }
    });
    let socket = Watched { stream, clock: clock.clone() };
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(socket), service));
    let mut told = false;
    loop {
        let deadline = clock.deadline(&limits);
        tokio::select! {
            // A connection that breaks concerns its client only.
            _ = connection.as_mut() => return,
            _ = closing.changed(), if !told => {
                connection.as_mut().graceful_shutdown();
                told = true;
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => return,
            () = clock.changed.notified() => {}
        }
    }
}

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The rest of a head.
    Head,
    /// The server: the limits of bodies and answers hold.
    Request,
    /// The client's next request.
    Idle,
}

/// Since when a connection has been waiting for its client.
struct Clock {
    waiting: Mutex<Waiting>,
    /// Told when the deadline may have moved.
    changed: Notify,
}

struct Waiting {
    phase: Phase,
    since: Instant,
    /// Bytes have been waiting to be taken since then.
    stalled: Option<Instant>,
}

impl Default for Clock {
    fn default() -> Clock {
        let waiting = Waiting { phase: Phase::Head, since: Instant::now(), stalled: None };
        Clock { waiting: Mutex::new(waiting), changed: Notify::new() }
    }
}

impl Clock {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn enter(&self, phase: Phase) {
        let mut waiting = self.waiting();
        (waiting.phase, waiting.since) = (phase, Instant::now());
        self.changed.notify_one();
    }

    /// When patience ends, if nothing happens.
    fn deadline(&self, limits: &Limits) -> Option<Instant> {
        let waiting = self.waiting();
        match (waiting.phase, waiting.stalled) {
            (Phase::Head, _) => Some(waiting.since + limits.head),
            // The last answer may be in the socket's hands already, but not in the client's.
            (_, Some(since)) => Some(since + limits.stall),
            (Phase::Request, None) => None,
            (Phase::Idle, None) => Some(waiting.since + limits.idle),
        }
    }
}

/// An answer that is under way.
struct Open(Arc<Clock>);

impl Keep for Open {
    fn complete(&mut self) {}
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

/// A socket that tells when it is waited for.
struct Watched {
    stream: TcpStream,
    clock: Arc<Clock>,
}

impl Watched {
    /// Notes whether the client takes what it is sent.
    fn noted<T>(&self, polled: Poll<T>) -> Poll<T> {
        let mut waiting = self.clock.waiting();
        let before = waiting.stalled;
        waiting.stalled = if polled.is_pending() { before.or_else(|| Some(Instant::now())) } else { None };
        if waiting.stalled != before {
            // Silence begins when there is nothing left to send.
            waiting.since = if waiting.phase == Phase::Idle { Instant::now() } else { waiting.since };
            self.clock.changed.notify_one();
        }
        polled
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before && self.clock.waiting().phase == Phase::Idle {
            self.clock.enter(Phase::Head);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.noted(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        bufs: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.noted(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;

    /// Serves one connection with an answer of `bytes`; how long it lived while `client` had it.
    fn lived(bytes: usize, limits: Limits, client: impl FnOnce(std::net::TcpStream) + Send + 'static) -> Duration {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let router = Router::new().route("/", get(move || async move { vec![b'x'; bytes] }));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let client = std::thread::spawn(move || {
                let mut stream = std::net::TcpStream::connect(address).unwrap();
                stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
                client(stream);
            });
            let (stream, _) = listener.accept().await.unwrap();
            let (_closing, closed) = watch::channel(false);
            let began = Instant::now();
            serve(stream, router, limits, closed).await;
            let lived = began.elapsed();
            client.join().unwrap();
            lived
        })
    }

    #[test]
    fn who_takes_nothing_is_hung_up_on_and_who_is_slow_is_not() {
        // More than the system keeps for a socket.
        const BYTES: usize = 64 << 20;
        // On a busy machine a client that takes something may be too late all the same: it has more time at the next try.
        let failed: Vec<String> = [1, 4, 16].into_iter().map_while(|more| try_both(BYTES, more).err()).collect();
        assert!(failed.len() < 3, "{failed:#?}");
    }

    fn try_both(bytes: usize, more: u32) -> Result<(), String> {
        let (stall, idle) = (Duration::from_millis(400) * more, Duration::from_millis(100));
        let (limits, hold) = (Limits { stall, idle, ..Limits::default() }, stall * 4);
        let lived_without = lived(bytes, limits, move |stream| {
            std::thread::sleep(hold);
            drop(stream);
        });
        // All of it, with pauses: it takes longer than anyone may stall.
        let (tell, told) = std::sync::mpsc::channel();
        let lived_slowly = lived(bytes, limits, move |mut stream| {
            let (mut taken, mut piece) = (0, vec![0; 4 << 20]);
            while let Ok(n @ 1..) = stream.read(&mut piece) {
                taken += n;
                if taken >= bytes {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20) * more);
            }
            tell.send(taken).unwrap();
        });
        let taken = told.recv().unwrap();
        let fine = lived_without >= stall && lived_without < hold && lived_slowly > stall && taken >= bytes;
        let held =
            format!("{stall:?} to stall: {lived_without:?} and {lived_slowly:?}, in which {taken} bytes were taken");
        if fine { Ok(()) } else { Err(held) }
    }
}
