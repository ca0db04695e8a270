//! Who may ask: keys, and the checks against web pages that reach for a server on their reader's machine. Counts the answers,
//! as it sees all of them, and has room for so many bytes of bodies only. It knows no endpoint.

use std::sync::Arc;

use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tokio::sync::SemaphorePermit;

use crate::app::App;
use crate::audit;
use crate::body::MAX_BODY_BYTES;
use crate::endpoints::{self, Access};
use crate::error::ApiError;
use crate::page;

/// Bodies up to this size need no room of their own: there cannot be more of them than connections.
const SMALL_BODY_BYTES: usize = 64 << 10;

tokio::task_local! {
    /// The salt of the request that is being answered: set for all of them here, so that no endpoint can forget it.
    static SALT: u64;
}

/// What keeps the cache of this request's key apart from that of others; 0 where all share one.
pub fn salt() -> u64 {
    SALT.try_with(|salt| *salt).unwrap_or(0)
}

pub async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    // Paths that are not in the list share one name, so that nobody can make the counters grow.
    let handler = endpoints::at(request.uri().path()).map_or("other", |endpoint| endpoint.path);
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        _ => "other",
    };
    let key = app.keys.holder(request.headers());
    let shown = key.or_else(|| app.admin_keys.holder(request.headers()));
    let tally = app.audit.as_ref().map(|audit| audit.begin(method, handler, shown.as_ref()));
    let answer = async {
        // The room is held until the answer begins: by then the body has been read and made a prompt.
        match admit(&app, &request, key.is_some()).and_then(|()| room(&app, &request)) {
            Ok(_room) => {
                let salt = if app.isolate_cache { salt_of(request.headers()) } else { 0 };
                SALT.scope(salt, next.run(request)).await
            }
            Err(error) => error.into_response(),
        }
    };
    let mut response = audit::counted(tally, answer).await;
    if app.desk.is_closed() {
        // The next request had better go elsewhere.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    app.metrics.http(handler, method, response.status().as_u16());
    response
}

/// Room for the body of a request, where it is large enough to count.
fn room<'a>(app: &'a App, request: &Request) -> Result<Option<SemaphorePermit<'a>>, ApiError> {
    // A body that does not say how large it is may become as large as any.
    let most = request.body().size_hint().upper().map_or(MAX_BODY_BYTES, |bytes| bytes as usize).min(MAX_BODY_BYTES);
    if most <= SMALL_BODY_BYTES {
        return Ok(None);
    }
    app.bodies.try_acquire_many(most as u32).map(Some).map_err(|_| ApiError::busy())
}

fn admit(app: &App, request: &Request, known: bool) -> Result<(), ApiError> {
    let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"));
    let host = text(HOST);
    // DNS rebinding: a page's own name that points here. A client without a name is no browser.
    if let Some(host) = host.filter(|host| app.local_names_only && !is_local(host)) {
        let shown: String = host.chars().take(100).collect();
        return Err(ApiError::origin(format!("this server does not answer to the name `{shown}`, only to localhost")));
    }
    let own = |origin: &str| origin.split_once("://").map(|(_, name)| name) == host;
    if text(ORIGIN).is_some_and(|origin| !own(origin)) {
        return Err(ApiError::origin("pages of other sites may not use this server"));
    }
    // The page needs no key: it asks for it.
    let open = page::is_file(request.uri().path()).then_some(Access::Open);
    let access = endpoints::at(request.uri().path()).map(|endpoint| endpoint.access);
    match access.or(open).unwrap_or(Access::Key) {
        Access::Open => Ok(()),
        Access::Key if known || app.keys.none() => Ok(()),
        Access::Key => Err(ApiError::key()),
        Access::Admin => admit_admin(app, request.headers()),
    }
}

/// Whether a request may change what the server serves.
fn admit_admin(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    match () {
        () if app.admin_keys.none() => Err(ApiError::not_here("this server was started without --admin-key-file")),
        () if app.admin_keys.allow(headers) => Ok(()),
        () if !app.keys.none() && app.keys.allow(headers) => {
            Err(ApiError::origin("this needs the key of an administrator"))
        }
        () => Err(ApiError::key()),
    }
}

/// `localhost`, `127.0.0.1` or `[::1]`, with a port or without.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "127.0.0.1" | "[::1]") || name.eq_ignore_ascii_case("localhost")
}

/// The keys of a server, kept as digests: two digests are compared in a time that says nothing about the keys.
pub struct Keys(Vec<[u8; 32]>);

impl Keys {
    pub fn new(keys: &[String]) -> Keys {
        Keys(keys.iter().map(|key| digest(key.as_bytes())).collect())
    }

    /// Whether none is asked for.
    fn none(&self) -> bool {
        self.0.is_empty()
    }

    fn allow(&self, headers: &HeaderMap) -> bool {
        self.none() || self.holder(headers).is_some()
    }

    /// The digest of the key that a request brings, where it is one of these.
    fn holder(&self, headers: &HeaderMap) -> Option<[u8; 32]> {
        let (scheme, key) = sent(headers);
        let sent = digest(key);
        // Every key is compared, and every byte of it.
        let found = self.0.iter().fold(false, |found, key| found | equal(key, &sent));
        (found && scheme.eq_ignore_ascii_case(b"bearer ")).then_some(sent)
    }
}

/// Scheme and key of a request.
fn sent(headers: &HeaderMap) -> (&[u8], &[u8]) {
    let sent = headers.get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    sent.split_at(sent.len().min(7))
}

fn salt_of(headers: &HeaderMap) -> u64 {
    let digest = digest(sent(headers).1);
    u64::from_le_bytes(*digest.first_chunk().expect("a digest has more"))
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_names_are_known_with_and_without_a_port() {
        for host in ["localhost", "LocalHost:8000", "127.0.0.1:1", "[::1]", "[::1]:8000"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example", "", "localhost:8000x"] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn only_a_whole_key_opens() {
        let keys = Keys::new(&["secret".into(), "other".into()]);
        let sent = |value: &str| HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
        for right in ["Bearer secret", "bearer other"] {
            assert!(keys.holder(&sent(right)).is_some(), "{right}");
        }
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "Basic  secret", "secret", "Bearer"] {
            assert!(keys.holder(&sent(wrong)).is_none(), "{wrong}");
        }
        assert!(keys.holder(&HeaderMap::new()).is_none() && !keys.none());
        assert!(Keys::new(&[]).none());
    }
}
