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
use crate::access::{Audit, Caller, Denied, Policy, Token, TokenError, Tokens, Who};
use crate::api::{ApiError, ApiErrorKind};
use crate::clock;

/// Longest token that is looked at.
const MAX_TOKEN: usize = 256;

/// What decides about requests, and remembers changes.
#[derive(Debug)]
pub struct Guard {
    /// Who may do what.
    pub policy: Policy,
    /// The tokens of the folder with the certificates, if there is one.
    pub tokens: Option<Tokens>,
    /// The record of changes.
    pub audit: Arc<Audit>,
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
    match app.guard.policy.decide(need, &caller, token) {
        Ok(who) => {
            request.extensions_mut().insert(Asked { who, caller });
            next.run(request).await
        }
        Err(denied) => {
            tracing::warn!(from = %caller.from, %path, why = denied.text(), "request refused");
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
    let mut response = if paths::is_api(path) {
        Refused(ApiError::new(kind, line)).into_response()
    } else {
        text(answer::status_of(kind), line)
    };
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
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
