//! Refusals as HTTP: one status per kind; JSON for the API, a line of text for everything else.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::limits::MAX_ECHO;
use crate::api::{ApiError, ApiErrorKind};

/// The status of a kind of refusal.
pub(crate) fn status_of(kind: ApiErrorKind) -> StatusCode {
    match kind {
        ApiErrorKind::NotFound => StatusCode::NOT_FOUND,
        ApiErrorKind::BadRequest => StatusCode::BAD_REQUEST,
        ApiErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
        ApiErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ApiErrorKind::Conflict | ApiErrorKind::Declined | ApiErrorKind::Fed => StatusCode::CONFLICT,
        ApiErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ApiErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A refusal of the API: `{"kind":…,"text":…}`.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) ApiError);

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = status_of(self.0.kind);
        let mut response = json(status, &self.0);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// A value as JSON, with a newline for whoever reads it in a terminal.
pub(crate) fn json<T: serde::Serialize>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            typed(status, "application/json", body)
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write JSON: {e}")),
    }
}

/// A line of text.
pub(crate) fn text(status: StatusCode, line: impl Into<String>) -> Response {
    let mut line: String = line.into();
    if !line.ends_with('\n') {
        line.push('\n');
    }
    let mut response = typed(status, "text/plain; charset=utf-8", line.into_bytes());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

pub(crate) fn typed(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A part of the request, safe to repeat: short, and without control characters.
pub(crate) fn echo(part: &str) -> String {
    let mut out: String =
        part.chars().take(MAX_ECHO).map(|c| if c.is_control() { '?' } else { c }).collect();
    if part.chars().nth(MAX_ECHO).is_some() {
        out.push('…');
    }
    out
}
