//! Requests to the hub. Redirects are followed by hand: the token goes to the hub's own host and to no other.

use std::time::Duration;

use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

use super::{Repository, clipped, etag};
use crate::codes;
use crate::error::{CliError, Result};

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// Largest answer of the API, bytes.
const MAX_ANSWER: u64 = 32 << 20;

pub struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// What the hub says about a file before it is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Name of its blob.
    pub etag: String,
    pub size: u64,
}

/// A body to read, and the place in the file at which it begins.
pub struct Stream {
    pub body: Body,
    pub start: u64,
}

/// Why a part of a file could not be had.
pub enum Broken {
    /// Worth another try: the connection, or a busy server.
    Temporary(CliError),
    Final(CliError),
}

impl Client {
    pub fn new(endpoint: &str, token: Option<String>) -> Client {
        let config = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .user_agent(concat!("ounce/", env!("CARGO_PKG_VERSION")))
            .build();
        Client { agent: config.into(), endpoint: endpoint.to_owned(), token }
    }

    /// What a repository holds at a revision.
    pub fn repository(&self, name: &str, revision: &str) -> Result<Repository> {
        let url = format!("{}/api/models/{name}/revision/{}", self.endpoint, escaped(revision));
        let (mut response, _) = self.request("GET", &url, None)?;
        check_status(&response, name)?;
        let json = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(|e| network(&url, &e))?;
        Repository::parse(name, &json)
    }

    /// Tag and size of a file.
    pub fn file_info(&self, repository: &Repository, file: &str) -> Result<FileInfo> {
        let url = self.file_url(repository, file);
        let (response, linked) = self.request("HEAD", &url, None)?;
        // What the hub itself said counts; the storage it points to knows another tag.
        let own = linked.as_ref().unwrap_or(response.headers());
        if linked.is_none() {
            check_status(&response, &repository.name)?;
        }
        let header = |name: &str| own.get(name).and_then(|v| v.to_str().ok());
        let tag = header("x-linked-etag").or_else(|| header("etag"));
        let size = header("x-linked-size").or_else(|| header("content-length"));
        let bad = |what: &str| {
            CliError::new(&codes::HUB_ANSWER, format!("the hub gives no usable {what} for {file}"))
                .help("check HF_ENDPOINT")
        };
        let tag = tag.ok_or_else(|| bad("tag"))?;
        let etag = etag(tag).ok_or_else(|| bad("tag").detail(format!("it says {:?}", clipped(tag))))?;
        let size = size.and_then(|s| s.parse().ok()).ok_or_else(|| bad("size"))?;
        Ok(FileInfo { etag, size })
    }

    /// A file from byte `start` on. The stream begins at 0 where the server does not do parts.
    pub fn file(&self, repository: &Repository, file: &str, start: u64) -> std::result::Result<Stream, Broken> {
        let url = self.file_url(repository, file);
        let range = (start > 0).then(|| format!("bytes={start}-"));
        let (response, _) = self.request("GET", &url, range.as_deref()).map_err(Broken::Temporary)?;
        let status = response.status().as_u16();
        if status == 206 {
            let said = response.headers().get("content-range").and_then(|v| v.to_str().ok()).unwrap_or_default();
            let begins = said.strip_prefix("bytes ").and_then(|s| s.split('-').next()).and_then(|s| s.parse().ok());
            if begins != Some(start) {
                let what = format!("{file}: asked from byte {start} on, the server answers {:?}", clipped(said));
                return Err(Broken::Final(CliError::new(&codes::HUB_ANSWER, what).help("check HF_ENDPOINT")));
            }
            return Ok(Stream { body: response.into_body(), start });
        }
        if status == 429 || status >= 500 {
            let what = format!("{file}: the server answers {status}");
            return Err(Broken::Temporary(CliError::new(&codes::NETWORK, what).help("try again later")));
        }
        check_status(&response, &repository.name).map_err(Broken::Final)?;
        Ok(Stream { body: response.into_body(), start: 0 })
    }

    fn file_url(&self, repository: &Repository, file: &str) -> String {
        let file: Vec<String> = file.split('/').map(escaped).collect();
        format!("{}/{}/resolve/{}/{}", self.endpoint, repository.name, repository.commit, file.join("/"))
    }

