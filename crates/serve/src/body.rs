//! The body of a request as JSON, within its limits: a small one is read at once, a large one beside the sockets' thread. It
//! knows no field.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::Request;
use serde_json::Value;

use crate::app::App;
use crate::error::ApiError;
use crate::texts::LARGE_BYTES;

pub const MAX_BODY_BYTES: usize = 8 << 20;
pub const MAX_DEPTH: usize = 64;

/// What `take` makes of a body. As an object, the body is gone afterwards: it has many times the bytes of its text.
///
/// # Errors
/// 413 for a body that is too large, 408 for one that does not come, 400 for one that is no JSON or nested too deep; those of
/// `take`.
pub async fn read<T: Send + 'static>(
    app: &Arc<App>,
    request: Request,
    take: impl FnOnce(&App, &Value) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let reading = to_bytes(request.into_body(), MAX_BODY_BYTES);
    let bytes = match tokio::time::timeout(app.limits.body, reading).await {
        Err(_) => return Err(ApiError::slow()),
        // The limit, or a connection that broke: then nobody reads the answer.
        Ok(Err(_)) => return Err(ApiError::body(MAX_BODY_BYTES)),
        Ok(Ok(bytes)) => bytes,
    };
    if bytes.len() < LARGE_BYTES {
        return parse(&bytes).and_then(|body| take(app, &body));
    }
    let of = app.clone();
    let taken = app.texts.run(bytes.len(), move || parse(&bytes).and_then(|body| take(&of, &body))).await;
    taken.ok_or_else(|| ApiError::internal("the body could not be read"))?
}

fn parse(text: &[u8]) -> Result<Value, ApiError> {
    if depth(text) > MAX_DEPTH {
        return Err(ApiError::invalid(format!("the body is nested deeper than {MAX_DEPTH} levels")));
    }
    serde_json::from_slice(text).map_err(|e| ApiError::invalid(format!("the body is no JSON: {e}")))
}

/// How deep lists and objects of a JSON text are nested.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0usize, 0, false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        for (text, deep) in [("1", 0), ("[]", 1), (r#"{"a": [[1], {"[[[\"{": 2}]}"#, 3), ("[[[", 3), ("]]][", 1)] {
            assert_eq!(depth(text.as_bytes()), deep, "{text}");
        }
    }
}
