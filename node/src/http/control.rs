//! The changes: JSON in, JSON out; each is put on record with who asked for it.
//!
//! A change that has begun runs to its end even if the client goes away: otherwise an operator's
//! Ctrl-C would leave it half done.

use std::future::Future;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::answer::{Refused, json};
use super::guard::Asked;
use super::limits::{BODY_READ, MAX_BODY_BYTES, MAX_TOPOLOGY_BYTES};
use super::requests::{
    Block, Cut, Delete, Detach, Done, GroupDefinition, Hash, KeptState, Nothing, Policy, Rename,
    Replicate, Resize, RouteAdd, RouteDelete, Seed, TopologyText, Views,
};
use super::router::App;
use crate::api::{ApiError, ApiErrorKind, NodeApi, VolumeSpec, WriterChange};
use crate::shift::Step;

/// The body of a request as a value, within the limits of time and length.
async fn read<T: DeserializeOwned>(request: Request<Body>) -> Result<T, Refused> {
    let bad = |text: String| Refused(ApiError::new(ApiErrorKind::BadRequest, text));
    let topology = request.uri().path() == super::paths::TOPOLOGY;
    let most = if topology { MAX_TOPOLOGY_BYTES } else { MAX_BODY_BYTES };
    let body = Limited::new(request.into_body(), most);
    let body = tokio::time::timeout(BODY_READ, body.collect())
        .await
        .map_err(|_| bad(format!("the body did not arrive within {} s", BODY_READ.as_secs())))?
        .map_err(|e| bad(format!("the body could not be read: {e} (at most {most} bytes)")))?
        .to_bytes();
    serde_json::from_slice(&body).map_err(|e| bad(format!("the body is not what is expected: {e}")))
}

/// Runs a change on a task of its own.
async fn to_the_end<T, F>(change: F) -> Result<T, Refused>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ApiError>> + Send + 'static,
{
    match tokio::spawn(change).await {
        Ok(result) => result.map_err(Refused),
        Err(e) => Err(Refused(ApiError::new(
            ApiErrorKind::Internal,
            format!("the change ended early: {e}"),
        ))),
    }
}

fn answer<T: Serialize>(result: Result<T, Refused>) -> Response {
    match result {
        Ok(value) => json(StatusCode::OK, &value),
        Err(refused) => refused.into_response(),
    }
}

fn done(result: Result<(), Refused>) -> Response {
    answer(result.map(|()| Done { done: true }))
}

/// A request as it goes on record: what was sent, but for the bytes of a block or file.
fn on_record<T: Serialize>(request: &T) -> String {
    let mut value = serde_json::to_value(request).unwrap_or_default();
    for (key, per_byte) in [("data", 2), ("text", 1)] {
        if let Some(serde_json::Value::String(text)) = value.get_mut(key) {
            *text = format!("{} bytes", text.len() / per_byte);
        }
    }
    value.to_string()
}

/// Reads the body and runs `change` with it.
macro_rules! change {
    ($(#[$doc:meta])* $name:ident, $body:ty, $answer:ident, |$api:ident, $q:ident| $call:expr) => {
        $(#[$doc])*
        pub(super) async fn $name(
            State(app): State<App>,
            Extension(asked): Extension<Asked>,
            request: Request<Body>,
        ) -> Response {
            let $q: $body = match read(request).await {
                Ok(body) => body,
                Err(refused) => return refused.into_response(),
            };
            let request = on_record(&$q);
            tracing::info!(change = stringify!($name), request, who = asked.who.0, "asked");
            let $api: Arc<dyn NodeApi> = app.api;
            let guard = app.guard;
            let result = to_the_end(async move {
                let result = $call.await;
                let text = result.as_ref().map_or_else(|e| e.text.as_str(), |_| "done");
                guard.record(&asked, stringify!($name), &request, text);
                result
            });
            $answer(result.await)
        }
    };
}

change!(cut, Cut, answer, |api, q| api.cut(&q.volume, q.keep));
change!(keep, KeptState, done, |api, q| api.keep(&q.volume, q.set));
change!(release, KeptState, done, |api, q| api.release(&q.volume, q.set));
change!(volume_create, VolumeSpec, answer, |api, q| api.volume_create(q));
change!(volume_resize, Resize, done, |api, q| api.volume_resize(&q.volume, q.size));
change!(volume_rename, Rename, done, |api, q| api.volume_rename(&q.volume, &q.label));
change!(volume_delete, Delete, done, |api, q| api.volume_delete(&q.volume));
change!(volume_move, Step, answer, |api, q| api.volume_move(q));
change!(replicate, Replicate, done, |api, q| api.replicate(&q.volume, q.on));
change!(detach, Detach, done, |api, q| api.detach(&q.volume, &q.child));
change!(seed, Seed, done, |api, q| api.seed(&q.volume, &q.child));
change!(policy, Policy, done, |api, q| api.policy(&q.volume, q.change));
change!(views, Views, done, |api, q| api.views(&q.volume, q.open));
change!(writer, WriterChange, answer, |api, q| api.writer(q));
change!(hash, Hash, answer, |api, q| {
    api.hash(&q.volume, q.set, q.len, std::time::Duration::from_secs(q.wait_s))
});
change!(block_send, Block, answer, |api, q| async move {
    let order = q.order().map_err(|e| ApiError::new(ApiErrorKind::BadRequest, e))?;
    api.block_send(order).await
});
change!(topology, TopologyText, answer, |api, q| api.topology(q.text));
change!(group, GroupDefinition, done, |api, q| api.group_define(q.group, q.definition));
change!(retire, Nothing, done, |api, q| async move {
    let Nothing {} = q;
    api.retire().await
});
change!(route_add, RouteAdd, answer, |api, q| api.route_add(
    &q.group,
    &q.next_hop,
    &q.by,
    q.unasked
));
change!(route_delete, RouteDelete, answer, |api, q| {
    api.route_delete(q.group.as_deref(), q.next_hop.as_deref())
});

/// What may follow the `?` of the routing table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfGroup {
    group: Option<String>,
}

pub(super) async fn routes(
    State(app): State<App>,
    query: Result<Query<OfGroup>, QueryRejection>,
) -> Response {
    let group = match query {
        Ok(Query(q)) => q.group,
        Err(e) => {
            let text = format!("{}; only ?group=GROUP is understood", e.body_text());
            return Refused(ApiError::new(ApiErrorKind::BadRequest, text)).into_response();
        }
    };
    answer(app.api.routes(group.as_deref()).await.map_err(Refused))
}

/// What may follow the `?` of the changed blocks.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Between {
    volume: String,
    since: Option<String>,
    state: String,
    #[serde(default)]
    from: u64,
}

pub(super) async fn changes(
    State(app): State<App>,
    query: Result<Query<Between>, QueryRejection>,
) -> Response {
    let q = match query {
        Ok(Query(q)) => q,
        Err(e) => {
            let text = format!(
                "{}; ?volume=NAME&state=SET is needed, &since=SET and &from=BLOCK are understood",
                e.body_text()
            );
            return Refused(ApiError::new(ApiErrorKind::BadRequest, text)).into_response();
        }
    };
    answer(app.api.changes(&q.volume, q.since.as_deref(), &q.state, q.from).await.map_err(Refused))
}

pub(super) async fn shutdown(
    State(app): State<App>,
    Extension(asked): Extension<Asked>,
) -> Response {
    tracing::info!(who = asked.who.0, "shutdown asked");
    app.guard.record(&asked, "shutdown", "", "done");
    app.api.shutdown();
    done(Ok(()))
}
