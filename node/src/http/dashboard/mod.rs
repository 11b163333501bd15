//! The page that an operator opens: one HTML file with its style and script inside, the same for
//! everybody. It carries nothing of the node; what it shows it reads from the API, as whoever
//! opened it.
//!
//! The files beside this one are put together when the program is built. The browser is told the
//! hash of the one style and the one script that may run, and that nothing else may be loaded,
//! framed, posted to or parsed as HTML (Content Security Policy Level 3, Trusted Types).

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;

use super::answer::{text, typed};
use super::paths;
use super::router::App;
use crate::access::{Caller, Way};

/// Between the tags of the page.
const STYLE: &str = include_str!("page.css");

/// Rooms of the script; the last one starts it.
macro_rules! script {
    () => {
        concat!(
            "\"use strict\";\n",
            include_str!("words.js"),
            include_str!("dom.js"),
            include_str!("plot.js"),
            include_str!("problems.js"),
            include_str!("tree.js"),
            include_str!("volumes.js"),
            include_str!("page.js"),
            include_str!("start.js"),
        )
    };
}

const SCRIPT: &str = script!();

/// The whole page.
const PAGE: &str = concat!(
    include_str!("head.html"),
    "<style>",
    include_str!("page.css"),
    "</style>\n</head>\n",
    include_str!("body.html"),
    "<script>",
    script!(),
    "</script>\n</body>\n</html>\n",
);

/// What the browser may do with it.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| policy().parse().ok());

fn policy() -> String {
    let hash = |part: &str| base64(digest(&SHA256, part.as_bytes()).as_ref());
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |n: u32, at: u32| char::from(DIGITS[(n >> at & 63) as usize]);
    let mut out = String::new();
    for part in bytes.chunks(3) {
        let at = |i: usize| u32::from(part.get(i).copied().unwrap_or(0));
        let n = at(0) << 16 | at(1) << 8 | at(2);
        out.extend([digit(n, 18), digit(n, 12)]);
        out.push(if part.len() > 1 { digit(n, 6) } else { '=' });
        out.push(if part.len() > 2 { digit(n, 0) } else { '=' });
    }
    out
}

/// The page, for everybody who may connect: there is nothing in it that the program does not carry
/// everywhere. Where tokens are wanted it is served over TLS only, so that none is typed into a page
/// that somebody on the way could have changed.
pub(super) async fn page(
    State(app): State<App>,
    caller: Option<Extension<Caller>>,
    headers: HeaderMap,
) -> Response {
    let plain = caller.is_none_or(|Extension(c)| c.way == Way::Plain);
    if app.guard.policy.secured && plain {
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).filter(|h| is_host(h));
        return match host {
            Some(host) => moved(&format!("https://{host}{}", paths::DASHBOARD)),
            None => text(StatusCode::BAD_REQUEST, "this port speaks HTTPS: write https://"),
        };
    }
    let mut response = typed(StatusCode::OK, "text/html; charset=utf-8", PAGE.into());
    let headers = response.headers_mut();
    if let Some(policy) = POLICY.clone() {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Where a browser that asks for `/` goes; `None`: it is not a browser, or asks for something else.
pub(super) fn instead(method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Response> {
    let reads = method == Method::GET || method == Method::HEAD;
    let wants = |h: &HeaderValue| h.to_str().is_ok_and(|h| h.contains("text/html"));
    let browser = headers.get_all(header::ACCEPT).iter().any(wants);
    (reads && uri.path() == "/" && browser).then(|| moved(paths::DASHBOARD))
}

fn moved(to: &str) -> Response {
    let mut response = text(StatusCode::TEMPORARY_REDIRECT, format!("the dashboard is at {to}"));
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

/// A name or address with a port, and nothing that would be something else in a URL.
fn is_host(host: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    !host.is_empty() && host.len() <= 255 && host.chars().all(part)
}

#[cfg(test)]
mod tests;
