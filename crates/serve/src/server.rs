//! Sockets and the end of a server: it accepts connections until it is told to stop, then lets running requests finish. It
//! knows no endpoint.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::app::App;
use crate::router::router;

/// Largest head of a request.
const MAX_HEADER_BYTES: usize = 32 << 10;
/// A client that takes longer to send a head is cut off; so is a connection that idles as long.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Threads that render and tokenize: few, so that long prompts leave the processor to the engine.
const TEXT_THREADS: usize = 2;
/// How often the flag that stops a server is looked at.
const POLL: Duration = Duration::from_millis(50);
/// For the last bytes of answers, once no sequence runs.
const CLOSING: Duration = Duration::from_secs(2);

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
        .max_blocking_threads(TEXT_THREADS)
        .build()
        .map_err(ServeError::Start)?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.map_err(|reason| ServeError::Bind { address, reason })?;
        ready(listener.local_addr().map_err(ServeError::Start)?);
        let (closing, closed) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, router(app.clone()), closed));
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
        let _ = timeout(CLOSING, closing.closed()).await;
        accepting.abort();
        Ok(())
    })
}

/// Takes connections until the server closes.
async fn accept(listener: TcpListener, router: Router, mut closing: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closing.changed() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, router.clone(), closing.clone()));
            }
            // Too many open files, or a client that left at once: others go on.
            Err(_) => sleep(POLL).await,
        }
    }
}

async fn connection(stream: TcpStream, router: Router, mut closing: watch::Receiver<bool>) {
    // Tokens are small; waiting to send several at once would be felt.
    let _ = stream.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_header_size(MAX_HEADER_BYTES);
    let mut connection =
        std::pin::pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    // A connection that breaks concerns its client only.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = closing.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
