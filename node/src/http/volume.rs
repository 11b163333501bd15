//! `GET /v1/volumes/NAME`: the bytes of one state of a volume.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::answer::{status_of, text};
use super::body::StateBody;
use super::condition::{Conditions, Verdict};
use super::limits::MAX_VOLUME_READS;
use super::range::{Selection, select};
use super::router::App;
use crate::api::{ApiError, ApiErrorKind};

/// What may follow the `?`. Anything else is refused: a mistyped `state` would read another one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    state: Option<String>,
}

/// A refusal of a volume read, as a line of text.
struct NotRead(ApiError);

impl IntoResponse for NotRead {
    fn into_response(self) -> Response {
        text(status_of(self.0.kind), self.0.text)
    }
}

pub(super) async fn read(
    State(app): State<App>,
    method: Method,
    Path(name): Path<String>,
    query: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    match answer(app, &method, &name, query, &headers).await {
        Ok(response) => response,
        Err(refused) => refused.into_response(),
    }
}

async fn answer(
    app: App,
    method: &Method,
    name: &str,
    query: Result<Query<Wanted>, QueryRejection>,
    headers: &HeaderMap,
) -> Result<Response, NotRead> {
    let Query(wanted) = query.map_err(|e| {
        let text = format!("{}; only ?state=SET or ?state=STATE-ID is understood", e.body_text());
        NotRead(ApiError::new(ApiErrorKind::BadRequest, text))
    })?;
    let permit = std::sync::Arc::clone(&app.reads).try_acquire_owned().map_err(|_| {
        let text = format!(
            "{MAX_VOLUME_READS} volume reads are being served, which is the limit: try again"
        );
        NotRead(ApiError::new(ApiErrorKind::Unavailable, text))
    })?;
    let reader = app.api.open_state(name, wanted.state.as_deref()).await.map_err(NotRead)?;
    let (size, state) = (reader.size(), reader.state_id());
    let state = state.as_deref();

    let (if_match, if_none_match) =
        (all(headers, &header::IF_MATCH), all(headers, &header::IF_NONE_MATCH));
    let if_range = all(headers, &header::IF_RANGE);
    let conditions = Conditions {
        if_match: if_match.as_deref(),
        if_none_match: if_none_match.as_deref(),
        if_range: if_range.as_deref(),
    };
    match conditions.check(state) {
        Verdict::Go => {}
        Verdict::NotModified => {
            return Ok(described(StatusCode::NOT_MODIFIED, Body::empty(), state));
        }
        Verdict::Failed => {
            let now = match state {
                Some(id) => format!("is at state \"{id}\""),
                None => "has no fixed state here (it is being written)".to_owned(),
            };
            let line = format!(
                "`{name}` {now}, which If-Match does not name: begin again, or ask for the old \
                 state with ?state= if it is kept"
            );
            return Ok(tagged(text(StatusCode::PRECONDITION_FAILED, line), state));
        }
    }

    // Range is defined for GET only (RFC 9110, 14.2).
    let range = all(headers, &header::RANGE)
        .filter(|_| *method == Method::GET && conditions.range_counts(state));
    let (status, first, end) = match select(range.as_deref(), size) {
        Selection::Whole => (StatusCode::OK, 0, size),
        Selection::Part { first, end } => (StatusCode::PARTIAL_CONTENT, first, end),
        Selection::Refused(why) => {
            let asked = super::answer::echo(range.as_deref().unwrap_or_default());
            let line = format!("`{name}` has {size} bytes; the range `{asked}` is refused: {why}");
            let mut response = tagged(text(StatusCode::RANGE_NOT_SATISFIABLE, line), state);
            insert(&mut response, header::CONTENT_RANGE, &format!("bytes */{size}"));
            return Ok(response);
        }
    };
    let body = if *method == Method::HEAD {
        Body::empty()
    } else {
        Body::new(StateBody::open(reader.clone(), first, end, permit).await.map_err(NotRead)?)
    };
    let mut response = described(status, body, state);
    insert(&mut response, header::CONTENT_LENGTH, &(end - first).to_string());
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {first}-{}/{size}", end - 1);
        insert(&mut response, header::CONTENT_RANGE, &range);
    }
    Ok(response)
}

/// All lines of one header, joined.
fn all(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<_> =
        headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

fn described(status: StatusCode, body: Body, state: Option<&str>) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    insert(&mut response, header::CONTENT_TYPE, "application/octet-stream");
    insert(&mut response, header::ACCEPT_RANGES, "bytes");
    // Whoever keeps a copy asks again with If-None-Match before using it.
    insert(&mut response, header::CACHE_CONTROL, "no-cache");
    tagged(response, state)
}

fn tagged(mut response: Response, state: Option<&str>) -> Response {
    if let Some(id) = state {
        insert(&mut response, header::ETAG, &format!("\"{id}\""));
    }
    response
}

fn insert(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
