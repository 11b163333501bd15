//! Every request is let through, or told why not and what to do.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::answer::{Refused, text};
use super::router::App;
use super::{answer, paths};
use crate::access::{
    Audit, Caller, Denied, Need, Policy, Token, TokenError, Tokens, Way, Who, host,
};
use crate::api::{ApiError, ApiErrorKind};
use crate::clock;
use crate::seldom::Seldom;

/// Longest token that is looked at.
const MAX_TOKEN: usize = 256;

static REFUSED: Seldom = Seldom::new();

/// What decides about requests, and remembers changes.
#[derive(Debug)]
pub struct Guard {
    /// Who may do what.
    pub policy: Policy,
    /// The tokens of the folder with the certificates, if there is one.
    pub tokens: Option<Tokens>,
    /// The record of changes.
    pub audit: Arc<Audit>,
    /// The host in this node's address in the topology.
    pub host: String,
}

impl Guard {
    fn token(&self, headers: &HeaderMap) -> Option<Result<Token, TokenError>> {
        let shown = headers.get(header::AUTHORIZATION)?.to_str().ok().and_then(bearer);
        let known = |secret: &str| match &self.tokens {
            Some(tokens) => tokens.check(secret, clock::unix_seconds()),
            None => Err(TokenError::Unknown),
        };
        Some(shown.map_or(Err(TokenError::Unknown), known))
    }

    /// Whether a request names this node, as far as that matters for `need`.
    fn addressed(&self, need: Need, caller: &Caller, request: &Request) -> Result<(), ApiError> {
        if matches!(caller.way, Way::Socket { .. }) {
            return Ok(());
        }
        let host = host::named(request.version(), request.uri(), request.headers())
            .map_err(|line| ApiError::new(ApiErrorKind::BadRequest, line))?;
        match (host, need) {
            (Some(host), Need::Scope(_))
                if !self.policy.secured && !host::is_ours(host, &self.host) =>
            {
                let line = format!(
                    "this node has no certificates and does not answer to the name {}, which \
                     anybody could give to its address: use the address itself, or give the \
                     topology `pki:`",
                    answer::echo(host)
                );
                Err(ApiError::new(ApiErrorKind::Forbidden, line))
            }
            _ => Ok(()),
        }
    }

    /// Puts a change on record.
    pub(super) fn record(&self, asked: &Asked, what: &str, request: &str, result: &str) {
        let now = clock::wall().0;
        self.audit.record(now, &asked.who, &asked.caller, what, request, result);
    }
}

/// RFC 6750, section 2.1: `Bearer` in any case, a space, the token.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && token.len() <= MAX_TOKEN).then_some(token)
}

/// Who asks, and as whom; every request that gets through carries one.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) who: Who,
    pub(super) caller: Caller,
}

pub(super) async fn guarded(
    State(app): State<App>,
    caller: Option<Extension<Caller>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(path) = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_owned())
    else {
        // There is nothing there, and that may be said to everybody.
        return next.run(request).await;
    };
    // Whoever forgets to say by what way a request came gets what a stranger gets.
    let caller = caller.map_or_else(|| Caller::plain("?"), |Extension(c)| c);
    let (need, token) = (paths::need(&path), app.guard.token(request.headers()));
    if let Err(e) = app.guard.addressed(need, &caller, &request) {
        tracing::debug!(from = %caller.from, %path, why = e.text, "request refused");
        return said(&path, e);
    }
    match app.guard.policy.decide(need, &caller, token) {
        Ok(who) => {
            request.extensions_mut().insert(Asked { who, caller });
            next.run(request).await
        }
        Err(denied) => {
            if let Some(left_out) = REFUSED.turn() {
                let (from, why) = (&caller.from, denied.text());
                tracing::warn!(%from, %path, why, left_out, "request refused");
            }
            if paths::is_change(&path) {
                app.guard.audit.refused(clock::wall().0, &caller, &path, denied.text());
            }
            refuse(&path, denied)
        }
    }
}

fn refuse(path: &str, denied: Denied) -> Response {
    let (kind, challenge, line) = match denied {
        Denied::NoProof(t) => (ApiErrorKind::Unauthorized, "Bearer realm=\"rcp\"", t),
        Denied::BadToken(t) => {
            (ApiErrorKind::Unauthorized, "Bearer realm=\"rcp\", error=\"invalid_token\"", t)
        }
        Denied::Scope(t) => {
            (ApiErrorKind::Forbidden, "Bearer realm=\"rcp\", error=\"insufficient_scope\"", t)
        }
    };
    let mut response = said(path, ApiError::new(kind, line));
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

/// An error in the form of the path: JSON for the API, else a line.
fn said(path: &str, e: ApiError) -> Response {
    if paths::is_api(path) {
        Refused(e).into_response()
    } else {
        text(answer::status_of(e.kind), e.text)
    }
}

#[cfg(test)]
mod tests {
    use super::bearer;

    #[test]
    fn tokens_are_found_in_the_header() {
        assert_eq!(bearer("Bearer rcp_1"), Some("rcp_1"));
        assert_eq!(bearer("bearer  rcp_1 "), Some("rcp_1"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("Bearer"), None);
        assert_eq!(bearer(&format!("Bearer {}", "x".repeat(300))), None);
    }
}
