//! Which path does what. The Unix socket and the shared port serve the same paths; what a caller may
//! do there is decided before any of them is reached (`guard`).

use std::sync::Arc;

use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::{Refused, echo, json, text, typed};
use super::guard::{Guard, guarded};
use super::limits::{MAX_VOLUME_READS, STATUS};
use super::upgrade::{self, Upgrades};
use super::{control, dashboard, paths, volume};
use crate::access::Caller;
use crate::api::{ApiError, ApiErrorKind, NodeApi, NodeStatus};
use crate::metrics::{self, Metrics};

/// The services of a node. Cloning is cheap; they share the bound on volume reads.
#[derive(Clone, Debug)]
pub struct Routers {
    all: Router,
}

impl Routers {
    /// The service for one connection.
    pub fn caller(&self, caller: Caller) -> Router {
        self.all.clone().layer(Extension(caller))
    }
}

/// What a handler works with.
#[derive(Clone)]
pub(super) struct App {
    pub(super) api: Arc<dyn NodeApi>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) reads: Arc<Semaphore>,
    pub(super) guard: Arc<Guard>,
    pub(super) upgrades: Option<Upgrades>,
}

/// Builds the services of a node.
#[must_use]
pub fn routers(api: Arc<dyn NodeApi>, metrics: Arc<Metrics>, guard: Guard) -> Routers {
    routers_with(api, metrics, guard, None)
}

/// [`routers`], with somebody who takes sessions that begin as HTTP requests.
#[must_use]
pub fn routers_with(
    api: Arc<dyn NodeApi>,
    metrics: Arc<Metrics>,
    guard: Guard,
    upgrades: Option<Upgrades>,
) -> Routers {
    let reads_at_a_time = Arc::new(Semaphore::new(MAX_VOLUME_READS));
    let app = App { api, metrics, reads: reads_at_a_time, guard: Arc::new(guard), upgrades };
    let all = reads()
        .route(paths::ROUTES, get(control::routes))
        .route(paths::ROUTE_ADD, post(control::route_add))
        .route(paths::ROUTE_DELETE, post(control::route_delete))
        .route(paths::CHANGES, get(control::changes))
        .route(paths::CUT, post(control::cut))
        .route(paths::KEEP, post(control::keep))
        .route(paths::RELEASE, post(control::release))
        .route(paths::REPLICATE, post(control::replicate))
        .route(paths::SEED, post(control::seed))
        .route(paths::DETACH, post(control::detach))
        .route(paths::POLICY, post(control::policy))
        .route(paths::VIEWS, post(control::views))
        .route(paths::VOLUME_CREATE, post(control::volume_create))
        .route(paths::VOLUME_RESIZE, post(control::volume_resize))
        .route(paths::VOLUME_RENAME, post(control::volume_rename))
        .route(paths::VOLUME_DELETE, post(control::volume_delete))
        .route(paths::VOLUME_MOVE, post(control::volume_move))
        .route(paths::WRITER, post(control::writer))
        .route(paths::HASH, post(control::hash))
        .route(paths::BLOCK_SEND, post(control::block_send))
        .route(paths::TOPOLOGY, post(control::topology))
        .route(paths::GROUP, post(control::group))
        .route(paths::RETIRE, post(control::retire))
        .route(paths::SHUTDOWN, post(control::shutdown));
    Routers { all: finished(all, app) }
}

fn reads() -> Router<App> {
    Router::new()
        .route(paths::METRICS, get(scrape))
        .route(paths::HEALTHZ, get(async || text(StatusCode::OK, "ok")))
        .route(paths::READYZ, get(ready))
        .route(paths::WRITES, get(writes))
        .route(paths::SHOWS, get(shows))
        .route(paths::DASHBOARD, get(dashboard::page))
        .route(paths::STATUS, get(status))
        .route(paths::VOLUME, get(volume::read))
        .route(paths::RCP, get(upgrade::session))
}

fn finished(router: Router<App>, app: App) -> Router {
    router
        .fallback(async |method: Method, uri: Uri, headers: HeaderMap| {
            dashboard::instead(&method, &uri, &headers).unwrap_or_else(|| unknown(uri.path()))
        })
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), guarded))
        .layer(from_fn(counted))
        .with_state(app)
}

/// Counts every request by path and status; both are from fixed lists.
async fn counted(request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_owned());
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = next.run(request).await;
    let status = response.status();
    metrics::http_request(matched.as_deref().unwrap_or("unknown"), status.as_u16());
    tracing::debug!(%method, path = echo(uri.path()), status = status.as_u16(), "HTTP request");
    response
}

fn unknown(path: &str) -> Response {
    let line = format!("there is nothing at {}; there is:\n{}", echo(path), paths::listing());
    if paths::is_api(path) {
        Refused(ApiError::new(ApiErrorKind::NotFound, line)).into_response()
    } else {
        text(StatusCode::NOT_FOUND, line)
    }
}

/// The `Allow` header is the router's.
async fn wrong_method(method: Method, path: MatchedPath) -> Response {
    let path = path.as_str();
    let takes =
        paths::READS.iter().chain(paths::CONTROL).find(|e| e.0 == path).map_or("GET", |e| e.1);
    let line = format!("{path} takes {takes}, not {}", echo(method.as_str()));
    if paths::is_api(path) {
        let error = ApiError::new(ApiErrorKind::BadRequest, line);
        json(StatusCode::METHOD_NOT_ALLOWED, &error)
    } else {
        text(StatusCode::METHOD_NOT_ALLOWED, line)
    }
}

async fn describe(app: &App) -> Result<NodeStatus, ApiError> {
    timeout(STATUS, app.api.status()).await.unwrap_or_else(|_| {
        let line = format!("the node did not describe itself within {} s", STATUS.as_secs());
        Err(ApiError::new(ApiErrorKind::Unavailable, line))
    })
}

async fn status(State(app): State<App>) -> Response {
    match describe(&app).await {
        Ok(status) => json(StatusCode::OK, &status),
        Err(e) => Refused(e).into_response(),
    }
}

async fn ready(State(app): State<App>) -> Response {
    match app.api.ready() {
        Ok(()) => text(StatusCode::OK, "ready"),
        Err(missing) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}")),
    }
}

/// For whatever sends clients to the writer. Strangers may ask: who asks for a volume that is not
/// here learns no more than who asks for one that is written elsewhere.
async fn writes(State(app): State<App>, Path(name): Path<String>) -> Response {
    let name = echo(&name);
    if app.api.writes(&name) {
        return text(StatusCode::OK, format!("{name} takes writes here"));
    }
    let line = format!("{name} takes no writes here: another node writes it, or there is none");
    text(StatusCode::SERVICE_UNAVAILABLE, line)
}

/// The same for readers of replicas.
async fn shows(State(app): State<App>, Path(name): Path<String>) -> Response {
    let name = echo(&name);
    if app.api.shows(&name) {
        return text(StatusCode::OK, format!("{name} can be read here"));
    }
    let line = format!(
        "{name} cannot be read here: this node writes it, its replica has nothing to show now, or \
         there is none"
    );
    text(StatusCode::SERVICE_UNAVAILABLE, line)
}

async fn scrape(State(app): State<App>) -> Response {
    let status = match describe(&app).await {
        Ok(status) => status,
        Err(e) => return text(super::answer::status_of(e.kind), e.text),
    };
    let metrics = app.metrics;
    match tokio::task::spawn_blocking(move || metrics.render(&status)).await {
        Ok(body) => typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body.into()),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot render metrics: {e}")),
    }
}
