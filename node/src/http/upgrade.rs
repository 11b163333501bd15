//! A session that begins as an HTTP request: `Upgrade: RCP/1.0` (RFC 9110, section 7.8), for ways
//! that only HTTP passes. What comes after `101` is none of HTTP's business.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use rcp::proto::ids::GroupName;

use super::answer::{echo, text};
use super::router::App;

/// The protocol's name in the header.
const RCP: &str = "RCP/1.0";

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub struct From(pub SocketAddr);

/// Takes connections that are about to become sessions.
pub type Upgrades = Arc<dyn Fn(GroupName, SocketAddr, OnUpgrade) + Send + Sync>;

fn lists(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|v| v.trim().eq_ignore_ascii_case(word))
}

pub(super) async fn session(
    State(app): State<App>,
    Path(group): Path<String>,
    from: Option<Extension<From>>,
    mut request: Request,
) -> Response {
    let Ok(group) = GroupName::new(&group) else {
        let line = format!("{} is no name of a group", echo(&group));
        return text(StatusCode::NOT_FOUND, line);
    };
    let headers = request.headers();
    let asked = lists(headers, UPGRADE, RCP) && lists(headers, CONNECTION, "upgrade");
    let taken = (app.upgrades, from, request.extensions_mut().remove::<OnUpgrade>());
    let ((Some(upgrades), Some(Extension(From(from))), Some(on)), true) = (taken, asked) else {
        let line = format!("this is where sessions begin: ask with `Upgrade: {RCP}` on HTTP/1.1");
        let mut no = text(StatusCode::UPGRADE_REQUIRED, line);
        no.headers_mut().insert(UPGRADE, axum::http::HeaderValue::from_static(RCP));
        return no;
    };
    upgrades(group, from, on);
    let head = [(CONNECTION, "upgrade"), (UPGRADE, RCP)];
    (StatusCode::SWITCHING_PROTOCOLS, head, Body::empty()).into_response()
}