    /// Sends a request and follows redirects. Also gives the headers of the redirect that left the hub, if one did: on
    /// HEAD it is not followed, since those headers are what is wanted.
    fn request(&self, method: &str, url: &str, range: Option<&str>) -> Result<(Response<Body>, Option<HeaderMap>)> {
        let mut url = url.to_owned();
        let mut left = None;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = if method == "HEAD" { self.agent.head(&url) } else { self.agent.get(&url) };
            request = request.header("accept-encoding", "identity");
            if let Some(token) = self.token.as_ref().filter(|_| same_origin(&self.endpoint, &url)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if let Some(range) = range {
                request = request.header("range", range);
            }
            let response = request.call().map_err(|e| network(&url, &e))?;
            if !response.status().is_redirection() {
                return Ok((response, left));
            }
            let to = response.headers().get("location").and_then(|v| v.to_str().ok()).unwrap_or_default();
            let next = resolve(&url, to).ok_or_else(|| {
                CliError::new(&codes::HUB_ANSWER, format!("{url} redirects to {:?}", clipped(to)))
                    .help("check HF_ENDPOINT")
            })?;
            if !same_origin(&self.endpoint, &next) && left.is_none() {
                left = Some(response.headers().clone());
                if method == "HEAD" {
                    return Ok((response, left));
                }
            }
            url = next;
        }
        Err(CliError::new(&codes::HUB_ANSWER, format!("{url} redirects more than {MAX_REDIRECTS} times"))
            .help("check HF_ENDPOINT"))
    }
}

fn check_status(response: &Response<Body>, name: &str) -> Result<()> {
    let status = response.status().as_u16();
    let refused = |what: String, help: &str| Err(CliError::new(&codes::HUB_REFUSED, what).help(help));
    match status {
        200..=299 => Ok(()),
        401 | 403 => refused(
            format!("the hub refuses {name} ({status})"),
            "if it exists and asks for an agreement: accept it on its page, then set HF_TOKEN to a token that may read it",
        ),
        404 => refused(format!("the hub has no {name}, or not this revision or file"), "check the spelling: org/name"),
        429 | 500..=599 => {
            Err(CliError::new(&codes::NETWORK, format!("the hub answers {status}")).help("try again later"))
        }
        _ => refused(format!("the hub answers {status} for {name}"), "check HF_ENDPOINT"),
    }
}

fn network(url: &str, error: &ureq::Error) -> CliError {
    let host = url.parse::<Uri>().ok().and_then(|u| u.authority().map(|a| a.to_string())).unwrap_or_default();
    CliError::new(&codes::NETWORK, format!("cannot reach {host}"))
        .detail(error.to_string())
        .help("check the connection and run the same command again: it goes on where it stopped")
        .help("without a network: copy a model directory here and give its path")
}

/// Whether two URLs have the same scheme, host and port.
fn same_origin(a: &str, b: &str) -> bool {
    let parts = |url: &str| {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        Some((scheme, uri.host()?.to_ascii_lowercase(), port))
    };
    parts(a).is_some_and(|a| Some(a) == parts(b))
}

/// Where a `Location` header leads: another URL, or a path on the same host. A secure connection is not given up.
fn resolve(from: &str, to: &str) -> Option<String> {
    let base: Uri = from.parse().ok()?;
    if to.starts_with('/') && !to.starts_with("//") {
        return Some(format!("{}://{}{to}", base.scheme_str()?, base.authority()?));
    }
    let next: Uri = to.parse().ok()?;
    match (base.scheme_str()?, next.scheme_str()?) {
        (_, "https") | ("http", "http") => Some(to.to_owned()),
        _ => None,
    }
}

/// One component of a URL's path.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, b| {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(b as char),
            _ => out += &format!("%{b:02X}"),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_origin_is_scheme_host_and_port() {
        assert!(same_origin("https://hub.co", "https://HUB.co:443/x"));
        for other in ["http://hub.co/x", "https://hub.co:444/x", "https://hub.co.evil/x", "https://evil/hub.co", "x"] {
            assert!(!same_origin("https://hub.co", other), "{other}");
        }
    }

    #[test]
    fn redirects_lead_to_paths_and_urls_and_never_down_to_plain_http() {
        let from = "https://hub.co/a/b";
        assert_eq!(resolve(from, "/c?d"), Some("https://hub.co/c?d".into()));
        assert_eq!(resolve(from, "https://cdn/x"), Some("https://cdn/x".into()));
        for bad in ["http://cdn/x", "//cdn/x", "file:///etc/passwd", "c", ""] {
            assert_eq!(resolve(from, bad), None, "{bad}");
        }
        assert_eq!(resolve("http://127.0.0.1:1/a", "http://localhost:1/b"), Some("http://localhost:1/b".into()));
    }

    #[test]
    fn revisions_are_escaped() {
        assert_eq!(escaped("refs/pr/1 é"), "refs%2Fpr%2F1%20%C3%A9");
    }
}
