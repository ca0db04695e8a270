//! The body of a request as JSON, within its limits. It knows no field.

use axum::body::to_bytes;
use axum::extract::Request;
use serde_json::Value;

use crate::error::ApiError;
use crate::limits::Limits;

pub const MAX_BODY_BYTES: usize = 8 << 20;
pub const MAX_DEPTH: usize = 64;

/// # Errors
/// 413 for a body that is too large, 408 for one that does not come, 400 for one that is no JSON or nested too deep.
pub async fn read(request: Request) -> Result<Value, ApiError> {
    let patience = request.extensions().get().copied().unwrap_or(Limits::default()).body;
    let reading = to_bytes(request.into_body(), MAX_BODY_BYTES);
    let bytes = match tokio::time::timeout(patience, reading).await {
        Err(_) => return Err(ApiError::slow()),
        // The limit, or a connection that broke: then nobody reads the answer.
        Ok(Err(_)) => return Err(ApiError::body(MAX_BODY_BYTES)),
        Ok(Ok(bytes)) => bytes,
    };
    if depth(&bytes) > MAX_DEPTH {
        return Err(ApiError::invalid(format!("the body is nested deeper than {MAX_DEPTH} levels")));
    }
    serde_json::from_slice(&bytes).map_err(|e| ApiError::invalid(format!("the body is no JSON: {e}")))
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
