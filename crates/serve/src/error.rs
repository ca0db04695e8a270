//! What a client is told when something is wrong: the shape and the status codes of the OpenAI API. It knows no handler.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Seconds after which a client that met a full queue may try again.
pub const RETRY_AFTER_S: u64 = 1;

/// An error as the API reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub status: StatusCode,
    /// `type`: the class that clients map to an exception.
    pub kind: &'static str,
    pub code: Option<&'static str>,
    /// The field at fault.
    pub param: Option<String>,
    pub message: String,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, kind, code: None, param: None, message: message.into() }
    }

    fn code(mut self, code: &'static str) -> ApiError {
        self.code = Some(code);
        self
    }

    /// 400: the request itself is wrong.
    pub fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// 400 that names the field.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.into()), ..ApiError::invalid(message) }
    }

    /// 400: a prompt for which there is no room.
    pub fn too_long(param: &str, message: impl Into<String>) -> ApiError {
        ApiError::field(param, message).code("context_length_exceeded")
    }

    /// 400: an answer could not be kept to the form that was asked for.
    pub fn unmet() -> ApiError {
        let message = "the answer cannot be kept to the form that was asked for: its grammar has become too complex, or none of \
                       the model's tokens goes on; ask for a simpler one";
        ApiError::invalid(message).code("grammar_too_complex")
    }

    /// 401.
    pub fn key() -> ApiError {
        let message = "the API key is missing or wrong; send it as `Authorization: Bearer KEY`";
        ApiError::new(StatusCode::UNAUTHORIZED, "authentication_error", message).code("invalid_api_key")
    }

    /// 403: a page of another site, or a name that is not this machine's.
    pub fn origin(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    /// 404 for a model.
    pub fn model(asked: &str, served: &str) -> ApiError {
        let shown: String = asked.chars().take(100).collect();
        let message =
            format!("there is no model `{shown}` here; this server has `{served}`, and what /v1/models lists");
        let error = ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", message).code("model_not_found");
        ApiError { param: Some("model".into()), ..error }
    }

    /// 404 for a path.
    pub fn path() -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", "there is nothing at this path").code("not_found")
    }

    /// 404 for what this server could have and has not.
    pub fn not_here(message: impl Into<String>) -> ApiError {
        ApiError { message: message.into(), ..ApiError::path() }
    }

    /// 405.
    pub fn method() -> ApiError {
        let message = "this path is not for this method";
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message).code("method_not_allowed")
    }

    /// 408: a body that does not come.
    pub fn slow() -> ApiError {
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "the request's body did not arrive in time")
    }

    /// 413.
    pub fn body(limit: usize) -> ApiError {
        let message = format!("the request's body is larger than {limit} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// 429, with `Retry-After`.
    pub fn busy() -> ApiError {
        let message = "the queue is full; try again later";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message).code("queue_full")
    }

    /// 503: this server is about to end, or ended before the answer did.
    pub fn stopping(message: &str) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message).code("stopping")
    }

    /// 503: an answer took longer than a request may.
    pub fn timeout() -> ApiError {
        let message = "the answer took longer than a request may; ask for fewer tokens";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message).code("timeout")
    }

    /// 500: a fault of the server.
    pub fn internal(message: &str) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    pub fn json(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(&self.json());
        // For paths that say it otherwise.
        response.extensions_mut().insert(self.clone());
        *response.status_mut() = self.status;
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        response
    }
}

/// 200 with a JSON body.
pub fn json_response(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}
